"""Returns of one kind of answer, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.llm.data import Row
from posttrain.llm.reward import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Returns of one kind of answer, row by row; None where the reward declines."""

    values: tuple[float | None, ...]
    parsed: tuple[bool, ...]

    def mean(self, low: float) -> float:
        """Mean return; an answer that is not judged is worth the least."""
        return sum(low if v is None else v for v in self.values) / len(self.values)

    def share(self, wanted: Callable[[float], bool]) -> float:
        """Share of rows whose return is as wanted."""
        return sum(v is not None and wanted(v) for v in self.values) / len(self.values)


def mark(judge: Judge, rows: Sequence[Row], answers: Sequence[str]) -> Marks:
    """Judge one answer a row.

    Raises:
        RewardError: the reward raised, or left its scale.
    """
    found = judge([row.reward_columns() for row in rows], list(answers))
    return Marks(
        values=tuple(j.value for j in found),
        parsed=tuple(j.parsed for j in found),
    )


def right(row: Row) -> str:
    """The answer that D calls right: the row's own, or else its demonstration."""
    return row.completion if row.answer is None else row.answer
