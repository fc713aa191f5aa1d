"""Does a folder keep the rules of the format? What breaks them, in sentences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.lerobot.columns import arrow_type
from posttrain.vla.lerobot.info import FIXED, STATS, Feature, Info, read_info
from posttrain.vla.lerobot.layout import Place, read_places, read_table, read_tasks
from posttrain.vla.lerobot.stored import StoredPictures

TOLERANCE: Final = 1e-4
"""Seconds by which a timestamp may be off, as LeRobot's own default."""
INDEXES: Final = ("index", "frame_index", "episode_index", "task_index", "timestamp")


def validate(folder: Path, *, frames: bool = False) -> list[str]:
    """Complaints about a dataset, the worst first; none if it keeps the rules.

    Args:
        folder: of v3.0 or v2.1.
        frames: whether to decode every frame; otherwise one an episode's file.
    """
    try:
        info = read_info(folder)
        places = read_places(folder, info)
        tasks = read_tasks(folder, info)
    except DemonstrationsError as error:
        return [str(error)]
    found = [*_features(info), *_counts(info, places, tasks), *_stats(folder, info)]
    try:
        found += [*_episodes(info, places, tasks), *_files(info, places, tasks)]
        if not found:
            found += _pictures(folder, info, places, every=frames)
    except DemonstrationsError as error:
        found.append(str(error))
    return found


def _features(info: Info) -> Iterator[str]:
    for name, feature in FIXED.items():
        if (declared := info.features.get(name)) is None:
            yield f"features: {name} is missing, which every frame has"
        elif (declared.dtype, declared.shape) != (feature.dtype, feature.shape):
            yield (
                f"features.{name}: wanted {feature.dtype} of shape {list(feature.shape)}, got "
                f"{declared.dtype} of shape {list(declared.shape)}"
            )
    for name, feature in info.features.items():
        if "/" in name:
            yield f"features.{name}: a name may hold no '/'"
        if feature.dtype in {"image", "video"} and len(feature.shape) != 3:
            yield f"features.{name}: a picture's shape has three numbers, got {list(feature.shape)}"
        if not feature.shape or any(size < 1 for size in feature.shape):
            yield f"features.{name}: wanted a shape of positive numbers, got {list(feature.shape)}"


def _counts(info: Info, places: list[Place], tasks: Mapping[int, str]) -> Iterator[str]:
    frames = sum(place.length for place in places)
    for name, said, there in (
        ("total_episodes", info.episodes, len(places)),
        ("total_frames", info.frames, frames),
        ("total_tasks", info.tasks, len(tasks)),
    ):
        if said != there:
            yield f"{name}: info.json says {said}, the tables hold {there}"
    if sorted(tasks) != list(range(len(tasks))):
        yield f"tasks: wanted task_index 0 to {len(tasks) - 1}, got {sorted(tasks)[:5]} ..."
    for text, times in Counter(tasks.values()).items():
        if times > 1:
            yield f"tasks: {text!r} stands there {times} times"
    for name, split in (info.splits or {}).items():
        first, _, last = str(split).partition(":")
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last) <= len(places)):
            yield f"splits.{name}: wanted FIRST:LAST within {len(places)} episodes, got {split!r}"


