"""How do files survive a kill?

Every file appears whole or not at all (a temporary neighbour, fsync, rename); logs only grow,
and a last line torn by a kill is dropped when read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class RecordError(ValueError):
    """A record cannot be read, or belongs to another recipe."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of the file `path`, which takes its place at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty neighbour of the folder `path`, which takes its place at the end.

    One writer at a time: what a killed one left half-done is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
    if old.exists() and not path.exists():  # killed between the two renames below
        old.rename(path)
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Let one process in at a time; the system frees the lock of a process that dies.

    Raises:
        RecordError: with `wait=False`, another process is inside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            import fcntl  # not on Windows: start one process at a time there
        except ImportError:
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"{path}: another process is at work there; let it end") from None
        yield


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any, *, nan_as_null: bool = False) -> None:
    """Write one JSON value atomically.

    Raises:
        ValueError: NaN or infinity, which JSON cannot say, unless `nan_as_null`.
    """
    write_text(path, to_json(value, nan_as_null=nan_as_null, indent=2) + "\n")


def write_jsonl(
    path: Path, rows: Iterable[Mapping[str, Any]], *, nan_as_null: bool = False
) -> None:
    """Write one JSON object a line, atomically."""
    lines = (to_json(row, nan_as_null=nan_as_null) for row in rows)
    write_text(path, "".join(f"{line}\n" for line in lines))


def to_json(value: Any, *, nan_as_null: bool = False, indent: int | None = None) -> str:
    """Serialize with numpy scalars and arrays as plain numbers, strictly.

    Raises:
        ValueError: NaN or infinity without `nan_as_null`.
        TypeError: a value JSON has no form for.
    """
    value = _plain(value, nan_as_null=nan_as_null, where="")
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: Any, *, nan_as_null: bool, where: str) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        value = value.tolist()
    if isinstance(value, Mapping):
        return {
            str(k): _plain(v, nan_as_null=nan_as_null, where=f"{where}.{k}" if where else str(k))
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _plain(v, nan_as_null=nan_as_null, where=f"{where}[{i}]") for i, v in enumerate(value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        if nan_as_null:
            return None
        raise ValueError(f"{where or 'value'}: wanted a finite number for JSON, got {value!r}")
    return value


def _sync_folder(path: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        RecordError: no such file, or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON: {error}") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; a last line torn by a kill is dropped.

    Raises:
        RecordError: no such file, or a line before the last is not a JSON object.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break  # only the last line can be torn: nothing is written after it
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise RecordError(f"{path}: line {number}: wanted one JSON object")
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class MetricsLog:
    """A JSONL file that only grows, one row a logged step."""

    path: Path

    def append(self, row: Mapping[str, Any], *, nan_as_null: bool = False) -> None:
        """Add one row, on disk when this returns. A torn line before it is cut off first.

        Raises:
            ValueError: no whole-number `step` in the row, or a NaN without `nan_as_null`.
        """
        if not isinstance(step := row.get("step"), int) or isinstance(step, bool):
            raise ValueError(  # noqa: TRY004 - a bad row, not a bad call
                f"{self.path}: a row needs a whole number 'step', got {step!r}"
            )
        line = to_json(row, nan_as_null=nan_as_null).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as log:
            log.truncate(_end_of_last_line(log))
            log.write(line)
            log.flush()
            os.fsync(log.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All whole rows; none if nothing was logged yet."""
        return read_jsonl(self.path) if self.path.exists() else []

    def truncate_after(self, step: int) -> None:
        """Forget rows later than `step`: a resumed run will write them again."""
        rows = self.read()
        if self.path.exists():
            write_jsonl(self.path, (row for row in rows if row.get("step", 0) <= step))


def _end_of_last_line(log: Any) -> int:
    """Offset just after the last newline of an open binary file."""
    position = log.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 4096)
        log.seek(start)
        found = log.read(position - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        position = start
    return 0


def fingerprint(value: Any) -> str:
    """Hash of a JSON value that does not depend on the order of keys."""
    text = json.dumps(_plain(value, nan_as_null=False, where=""), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
