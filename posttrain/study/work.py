"""How does one process work on a study: which lock, which log, and what is left of a failure?"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.files import locked, write_text
from posttrain.study.cells import DIAGNOSED, Cell, Group
from posttrain.study.kind import Kind
from posttrain.study.settings import SHARED

ERROR_FILE = "error.txt"
"""In the folder of a cell that failed: why. Gone once it has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell."""

    name: str
    state: Literal["done", "found", "failed"]
    """`found` if it was complete already."""
    seconds: float = 0.0
    """Wall time, an equal part of its group's."""
    reason: str = ""
    """Last line of the error."""


def work(kind: Kind, group: Group, root: Path, *, quiet: bool) -> list[Outcome]:
    """Run a group's unfinished cells under its lock, and say what became of all.

    Args:
        kind: Who runs them.
        group: The cells; shared ones end with their diagnosis, and another process that needs
            them too waits here and finds them done.
        root: The study's folder.
        quiet: Whether what the run prints goes to the group's log alone.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the units are the parallelism
    lock, log = root / ".locks" / f"{group.name}.lock", root / "logs" / f"{group.name}.txt"
    with locked(lock), _log(log, quiet=quiet):
        todo = [cell for cell in group.cells if not cell.finished()]
        for cell in todo:  # a record's folder may hold nothing but a record
            (cell.folder / ERROR_FILE).unlink(missing_ok=True)
        start = time.monotonic()
        results = _results(kind, todo)
        seconds = (time.monotonic() - start) / max(len(todo), 1)
        outcomes = {cell.name: Outcome(name=cell.name, state="found") for cell in group.cells}
        for cell, result in zip(todo, results, strict=True):
            outcomes[cell.name] = _close(cell, result, seconds)
    return list(outcomes.values())


def _results(kind: Kind, todo: Sequence[Cell]) -> Sequence[Path | Exception]:
    """What each cell gives; an error of the whole group is every cell's."""
    if not todo:
        return []
    stop_after = DIAGNOSED if todo[0].arm == SHARED else None
    try:
        return kind.run([cell.recipe for cell in todo], stop_after)
    except Exception as error:
        return [error] * len(todo)


def _close(cell: Cell, result: Path | Exception, seconds: float) -> Outcome:
    if not isinstance(result, Exception):
        return Outcome(name=cell.name, state="done", seconds=seconds)
    text = "".join(traceback.format_exception(result))
    write_text(cell.folder / ERROR_FILE, text)
    reason = f"{type(result).__name__}: {result}".strip().splitlines()[0]
    return Outcome(name=cell.name, state="failed", seconds=seconds, reason=reason)


def lost(cell: Cell) -> Outcome:
    """What is left of a cell whose process died."""
    if cell.finished():
        return Outcome(name=cell.name, state="done")
    reason = "its process died, perhaps for lack of memory"
    write_text(cell.folder / ERROR_FILE, f"{reason}\n")
    return Outcome(name=cell.name, state="failed", reason=reason)


@contextmanager
def _log(path: Path, *, quiet: bool) -> Iterator[None]:
    """Send what the unit prints to a file, so that workers do not talk at once."""
    if not quiet:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        yield
    if not path.stat().st_size:
        path.unlink()
