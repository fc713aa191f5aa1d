"""A LeRobot dataset as D: numbers at once, pictures when asked."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode, Origin
from posttrain.vla.lerobot.info import (
    ACTION,
    REWARD,
    SEED,
    STATE,
    SUCCESS,
    Feature,
    Info,
    read_info,
)
from posttrain.vla.lerobot.layout import Place, read_places, read_table, read_tasks
from posttrain.vla.lerobot.stored import StoredPictures
from posttrain.vla.lerobot.write import NOTES
from posttrain.vla.roles import cameras

SUCCESSES: Final = (SUCCESS, "success", "is_success")
Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Source:
    """One dataset and which of its columns is what."""

    folder: Path
    info: Info
    places: Sequence[Place]
    columns: Mapping[str, str]

    def named(self, role: str, *usual: str) -> str | None:
        """The column of a role: as the recipe says, or one of the usual names.

        Raises:
            DemonstrationsError: the recipe names a column that is not there.
        """
        if (said := self.columns.get(role)) is None:
            return next((name for name in usual if name in self.info.features), None)
        if said not in self.info.features and not any(said in place.row for place in self.places):
            raise DemonstrationsError(
                f"data.columns.{role}: {self.folder} has no column {said!r}; it has "
                f"{', '.join(self.info.features)}"
            )
        return said


def read(folder: Path, columns: Mapping[str, str] | None = None) -> Demonstrations:
    """Open a dataset of v3.0 or v2.1.

    Args:
        folder: the dataset.
        columns: what D names otherwise: `action`, `state`, `reward`, `success`, `seed` and
            `instruction`; any other key is a camera. Cameras that are named leave the others out.

    Raises:
        DemonstrationsError: the dataset cannot be read, or lacks a column.
    """
    info = read_info(folder)
    places = _renumbered(read_places(folder, info))
    source = _Source(folder, info, places, dict(columns or {}))
    views = _cameras(source)
    action = source.named("action", ACTION)
    if action is None:
        raise DemonstrationsError(
            f"{folder}: has no column '{ACTION}'; data.columns.action names another"
        )
    state = source.named("state", STATE)
    frames = _frame_columns(source, action, state)
    notes = _notes(folder)
    left = [n for n, f in info.features.items() if f.depth]
    about = {**notes.get("about", {}), **({"left out (depth maps)": left} if left else {})}
    reward = frames.get(source.named("reward", REWARD) or "")
    return Demonstrations(
        name=notes.get("name", folder.name),
        episodes=_episodes(source, frames),
        actions=_actions(frames[action]),
        pictures=StoredPictures(folder, places, views, fps=info.fps),
        states=None if state is None else _table(frames[state]).astype(np.float32, copy=False),
        rewards=None if reward is None else reward.reshape(-1).astype(np.float32, copy=False),
        fps=info.fps,
        about=about,
    )


def _renumbered(places: Sequence[Place]) -> list[Place]:
    ends = np.cumsum([place.length for place in places]).tolist()
    return [
        replace(place, begin=end - place.length) for place, end in zip(places, ends, strict=True)
    ]


def _notes(folder: Path) -> dict[str, Any]:
    path = folder / NOTES
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise DemonstrationsError(f"{path}: is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def _cameras(source: _Source) -> dict[str, tuple[str, Feature]]:
    there = source.info.cameras()
    chosen = cameras(there, source.columns, str(source.folder))
    return {name: (column, there[column]) for name, column in chosen.items()}


def _frame_columns(source: _Source, action: str, state: str | None) -> dict[str, Column]:
    """Columns of numbers and texts of all frames, by name."""
    roles = [
        state,
        source.named("reward", REWARD),
        source.named("success", *SUCCESSES),
        source.named("seed", SEED),
        source.named("instruction"),
    ]
    there = [name for name in roles if name is not None and name in source.info.features]
    names = list(dict.fromkeys(["task_index", action, *there]))
    parts: dict[str, list[Column]] = {name: [] for name in names}
    for path, places in itertools.groupby(source.places, key=lambda place: place.path):
        table = read_table(path, names)
        for place in places:
            end = place.offset + place.length
            if end > len(table):
                raise DemonstrationsError(f"{path}: wanted rows to {end}, it has {len(table)}")
            for name, found in parts.items():
                cells = table[name].slice(place.offset, place.length)
                found.append(_values(cells, name, path))
    return {name: np.concatenate(found) for name, found in parts.items() if found}


def _values(column: pa.ChunkedArray, name: str, path: Path) -> Column:
    """A column as an array, `[n]` or `[n, size]`."""
    if column.null_count:
        raise DemonstrationsError(f"{path}: {name}: {column.null_count} values are missing")
    cells = column.combine_chunks()
    if isinstance(cells, pa.ChunkedArray):
        cells = pa.concat_arrays(cells.chunks)
    if not pa.types.is_nested(cells.type):
        return np.asarray(cells.to_numpy(zero_copy_only=False))
    flat = cells.flatten()
    if pa.types.is_nested(flat.type) or len(flat) % len(cells):
        raise DemonstrationsError(f"{path}: {name}: wanted numbers, or lists of equal length")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(cells), -1)


def _actions(values: Column) -> Column:
    """`[n]` where they are whole numbers, one each; else `[n, size]`."""
    if values.dtype.kind in "iub" and (values.ndim == 1 or values.shape[1] == 1):
        return values.reshape(-1)
    return _table(values)


def _table(values: Column) -> Column:
    return values.reshape(len(values), -1)


def _episodes(source: _Source, frames: Mapping[str, Column]) -> tuple[Episode, ...]:
    tasks = read_tasks(source.folder, source.info)
    said = source.named("instruction")
    success, seed = source.named("success", *SUCCESSES), source.named("seed", SEED)
    found = []
    for number, place in enumerate(source.places):
        rows = slice(place.begin, place.begin + place.length)
        index = Counter(frames["task_index"][rows].tolist())
        if missing := sorted(set(index) - set(tasks)):
            raise DemonstrationsError(
                f"{source.folder}: episode {number}: task_index {missing[0]} is none of the "
                f"{len(tasks)} tasks"
            )
        if said is not None:
            text = str(frames[said][place.begin] if said in frames else place.row[said])
        else:
            text = tasks[int(frames["task_index"][place.begin])]
        won, origin = _won(place, _part(frames, success, rows), success)
        found.append(
            Episode(
                begin=place.begin,
                length=place.length,
                instruction=text,
                task=str(place.row.get("posttrain.task") or text),
                seed=_seed(place, _part(frames, seed, rows), seed),
                success=won,
                origin=origin,
            )
        )
    return tuple(found)


def _part(frames: Mapping[str, Column], name: str | None, rows: slice) -> Column | None:
    return None if name is None or name not in frames else frames[name][rows]


def _won(place: Place, column: Column | None, name: str | None) -> tuple[bool | None, Origin]:
    """Whether an episode succeeded, by a column of frames or of the table of episodes."""
    origin: Origin = place.row.get("posttrain.origin") or "stored"
    if column is not None:
        return bool((column.astype(np.float64) > 0).any()), origin
    for key in (name, "posttrain.success", *SUCCESSES):
        if key is not None and place.row.get(key) is not None:
            return bool(place.row[key]), origin
    return None, "unknown"


def _seed(place: Place, column: Column | None, name: str | None) -> int | None:
    value = column[0] if column is not None else place.row.get(name) if name else None
    return None if value is None or int(value) < 0 else int(value)
