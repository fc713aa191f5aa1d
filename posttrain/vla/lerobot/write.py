"""D as a LeRobot dataset v3.0: the same D gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.files import replacing_folder, write_json
from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode
from posttrain.vla.lerobot import stats
from posttrain.vla.lerobot.columns import features_of, frame_schema, numbers_of, tasks_table
from posttrain.vla.lerobot.files import RollingFiles
from posttrain.vla.lerobot.info import (
    DATA,
    DATA_MEGABYTES,
    EPISODES,
    FILES_IN_CHUNK,
    INFO,
    STATS,
    TASKS,
    WRITTEN,
    Feature,
    Info,
)
from posttrain.vla.lerobot.png import encode

BLOCK: Final = 64
"""Frames that are decoded at a time."""
ROWS: Final = 512
"""Episodes of one row group of the table of episodes."""
NOTES: Final = "meta/posttrain.json"
"""The name of D and where it comes from, beside the format's own files."""


def write(
    demonstrations: Demonstrations,
    folder: Path,
    *,
    megabytes: float = DATA_MEGABYTES,
    files_in_chunk: int = FILES_IN_CHUNK,
) -> None:
    """Write D's episodes, in their order, to a folder that appears whole or not at all.

    One episode is held in memory at a time, beside D's columns of numbers. Pictures become PNG.

    Args:
        demonstrations: D; rows of no episode are left out.
        folder: takes the place of what is there.
        megabytes: at which a data file is full, as written.
        files_in_chunk: how many files lie in one folder.

    Raises:
        DemonstrationsError: D holds no episode, an empty one, or values the format cannot hold.
    """
    _check(demonstrations)
    with replacing_folder(folder) as made:
        _Writer(demonstrations, made, megabytes=megabytes, files_in_chunk=files_in_chunk).write()


def _check(demonstrations: Demonstrations) -> None:
    if not demonstrations.episodes:
        raise DemonstrationsError(f"{demonstrations.name}: holds no episode to write")
    for at, episode in enumerate(demonstrations.episodes):
        where = f"{demonstrations.name}: episode {at}"
        if episode.length < 1:
            raise DemonstrationsError(f"{where}: wanted a frame or more, got {episode.length}")
        if episode.begin < 0 or episode.begin + episode.length > len(demonstrations):
            raise DemonstrationsError(f"{where}: its rows are beyond the {len(demonstrations)}")
        if episode.seed is not None and not 0 <= episode.seed < 2**63:
            raise DemonstrationsError(f"{where}: wanted a seed in [0, 2^63), got {episode.seed}")
    for name, values in (("states", demonstrations.states), ("actions", demonstrations.actions)):
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DemonstrationsError(f"{demonstrations.name}: {name} are not all finite")


