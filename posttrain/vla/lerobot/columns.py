"""Columns of a frame: declared, typed and filled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode
from posttrain.vla.lerobot.info import (
    ACTION,
    DONE,
    FIXED,
    IMAGES,
    NUMBERS,
    REWARD,
    SEED,
    STATE,
    SUCCESS,
    Feature,
)


def features_of(demonstrations: Demonstrations) -> dict[str, Feature]:
    """Declare the columns of D, cameras first.

    Raises:
        DemonstrationsError: a type or shape that the format has no place for.
    """
    d = demonstrations
    found: dict[str, Feature] = {}
    for camera, shape in d.pictures.shapes.items():
        if shape[2] not in {1, 3}:
            raise DemonstrationsError(
                f"{d.name}: camera {camera}: the format holds 1 or 3 channels, got {shape[2]}"
            )
        names = ["height", "width", "channels"]
        found[IMAGES + camera] = Feature(dtype="image", shape=shape, names=names)
    if d.states is not None:
        found[STATE] = _vector(d.states, f"{d.name}: states")
    found[ACTION] = _vector(d.actions, f"{d.name}: actions")
    if d.rewards is not None:
        found[REWARD] = _vector(d.rewards, f"{d.name}: rewards")
    found[DONE] = Feature(dtype="bool", shape=(1,))
    if all(episode.success is not None for episode in d.episodes):
        found[SUCCESS] = Feature(dtype="bool", shape=(1,))
    if any(episode.seed is not None for episode in d.episodes):
        found[SEED] = Feature(dtype="int64", shape=(1,))
    return {**found, **FIXED}


def _vector(values: npt.NDArray[Any], where: str) -> Feature:
    if values.ndim not in {1, 2} or values.dtype.name not in NUMBERS:
        raise DemonstrationsError(
            f"{where}: wanted numbers of shape [n] or [n, size], got {values.dtype} of "
            f"{list(values.shape)}"
        )
    size = 1 if values.ndim == 1 else values.shape[1]
    return Feature(dtype=values.dtype.name, shape=(size,))


def numbers_of(
    demonstrations: Demonstrations,
    features: Mapping[str, Feature],
    episode: Episode,
    *,
    number: int,
    begin: int,
    task: int,
) -> dict[str, npt.NDArray[Any]]:
    """Columns of one episode's frames that are no pictures, `[length]` or `[length, size]`."""
    d, rows = demonstrations, slice(episode.begin, episode.begin + episode.length)
    count = np.arange(episode.length)
    last = count == episode.length - 1
    found: dict[str, npt.NDArray[Any]] = {
        ACTION: d.actions[rows],
        DONE: last,
        SUCCESS: last & bool(episode.success),
        SEED: np.full(episode.length, -1 if episode.seed is None else episode.seed, np.int64),
        "timestamp": (count / d.fps).astype(np.float32),
        "frame_index": count.astype(np.int64),
        "episode_index": np.full(episode.length, number, np.int64),
        "index": (begin + count).astype(np.int64),
        "task_index": np.full(episode.length, task, np.int64),
    }
    if d.states is not None:
        found[STATE] = d.states[rows]
    if d.rewards is not None:
        found[REWARD] = d.rewards[rows]
    return {
        name: found[name].reshape(-1) if feature.shape == (1,) else found[name]
        for name, feature in features.items()
        if feature.dtype != "image"
    }


def frame_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Arrow types of the columns, with the note by which `datasets` knows pictures."""
    fields = [(name, arrow_type(feature)) for name, feature in features.items()]
    notes = {name: _note(feature) for name, feature in features.items()}
    huggingface = json.dumps({"info": {"features": notes}})
    return pa.schema(fields, metadata={"huggingface": huggingface})


def arrow_type(feature: Feature) -> pa.DataType:
    """How a column of numbers, texts or pictures is stored."""
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = pa.bool_() if feature.dtype == "bool" else pa.type_for_alias(feature.dtype)
    return kind if feature.shape == (1,) else pa.list_(kind, feature.shape[0])


def _note(feature: Feature) -> dict[str, Any]:
    if feature.dtype == "image":
        return {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    if feature.shape == (1,):
        return value
    return {"feature": value, "length": feature.shape[0], "_type": "List"}


def tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """The table of tasks, whose index, as pandas understands it, is the text."""
    index = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object",
             "metadata": None}  # fmt: skip
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64",
              "numpy_type": "int64", "metadata": None}  # fmt: skip
    header = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
              "metadata": {"encoding": "UTF-8"}}  # fmt: skip
    notes = {
        "index_columns": ["task"],
        "column_indexes": [header],
        "columns": [column, index],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(notes)}
    )
    return pa.Table.from_pydict(
        {"task_index": list(tasks.values()), "task": list(tasks)}, schema=schema
    )
