"""Frames of a LeRobot dataset, decoded only when their rows are asked for."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.lerobot.info import Feature
from posttrain.vla.lerobot.layout import Place
from posttrain.vla.lerobot.png import decode
from posttrain.vla.lerobot.videos import decode_episode
from posttrain.vla.observation import Images

CACHE_BYTES: Final = 256 * 1024**2
Key = tuple[Any, ...]
V = TypeVar("V")


class Recent(Generic[V]):
    """The values that were asked for last, up to a number of bytes and at least one."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._values: OrderedDict[Key, tuple[V, int]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], tuple[V, int]]) -> V:
        """The value of a key, made with its size in bytes where it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key][0]
        value, size = make()
        self._values[key] = (value, size)
        self.held += size
        while self.held > self.limit and len(self._values) > 1:
            self.held -= self._values.popitem(last=False)[1][1]
        return value


@dataclass(frozen=True, slots=True)
class Groups:
    """A Parquet file, and where its row groups begin."""

    file: pq.ParquetFile
    starts: list[int]


def open_groups(path: Path) -> Groups:
    """Open a data file.

    Raises:
        DemonstrationsError: it is missing or torn.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise DemonstrationsError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise DemonstrationsError(f"{path}: cannot be read as Parquet: {error}") from None
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return Groups(file, np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist())


class StoredPictures:
    """Frames in data files or videos; what was read last is held, encoded where it can be.

    A set that this package writes has one row group an episode, so that a frame costs its
    episode's bytes once; a file of one large row group is read whole for its first frame.
    """

    def __init__(
        self,
        root: Path,
        places: Sequence[Place],
        cameras: Mapping[str, tuple[str, Feature]],
        *,
        fps: float,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Frames of some episodes.

        Args:
            root: the dataset's folder.
            places: where the episodes lie; their rows are numbered by `begin`.
            cameras: column and feature by camera, in their order.
            fps: frames a second, for videos.
            cache_bytes: how much to hold.
        """
        self.root, self.places, self.cameras, self.fps = root, tuple(places), dict(cameras), fps
        self.cache_bytes = cache_bytes
        self._begins = [place.begin for place in self.places]
        self._forget()

    def _forget(self) -> None:
        self._files: Recent[Groups] = Recent(16)
        self._encoded: Recent[pa.Array] = Recent(self.cache_bytes)
        self._films: Recent[Images] = Recent(self.cache_bytes)

    def __getstate__(self) -> dict[str, Any]:  # open files stay in their process
        return {k: v for k, v in vars(self).items() if k not in {"_files", "_encoded", "_films"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Height, width and channels by camera."""
        return {name: feature.picture for name, (_, feature) in self.cameras.items()}

    def read(self, rows: Sequence[int]) -> dict[str, Images]:
        """Decode some rows.

        Raises:
            DemonstrationsError: a file is missing or torn, or a picture is of another size.
        """
        found = {
            name: np.empty((len(rows), *shape), dtype=np.uint8)
            for name, shape in self.shapes.items()
        }
        for at, row in enumerate(rows):
            place = self._place(int(row))
            for name, (column, feature) in self.cameras.items():
                make = self._film_frame if feature.dtype == "video" else self._picture
                found[name][at] = make(place, int(row) - place.begin, column, feature)
        return found

    def _place(self, row: int) -> Place:
        place = self.places[max(bisect.bisect_right(self._begins, row) - 1, 0)]
        if not place.begin <= row < place.begin + place.length:
            raise IndexError(f"row {row} is in none of the {len(self.places)} episodes")
        return place

    def _picture(self, place: Place, frame: int, column: str, feature: Feature) -> Images:
        groups = self._files.get((place.path,), lambda: (open_groups(place.path), 1))
        row = place.offset + frame
        group = bisect.bisect_right(groups.starts, row) - 1
        where = f"{place.path}: {column}, row {row}"
        if group >= groups.file.num_row_groups:
            raise DemonstrationsError(f"{where} is missing: the file has {groups.starts[-1]} rows")

        def load() -> tuple[pa.Array, int]:
            try:
                cells = groups.file.read_row_group(group, columns=[column])[column]
            except (pa.ArrowException, OSError, KeyError) as error:
                raise DemonstrationsError(f"{where}: cannot be read: {error}") from None
            return cells.combine_chunks(), cells.nbytes

        cells = self._encoded.get((place.path, group, column), load)
        data = picture_bytes(cells[row - groups.starts[group]].as_py(), self.root, where)
        return decode(data, feature.picture, where)

    def _film_frame(self, place: Place, frame: int, column: str, feature: Feature) -> Images:
        def load() -> tuple[Images, int]:
            film = place.films[column]
            frames = decode_episode(film, place.length, fps=self.fps, shape=feature.picture)
            return frames, frames.nbytes

        film: Images = self._films.get((place.begin, column), load)
        chosen: Images = film[frame]
        return chosen


def picture_bytes(cell: Any, root: Path, where: str) -> bytes:
    """Bytes of a picture: in the cell, or in the file that it names within the dataset.

    Raises:
        DemonstrationsError: the cell is empty, or names no file of the dataset.
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, Mapping) and cell.get("bytes"):
        return bytes(cell["bytes"])
    named = cell.get("path") if isinstance(cell, Mapping) else cell
    if not isinstance(named, str):
        raise DemonstrationsError(f"{where}: holds no picture")
    path = (root / named).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise DemonstrationsError(f"{where}: names {named!r}, which is no file of the dataset")
    return path.read_bytes()