class _Writer:
    """The files of one dataset on the way."""

    def __init__(
        self, demonstrations: Demonstrations, folder: Path, *, megabytes: float, files_in_chunk: int
    ) -> None:
        self.d, self.folder, self.files_in_chunk = demonstrations, folder, files_in_chunk
        self.features = features_of(demonstrations)
        self.cameras = {n: f for n, f in self.features.items() if f.dtype == "image"}
        self.tasks: dict[str, int] = {}
        for episode in demonstrations.episodes:
            self.tasks.setdefault(episode.instruction, len(self.tasks))
        self.files = RollingFiles(
            folder, DATA, frame_schema(self.features),
            megabytes=megabytes, files_in_chunk=files_in_chunk, plain=tuple(self.cameras),
        )  # fmt: skip
        self.megabytes = megabytes
        self.levels = {name: np.zeros((f.shape[2], 256), np.int64) for name, f in
                       self.cameras.items()}  # fmt: skip
        self.kept: dict[str, list[npt.NDArray[Any]]] = {}

    def write(self) -> None:
        """Write all files."""
        episodes: _EpisodeTable | None = None
        begin = 0
        for number, episode in enumerate(self.d.episodes):
            row = self._episode(number, begin, episode)
            episodes = episodes or _EpisodeTable(self, row)
            episodes.add(row)
            begin += episode.length
        self.files.close()
        if episodes is not None:
            episodes.close()
        pq.write_table(tasks_table(self.tasks), self.folder / TASKS, compression="snappy")
        self._meta(begin)

    def _episode(self, number: int, begin: int, episode: Episode) -> dict[str, Any]:
        """Write one episode's frames; its row of the table of episodes."""
        task = self.tasks[episode.instruction]
        numbers = numbers_of(self.d, self.features, episode, number=number, begin=begin, task=task)
        pictures, levels = self._pictures(episode)
        self.files.make_room(sum(len(c["bytes"]) for cells in pictures.values() for c in cells))
        arrays = []
        for name in self.features:
            kind = self.files.schema.field(name).type
            values = pictures[name] if name in pictures else numbers[name].tolist()
            arrays.append(pa.array(values, type=kind))
        self.files.write(pa.Table.from_arrays(arrays, schema=self.files.schema))
        found = {name: stats.of_numbers(values) for name, values in numbers.items()}
        for name, counts in levels.items():
            found[name] = stats.of_levels(counts, episode.length)
            self.levels[name] += counts
        for name, values in numbers.items():
            self.kept.setdefault(name, []).append(values)
        return {
            "episode_index": number,
            "tasks": [episode.instruction],
            "length": episode.length,
            "data/chunk_index": self.files.chunk,
            "data/file_index": self.files.file,
            "dataset_from_index": begin,
            "dataset_to_index": begin + episode.length,
            "posttrain.task": episode.task,
            "posttrain.success": episode.success,
            "posttrain.origin": episode.origin,
            **stats.flat({name: found[name] for name in self.features}),
        }

    def _pictures(
        self, episode: Episode
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, stats.Counts]]:
        """Encoded frames and counts of their levels, by column."""
        cells: dict[str, list[dict[str, Any]]] = {name: [] for name in self.cameras}
        levels = {name: np.zeros((f.shape[2], 256), np.int64) for name, f in self.cameras.items()}
        rows = list(episode.rows)
        for at in range(0, len(rows), BLOCK):
            seen = self.d.pictures.read(rows[at : at + BLOCK])
            for column, frames in zip(self.cameras, seen.values(), strict=True):
                levels[column] += stats.count_levels(frames)
                first = len(cells[column])
                cells[column] += [
                    {"bytes": encode(frame), "path": f"frame-{first + i:06d}.png"}
                    for i, frame in enumerate(frames)
                ]
        return cells, levels

    def _meta(self, frames: int) -> None:
        info = Info(
            version=WRITTEN, fps=self.d.fps, features=self.features,
            episodes=len(self.d.episodes), frames=frames, tasks=len(self.tasks),
            files_in_chunk=self.files_in_chunk,
        )  # fmt: skip
        write_json(self.folder / INFO, info.to_json(megabytes=self.megabytes))
        whole = {name: stats.of_numbers(np.concatenate(v)) for name, v in self.kept.items()}
        whole |= {name: stats.of_levels(counts, frames) for name, counts in self.levels.items()}
        write_json(self.folder / STATS, {name: whole[name] for name in self.features})
        about = json.loads(json.dumps(dict(self.d.about), default=str))
        write_json(self.folder / NOTES, {"name": self.d.name, "about": about})


class _EpisodeTable:
    """The table of episodes, written some hundred rows at a time."""

    def __init__(self, writer: _Writer, first: dict[str, Any]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.files = RollingFiles(
            writer.folder, EPISODES, _episode_schema(first, writer.features),
            megabytes=writer.megabytes, files_in_chunk=writer.files_in_chunk,
        )  # fmt: skip

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self.rows:
            return
        table = pa.Table.from_pylist(self.rows, schema=self.files.schema)
        self.files.make_room(table.nbytes)
        for name, number in (("chunk_index", self.files.chunk), ("file_index", self.files.file)):
            at = table.column_names.index(f"meta/episodes/{name}")
            table = table.set_column(
                at, self.files.schema.field(at), pa.array([number] * len(table), pa.int64())
            )
        self.files.write(table)
        self.rows.clear()

    def close(self) -> None:
        self._flush()
        self.files.close()


def _episode_schema(row: dict[str, Any], features: dict[str, Feature]) -> pa.Schema:
    special = {
        "tasks": pa.list_(pa.string()),
        "posttrain.task": pa.string(),
        "posttrain.success": pa.bool_(),
        "posttrain.origin": pa.string(),
    }
    fields = [
        (name, special.get(name, pa.int64())) for name in row if not name.startswith("stats/")
    ]
    fields += [("meta/episodes/chunk_index", pa.int64()), ("meta/episodes/file_index", pa.int64())]
    for column, feature in features.items():
        kind = pa.list_(pa.float64())
        if feature.dtype == "image":
            kind = pa.list_(pa.list_(kind))
        fields += [
            (f"stats/{column}/{n}", pa.list_(pa.int64()) if n == "count" else kind)
            for n in stats.NAMES
        ]
    return pa.schema(fields)
