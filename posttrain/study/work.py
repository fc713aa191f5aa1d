"""How does one process work on a study: which lock, which log, and what is left of a failure?"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.files import locked, write_text
from posttrain.study.cells import DIAGNOSED, Cell, Group
from posttrain.study.kind import Kind

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


def share(kind: Kind, cell: Cell, root: Path, *, quiet: bool) -> list[Outcome]:
    """Make what the arms of a setting and seed share, unless another process just did."""
    return _work(
        [cell],
        lambda cells: [kind.run_shared(cells[0].recipe, DIAGNOSED)],
        root=root,
        name=cell.name.replace("/", "-"),
        quiet=quiet,
    )


def train(kind: Kind, group: Group, root: Path, *, quiet: bool) -> list[Outcome]:
    """Run a group's unfinished cells."""
    return _work(
        group.cells,
        lambda cells: kind.run([cell.recipe for cell in cells]),
        root=root,
        name=group.name,
        quiet=quiet,
    )


def _work(
    cells: Sequence[Cell],
    run: Callable[[Sequence[Cell]], list[Path | Exception]],
    *,
    root: Path,
    name: str,
    quiet: bool,
) -> list[Outcome]:
    """Run the unfinished cells under the unit's lock, and say what became of all.

    Args:
        cells: The unit's cells.
        run: Gives a path or an exception for each.
        root: The study's folder.
        name: The unit's name, for its lock and its log.
        quiet: Whether what the run prints goes to the log alone.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the units are the parallelism
    with locked(root / ".locks" / f"{name}.lock"), _log(root / "logs" / f"{name}.txt", quiet=quiet):
        todo = [cell for cell in cells if not cell.finished()]
        for cell in todo:  # a record's folder may hold nothing but a record
            (cell.folder / ERROR_FILE).unlink(missing_ok=True)
        start = time.monotonic()
        results = _guarded(run, todo)
        seconds = (time.monotonic() - start) / max(len(todo), 1)
        outcomes = {cell.name: Outcome(name=cell.name, state="found") for cell in cells}
        for cell, result in zip(todo, results, strict=True):
            outcomes[cell.name] = _close(cell, result, seconds)
    return list(outcomes.values())


def _guarded(
    run: Callable[[Sequence[Cell]], list[Path | Exception]], todo: Sequence[Cell]
) -> Sequence[Path | Exception]:
    """Results of the cells; an error of the whole unit is every cell's."""
    if not todo:
        return []
    try:
        return run(todo)
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
    with ExitStack() as stack:
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))
        yield
