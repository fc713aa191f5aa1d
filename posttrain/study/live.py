"""How far is a study? A table that is redrawn on a terminal, a line for each cell elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from posttrain.progress import say
from posttrain.record import Record
from posttrain.study.cells import Cell
from posttrain.study.settings import SHARED, Study
from posttrain.study.work import ERROR_FILE, Outcome

if TYPE_CHECKING:
    from rich.console import Group

MARKS = {"done": "●", "started": "◐", "failed": "✗", "waiting": "·"}
_COLOURS = {"done": "green", "started": "yellow", "failed": "red", "waiting": "dim"}


class Watch(Protocol):
    """Whom the study tells what became of its cells."""

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """These cells are over."""
        ...


class Lines:
    """A line on standard error for every cell that was worked on."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Start counting."""
        self.folders = {cell.name: cell for cell in cells}
        self.done = 0

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Say what is new; cells that were complete already only count."""
        for outcome in outcomes:
            self.done += 1
            if outcome.state != "found":
                say(f"[{self.done}/{len(self.folders)}] {self.line(outcome)}")

    def line(self, outcome: Outcome) -> str:
        """One cell in words."""
        if outcome.state == "failed":
            return f"{outcome.name}: failed: {outcome.reason}"
        value = _value(self.folders[outcome.name])
        told = "" if value is None else f", J {value:.3g}"
        return f"{outcome.name}: {outcome.seconds:.1f} s{told}"


class Live(Lines):
    """A table of settings and arms, each cell a mark, drawn anew from the records."""

    def __init__(self, study: Study, cells: Sequence[Cell]) -> None:
        """Start the clock."""
        super().__init__(cells)
        self.study, self.start = study, time.monotonic()
        self.failed: set[str] = set()
        self.values: dict[str, float] = {}
        self.seconds = 0.0

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Remember failures, which the folder of a cell that never began does not show."""
        self.failed |= {o.name for o in outcomes if o.state == "failed"}
        self.seconds += sum(o.seconds for o in outcomes)

    def screen(self) -> Group:
        """The state of all cells, read from their folders."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        columns = [SHARED, *(arm.name for arm in self.study.arms)]
        states = {name: self.state(cell) for name, cell in self.folders.items()}
        over = sum(state in {"done", "failed"} for state in states.values())
        minutes = (time.monotonic() - self.start) / 60
        grid = Table("setting", *columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
        title = f"{self.study.name}: {over}/{len(states)} cells, {minutes:.1f} min"
        title += f" ({self.seconds / 60:.1f} of work)"
        for setting in self.study.settings:
            entries = []
            for column in columns:
                names = [f"{setting.name}/{column}/seed-{s}" for s in self.study.seeds]
                marks = [states[name] for name in names if name in states]
                text = Text.assemble(*((MARKS[m], _COLOURS[m]) for m in marks))
                known = [self.values[name] for name in names if name in self.values]
                entries.append(text + (f" {sum(known) / len(known):.2f}" if known else ""))
            if any(entry.plain for entry in entries):
                grid.add_row(setting.name, *entries)
        return Group(Text(title), grid)

    def state(self, cell: Cell) -> str:
        """Done, failed, started or waiting."""
        record = Record(cell.folder)
        if (record.path / ".stages" / f"{cell.stage}.json").exists():
            if cell.name not in self.values and (value := _value(cell)) is not None:
                self.values[cell.name] = value
            return "done"
        if cell.name in self.failed or (record.path / ERROR_FILE).exists():
            return "failed"
        return "started" if record.recipe_file.exists() else "waiting"


def _value(cell: Cell) -> float | None:
    """The cell's return, in the reward's own units: of pi_0 where that is what was made."""
    record = Record(cell.folder)
    if (outcome := record.outcome()) is not None:
        return float(outcome["after"])
    diagnosis = record.diagnosis()
    return None if diagnosis is None else diagnosis.j_policy


@contextmanager
def watching(study: Study, shared: Sequence[Cell], rest: Sequence[Cell]) -> Iterator[Watch]:
    """Show how far a study is while the block runs."""
    cells = [*shared, *rest]
    if not sys.stderr.isatty():
        yield Lines(cells)
        return
    from rich.console import Console
    from rich.live import Live as Screen

    live = Live(study, cells)
    screen = Screen(
        console=Console(file=sys.stderr),  # this very one: work in this process is redirected
        get_renderable=live.screen,
        refresh_per_second=0.5,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with screen:
        yield live