def _stats(folder: Path, info: Info) -> Iterator[str]:
    if info.version != "v3.0":
        return
    try:
        stats = json.loads((folder / STATS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield f"{STATS} is missing"
        return
    except ValueError as error:
        yield f"{STATS} is no JSON: {error}"
        return
    for name, feature in info.features.items():
        if feature.dtype in {"string", "language"}:
            continue
        wanted = (feature.picture[2], 1, 1) if feature.dtype in {"image", "video"} else None
        yield from _stats_of(name, stats.get(name), wanted)


def _stats_of(name: str, found: Any, picture: tuple[int, ...] | None) -> Iterator[str]:
    if not isinstance(found, dict):
        yield f"{STATS}: {name} is missing"
        return
    if missing := [key for key in ("min", "max", "mean", "std") if key not in found]:
        yield f"{STATS}: {name}.{missing[0]} is missing"
    for key, values in found.items():
        shape = np.shape(values)
        if key == "count" and shape not in {(1,), ()}:
            yield f"{STATS}: {name}.count: wanted one number, got shape {list(shape)}"
        elif key != "count" and picture is not None and shape != picture:
            yield f"{STATS}: {name}.{key}: wanted shape {list(picture)}, got {list(shape)}"


def _episodes(info: Info, places: list[Place], tasks: Mapping[int, str]) -> Iterator[str]:
    begin = 0
    texts = set(tasks.values())
    for number, place in enumerate(places):
        where, row = f"episode {number}", place.row
        if int(row["episode_index"]) != number:
            yield f"{where}: its row of the table of episodes says {row['episode_index']}"
        if place.length < 1 or place.length != int(row["length"]):
            yield f"{where}: length says {row['length']}, its rows are {place.length}"
        if place.begin != begin:
            yield f"{where}: dataset_from_index: wanted {begin}, got {place.begin}"
        begin = place.begin + place.length
        said = row.get("tasks")
        if not isinstance(said, list) or not said:
            yield f"{where}: wanted a list of tasks, got {said!r}"
        elif unknown := [text for text in said if text not in texts]:
            yield f"{where}: its task {unknown[0]!r} is not in the table of tasks"
        for column in place.films:
            span = (f"videos/{column}/{end}_timestamp" for end in ("from", "to"))
            seconds = [float(row[key]) for key in span if row.get(key) is not None]
            lasting = place.length / info.fps
            if len(seconds) == 2 and abs(seconds[1] - seconds[0] - lasting) > 1 / info.fps:
                yield f"{where}: its video {column} lasts {seconds[1] - seconds[0]:g} s, not " + (
                    f"{place.length} frames at {info.fps:g} a second"
                )


def _files(info: Info, places: list[Place], tasks: Mapping[int, str]) -> Iterator[str]:
    by_file: dict[Path, list[tuple[int, Place]]] = {}
    for number, place in enumerate(places):
        by_file.setdefault(place.path, []).append((number, place))
    names = [name for name in INDEXES if name in info.features]
    for path, held in by_file.items():
        table = read_table(path, names)
        yield from _schema(path, info)
        rows = sum(place.length for _, place in held)
        if rows != len(table):
            yield f"{path}: holds {len(table)} rows, its episodes have {rows}"
        columns = {name: table[name].to_numpy() for name in names}
        for number, place in held:
            part = slice(place.offset, place.offset + place.length)
            frames = {name: values[part] for name, values in columns.items()}
            if len(frames.get("index", ())) == place.length:
                yield from _frames(number, place, frames, info, tasks)


def _schema(path: Path, info: Info) -> Iterator[str]:
    schema = pq.read_schema(path)
    wanted = [name for name, feature in info.features.items() if feature.dtype != "video"]
    for name in wanted:
        if name not in schema.names:
            yield f"{path}: has no column {name}, which features declares"
        elif not _fits(schema.field(name).type, info.features[name]):
            feature = info.features[name]
            yield (
                f"{path}: {name}: features declares {feature.dtype} of shape "
                f"{list(feature.shape)}, the column holds {schema.field(name).type}"
            )
    for name in schema.names:
        if name not in info.features:
            yield f"{path}: has the column {name}, which features does not declare"


def _fits(held: pa.DataType, feature: Feature) -> bool:
    """Whether a column may be read as what is declared."""
    if feature.dtype == "image":
        return pa.types.is_struct(held) and {"bytes", "path"} <= {f.name for f in held}
    if feature.dtype == "language" or len(feature.shape) > 1:
        return True
    wanted = arrow_type(feature)
    if pa.types.is_list(held) or pa.types.is_large_list(held):
        inner = wanted.value_type if pa.types.is_nested(wanted) else wanted
        return bool(held.value_type == inner)
    return bool(held == wanted)


def _frames(
    number: int, place: Place, frames: Mapping[str, Any], info: Info, tasks: Mapping[int, str]
) -> Iterator[str]:
    count = np.arange(place.length)
    wanted = {
        "index": place.begin + count,
        "frame_index": count,
        "episode_index": np.full(place.length, number),
    }
    for name, values in wanted.items():
        wrong = np.flatnonzero(frames.get(name, values) != values)
        if len(wrong):
            at = int(wrong[0])
            yield f"episode {number}: {name}, frame {at}: wanted {values[at]}, got " + (
                f"{frames[name][at]}"
            )
    if "timestamp" in frames:
        late = np.abs(frames["timestamp"] - count / info.fps)
        slack = TOLERANCE + np.spacing(np.abs(frames["timestamp"]))
        if (wrong := np.flatnonzero(~(late <= slack))).size:
            at = int(wrong[0])
            yield f"episode {number}: timestamp, frame {at}: wanted {at / info.fps:.4f} s at " + (
                f"{info.fps:g} frames a second, got {frames['timestamp'][at]:.4f}"
            )
    unknown = set(np.unique(frames.get("task_index", np.zeros(0)))) - set(tasks)
    if unknown:
        yield f"episode {number}: task_index {int(min(unknown))} is none of the {len(tasks)} tasks"


def _pictures(folder: Path, info: Info, places: list[Place], *, every: bool) -> list[str]:
    cameras = {name: (name, feature) for name, feature in info.cameras().items()}
    pictures = StoredPictures(folder, places, cameras, fps=info.fps)
    seen: set[Path] = set()
    for place in places:
        rows = range(place.begin, place.begin + place.length)
        if every or place.path not in seen:
            seen.add(place.path)
            for row in rows if every else rows[:1]:
                pictures.read([row])
    return []
