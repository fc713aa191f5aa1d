"""`meta/info.json`: which columns a LeRobot dataset has, and where its files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from posttrain.vla.demonstrations import DemonstrationsError

WRITTEN: Final = "v3.0"
READ: Final = ("v3.0", "v2.1")
INFO: Final = "meta/info.json"
STATS: Final = "meta/stats.json"
TASKS: Final = "meta/tasks.parquet"
EPISODES: Final = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA: Final = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_IN_CHUNK: Final = 1000
DATA_MEGABYTES: Final = 100
VIDEO_MEGABYTES: Final = 200

ACTION: Final = "action"
STATE: Final = "observation.state"
IMAGES: Final = "observation.images."
REWARD: Final = "next.reward"
DONE: Final = "next.done"
SUCCESS: Final = "next.success"
SEED: Final = "posttrain.seed"
"""A column of our own: what the environment was reset with, -1 where unknown."""

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBERS: Final = frozenset(["bool", *WHOLE, "float16", "float32", "float64"])
PICTURES: Final = frozenset(["image", "video"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One declared column."""

    dtype: str
    """A numpy type, `string`, `language`, `image` or `video`."""
    shape: tuple[int, ...]
    names: Any = None
    depth: bool = False
    """Whether its pictures are depth maps."""

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and channels, however the file orders them."""
        if len(self.shape) != 3:
            raise DemonstrationsError(
                f"{INFO}: a picture's shape has three numbers, got {list(self.shape)}"
            )
        a, b, c = self.shape
        names = self.names if isinstance(self.names, list) else []
        first = str(names[0]).startswith("channel") if names else a in {1, 3} and c not in {1, 3}
        return (b, c, a) if first else (a, b, c)


FIXED: Final = {
    "timestamp": Feature(dtype="float32", shape=(1,)),
    "frame_index": Feature(dtype="int64", shape=(1,)),
    "episode_index": Feature(dtype="int64", shape=(1,)),
    "index": Feature(dtype="int64", shape=(1,)),
    "task_index": Feature(dtype="int64", shape=(1,)),
}
"""What every frame has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What `meta/info.json` says."""

    version: str
    fps: float
    features: Mapping[str, Feature]
    episodes: int
    frames: int
    tasks: int
    files_in_chunk: int = FILES_IN_CHUNK
    data_path: str = DATA
    video_path: str | None = None
    splits: Mapping[str, str] | None = None
    robot: str | None = None

    def to_json(self, *, megabytes: float) -> dict[str, Any]:
        """As in the file; `megabytes` is the size at which data files roll over."""
        fps = int(self.fps) if float(self.fps).is_integer() else self.fps
        return {
            "codebase_version": self.version,
            "fps": fps,
            "features": {name: f.to_json() for name, f in self.features.items()},
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": self.tasks,
            "chunks_size": self.files_in_chunk,
            "data_files_size_in_mb": megabytes,
            "video_files_size_in_mb": VIDEO_MEGABYTES,
            "data_path": self.data_path,
            "video_path": self.video_path,
            "robot_type": self.robot,
            "splits": {"train": f"0:{self.episodes}"},
        }

    def cameras(self) -> dict[str, Feature]:
        """Columns of pictures that are no depth maps, in their order."""
        return {n: f for n, f in self.features.items() if f.dtype in PICTURES and not f.depth}


def read_info(folder: Path) -> Info:
    """Read `meta/info.json`.

    Raises:
        DemonstrationsError: it is missing, is no JSON, lacks a field, or is of another version.
    """
    path = folder / INFO
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DemonstrationsError(f"{folder}: no LeRobot dataset, {INFO} is missing") from None
    except ValueError as error:
        raise DemonstrationsError(f"{path}: is no JSON: {error}") from None
    version = raw.get("codebase_version") if isinstance(raw, dict) else None
    if version not in READ:
        raise DemonstrationsError(
            f"{path}: wanted codebase_version {' or '.join(READ)}, got {version!r}; LeRobot's own "
            "converters bring older ones up to date"
        )
    try:
        return _info(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DemonstrationsError(f"{path}: {type(error).__name__}: {error}") from None


def _info(raw: Mapping[str, Any]) -> Info:
    fps = float(raw["fps"])
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {raw['fps']!r}")
    return Info(
        version=raw["codebase_version"],
        fps=fps,
        features={str(name): _feature(name, f) for name, f in raw["features"].items()},
        episodes=int(raw["total_episodes"]),
        frames=int(raw["total_frames"]),
        tasks=int(raw["total_tasks"]),
        files_in_chunk=int(raw.get("chunks_size", FILES_IN_CHUNK)),
        data_path=str(raw.get("data_path", DATA)),
        video_path=raw.get("video_path"),
        splits=raw.get("splits"),
        robot=raw.get("robot_type"),
    )


def _feature(name: str, raw: Mapping[str, Any]) -> Feature:
    dtype, shape = str(raw["dtype"]), tuple(int(size) for size in raw["shape"])
    if dtype not in NUMBERS | PICTURES | {"string", "language"}:
        raise ValueError(f"features.{name}.dtype: {dtype!r} is none of the format's")
    notes = {**(raw.get("video_info") or {}), **(raw.get("info") or {})}
    depth = bool(notes.get("is_depth_map") or notes.get("video.is_depth_map"))
    return Feature(dtype=dtype, shape=shape, names=raw.get("names"), depth=depth)


def place(folder: Path, template: str, **numbers: int | str) -> Path:
    """Fill in a path template of `meta/info.json`; it may not leave the folder.

    Raises:
        DemonstrationsError: the template has other fields, or leads out of the folder.
    """
    try:
        relative = PurePosixPath(template.format(**numbers))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DemonstrationsError(
            f"{folder / INFO}: {template!r} is no path template: {type(error).__name__} {error}"
        ) from None
    if relative.is_absolute() or ".." in relative.parts:
        raise DemonstrationsError(f"{folder / INFO}: {template!r} leads out of the dataset")
    return folder / relative
