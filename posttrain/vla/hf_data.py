"""Rows in the HF datasets format as D: one row a frame, or one row an episode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode
from posttrain.vla.lerobot.png import decode
from posttrain.vla.lerobot.stored import picture_bytes
from posttrain.vla.observation import Images
from posttrain.vla.roles import cameras, need, pick

Values = npt.NDArray[Any]


class RowPictures:
    """Frames that are held encoded, as the rows have them."""

    def __init__(
        self, cells: Mapping[str, pa.Array], shapes: Mapping[str, tuple[int, int, int]], root: Path
    ) -> None:
        """Encoded frames.

        Args:
            cells: one a row, by camera.
            shapes: height, width and channels by camera.
            root: where files lie that rows name.
        """
        self._cells, self._shapes, self._root = dict(cells), dict(shapes), root

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Height, width and channels by camera."""
        return self._shapes

    def read(self, rows: Sequence[int]) -> dict[str, Images]:
        """Decode some rows.

        Raises:
            DemonstrationsError: a picture cannot be read, or is of another size than the first.
        """
        return {
            name: np.stack([self._frame(name, int(row)) for row in rows])
            if len(rows)
            else np.empty((0, *shape), np.uint8)
            for name, shape in self.shapes.items()
        }

    def _frame(self, name: str, row: int) -> Images:
        where = f"{self._root}: camera {name}, row {row}"
        data = picture_bytes(self._cells[name][row].as_py(), self._root, where)
        return decode(data, self._shapes[name], where)


def read_rows(path: Path, columns: Mapping[str, str] | None = None) -> Demonstrations:
    """Open Parquet files, or a folder that `datasets` saved.

    One row a frame names its episode in `episode_index`; rows of one episode stand together, in
    their order. One row an episode holds lists of pictures and of actions. Of a folder with splits,
    files that begin with `train` are read.

    Args:
        path: a Parquet file, or a folder with Parquet or Arrow files anywhere within.
        columns: what is named otherwise: `action`, `instruction`, `episode`, `success`, `reward`,
            `state`, `seed`, or a camera.

    Raises:
        DemonstrationsError: the files cannot be read, or a column is missing.
    """
    said, table = dict(columns or {}), _table(path)
    there, where = table.column_names, str(path)
    pictures = [field.name for field in table.schema if _holds_pictures(field)]
    chosen = cameras(pictures, said, where)
    roles = {
        "action": need("action", there, said, where),
        "instruction": need("instruction", there, said, where),
        **{role: pick(role, there, said, where) for role in ("state", "reward", "success", "seed")},
    }
    nested = pa.types.is_list(table[chosen[next(iter(chosen))]].type)
    root = path if path.is_dir() else path.parent
    if nested:
        lengths = _lengths(table, list(chosen.values()), str(roles["action"]), where)
        firsts = list(range(len(table)))
    else:
        lengths = _runs(table, need("episode", there, said, where), where)
        firsts = (np.cumsum(lengths) - lengths).tolist()
    cells = {name: _cells(table, column, nested=nested) for name, column in chosen.items()}
    per_frame = {
        role: _frames(table, column, nested=nested, total=sum(lengths), where=where)
        for role, column in roles.items()
        if column is not None and role in {"action", "state", "reward"}
    }
    state, reward = per_frame.get("state"), per_frame.get("reward")
    return Demonstrations(
        name=path.stem if path.is_file() else path.name,
        episodes=tuple(_episodes(table, roles, firsts, lengths, nested=nested)),
        actions=_actions(per_frame["action"]),
        pictures=RowPictures(cells, {n: _shape(c, root, where) for n, c in cells.items()}, root),
        states=None if state is None else state.reshape(len(state), -1).astype(np.float32),
        rewards=None if reward is None else reward.reshape(-1).astype(np.float32),
        about={"source": "rows, one an episode" if nested else "rows, one a frame"},
    )


