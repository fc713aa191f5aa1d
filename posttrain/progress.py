"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """What work reports to."""

    def update(self, done: int) -> None:
        """So much is done."""
        ...

    def note(self, text: str) -> None:
        """How it is going."""
        ...


class Silent:
    """For processes other than the first."""

    def update(self, done: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class Lines:
    """A line on standard error at most every `seconds`."""

    def __init__(self, title: str, total: int, *, seconds: float = 15.0) -> None:
        """Start counting."""
        self.title, self.total, self.seconds = title, total, seconds
        self.text, self.last = "", time.monotonic()

    def update(self, done: int) -> None:
        """Speak if it has been quiet for long, or if the work is done."""
        if time.monotonic() - self.last >= self.seconds or done == self.total:
            self.last = time.monotonic()
            sys.stderr.write(f"{self.title}: {done}/{self.total}  {self.text}\n")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        """Remember for the next line."""
        self.text = text


class _Rich:
    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self.task = self.progress.add_task(title, total=total, note="")

    def update(self, done: int) -> None:
        self.progress.update(self.task, completed=done)

    def note(self, text: str) -> None:
        self.progress.update(self.task, note=text)


@contextmanager
def bar(title: str, total: int, *, speak: bool = True) -> Iterator[Bar]:
    """Show the progress of `total` units of work while the block runs."""
    if not speak:
        yield Silent()
    elif sys.stderr.isatty():
        shown = _Rich(title, total)
        with shown.progress:
            yield shown
    else:
        yield Lines(title, total)


def say(text: str, *, speak: bool = True) -> None:
    """A line on standard error."""
    if speak:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
