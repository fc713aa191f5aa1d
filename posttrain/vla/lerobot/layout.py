"""Which rows of which files are an episode, in either version of the format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.lerobot.info import TASKS, Info, place

OURS = ("posttrain.task", "posttrain.success", "posttrain.origin")
"""Columns that we add to the table of episodes where they say more than the format does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Where a camera's video of an episode begins."""

    path: Path
    begin: float
    """Seconds into the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One episode: rows `begin` to `begin + length` of the set, and the file that holds them."""

    begin: int
    length: int
    path: Path
    offset: int
    """Its first row within the file."""
    films: Mapping[str, Film] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    """What the table of episodes says beside."""


def read_places(folder: Path, info: Info) -> list[Place]:
    """Where the episodes lie, in their order.

    Raises:
        DemonstrationsError: a table of episodes that is missing, torn or not of the format.
    """
    return _places_v3(folder, info) if info.version == "v3.0" else _places_v21(folder, info)


def read_tasks(folder: Path, info: Info) -> dict[int, str]:
    """Texts of the tasks by their number."""
    if info.version == "v2.1":
        rows = _lines(folder / "meta/tasks.jsonl")
        return {int(row["task_index"]): str(row["task"]) for row in rows}
    table = read_table(folder / TASKS, None)
    texts = next((n for n in ("task", "__index_level_0__") if n in table.column_names), None)
    if texts is None or "task_index" not in table.column_names:
        raise DemonstrationsError(
            f"{folder / TASKS}: wanted the column task_index and the index task, got "
            f"{', '.join(table.column_names)}"
        )
    pairs = zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True)
    return {int(number): str(text) for number, text in pairs}


def read_table(path: Path, columns: list[str] | None) -> pa.Table:
    """Read a Parquet file.

    Raises:
        DemonstrationsError: it is missing, torn, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as file:
            have = file.schema_arrow.names
            if missing := [name for name in columns or [] if name not in have]:
                raise DemonstrationsError(
                    f"{path}: has no column {missing[0]}; it has {', '.join(have)}"
                )
            return file.read(columns=columns)
    except FileNotFoundError:
        raise DemonstrationsError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise DemonstrationsError(f"{path}: cannot be read as Parquet: {error}") from None


def episode_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of the table of episodes of v3.0, without their statistics."""
    paths = sorted((folder / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise DemonstrationsError(f"{folder}: meta/episodes holds no Parquet file")
    for path in paths:
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowException, OSError) as error:
            raise DemonstrationsError(f"{path}: cannot be read as Parquet: {error}") from None
        table = read_table(path, [name for name in names if not name.startswith("stats/")])
        yield from table.to_pylist()


def _places_v3(folder: Path, info: Info) -> list[Place]:
    places: list[Place] = []
    starts: dict[Path, int] = {}
    try:
        for row in sorted(episode_rows(folder), key=lambda row: int(row["episode_index"])):
            begin, end = int(row["dataset_from_index"]), int(row["dataset_to_index"])
            numbers = {k: int(row[f"data/{k}"]) for k in ("chunk_index", "file_index")}
            path = place(folder, info.data_path, **numbers)
            first = starts.setdefault(path, begin)
            films = {
                name: _film(folder, info, name, row)
                for name, feature in info.cameras().items()
                if feature.dtype == "video"
            }
            places.append(
                Place(
                    begin=begin, length=end - begin, path=path, offset=begin - first, films=films,
                    row=row,
                )
            )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise DemonstrationsError(
            f"{folder}: the table meta/episodes lacks {error}, which the format wants"
        ) from None
    return places


def _film(folder: Path, info: Info, name: str, row: Mapping[str, Any]) -> Film:
    if info.video_path is None:
        raise DemonstrationsError(f"{folder}: {name} is a video, but info.json has no video_path")
    numbers = {k: int(row[f"videos/{name}/{k}"]) for k in ("chunk_index", "file_index")}
    path = place(folder, info.video_path, video_key=name, **numbers)
    return Film(path=path, begin=float(row[f"videos/{name}/from_timestamp"]))


def _places_v21(folder: Path, info: Info) -> list[Place]:
    places: list[Place] = []
    begin = 0
    rows = sorted(_lines(folder / "meta/episodes.jsonl"), key=lambda row: row["episode_index"])
    for row in rows:
        number, length = int(row["episode_index"]), int(row["length"])
        numbers = {"episode_chunk": number // info.files_in_chunk, "episode_index": number}
        films = {
            name: Film(
                path=place(folder, info.video_path or "", video_key=name, **numbers), begin=0.0
            )
            for name, feature in info.cameras().items()
            if feature.dtype == "video"
        }
        path = place(folder, info.data_path, **numbers)
        places.append(Place(begin=begin, length=length, path=path, offset=0, films=films, row=row))
        begin += length
    return places


def _lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except FileNotFoundError:
        raise DemonstrationsError(f"{path} is missing") from None
    except ValueError as error:
        raise DemonstrationsError(f"{path}: is no JSONL: {error}") from None