def _table(path: Path) -> pa.Table:
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet")) or _arrow(path)
    train = [file for file in files if file.stem.startswith("train") or file.parent.name == "train"]
    if not files:
        raise DemonstrationsError(f"data.path: {path} holds no Parquet or Arrow file")
    try:
        return pa.concat_tables([_open(file) for file in train or files])
    except (pa.ArrowException, OSError) as error:
        raise DemonstrationsError(f"data.path: {path} cannot be read: {error}") from None


def _arrow(path: Path) -> list[Path]:
    return [file for file in sorted(path.rglob("*.arrow")) if not file.name.startswith("cache-")]


def _open(file: Path) -> pa.Table:
    if file.suffix != ".arrow":
        return pq.read_table(file)
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).read_all()


def _holds_pictures(field: pa.Field) -> bool:
    """Whether a column holds pictures as `datasets` stores them, one or a list."""
    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and {f.name for f in kind} == {"bytes", "path"}


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _cells(table: pa.Table, column: str, *, nested: bool) -> pa.Array:
    found = _whole(table[column])
    return found.flatten() if nested else found


def _lengths(table: pa.Table, pictures: list[str], action: str, where: str) -> list[int]:
    """Frames of each row; all its lists agree."""
    found: list[int] = [len(cell) for cell in table[action]]
    for column in pictures:
        for row, (wanted, cell) in enumerate(zip(found, table[column], strict=True)):
            if len(cell) != wanted or not wanted:
                raise DemonstrationsError(
                    f"{where}: row {row} has {wanted} actions and {len(cell)} pictures in {column}"
                )
    return found


def _runs(table: pa.Table, column: str, where: str) -> list[int]:
    """Lengths of the runs of equal values, each an episode."""
    names = table[column].to_pylist()
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    if len({names[i] for i in starts}) != len(starts):
        raise DemonstrationsError(
            f"{where}: rows of one episode stand apart in {column}: sort them first"
        )
    return np.diff([*starts, len(names)]).tolist()


def _frames(table: pa.Table, column: str, *, nested: bool, total: int, where: str) -> Values:
    """Numbers of all frames, `[n]` or `[n, size]`."""
    found = _whole(table[column])
    if nested:
        found = found.flatten()
    while pa.types.is_nested(found.type):
        found = found.flatten()
    values = np.asarray(found.to_numpy(zero_copy_only=False))
    if not total or values.size % total or values.dtype.kind not in "iufb":
        raise DemonstrationsError(
            f"{where}: {column}: wanted numbers, as many for each of {total} frames, got "
            f"{values.size} of {values.dtype}"
        )
    return values.reshape(total, -1)


def _actions(values: Values) -> Values:
    return values.reshape(-1) if values.dtype.kind in "iu" and values.shape[1] == 1 else values


def _shape(cells: pa.Array, root: Path, where: str) -> tuple[int, int, int]:
    """Size of the first picture; it is read as colours."""
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture_bytes(cells[0].as_py(), root, where))) as image:
            return image.height, image.width, 3
    except (UnidentifiedImageError, OSError) as error:
        raise DemonstrationsError(f"{where}: the first picture cannot be read: {error}") from None


def _episodes(
    table: pa.Table,
    roles: Mapping[str, str | None],
    firsts: Sequence[int],
    lengths: Sequence[int],
    *,
    nested: bool,
) -> Iterator[Episode]:
    begin = 0
    said = {role: table[c].to_pylist() for role, c in roles.items()
            if c is not None and role in {"instruction", "success", "seed"}}  # fmt: skip
    for first, length in zip(firsts, lengths, strict=True):
        rows = slice(first, first + (1 if nested else length))
        won = _any(said["success"][rows]) if "success" in said else None
        seed = _one(said["seed"][first]) if "seed" in said else None
        text = str(_one(said["instruction"][first]))
        yield Episode(
            begin=begin,
            length=length,
            instruction=text,
            task=text,
            seed=None if seed is None or int(seed) < 0 else int(seed),
            success=won,
            origin="unknown" if won is None else "stored",
        )
        begin += length


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _any(values: Sequence[Any]) -> bool | None:
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    known = [float(value) > 0 for value in flat if value is not None]
    return any(known) if known else None
