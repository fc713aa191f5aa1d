"""Do the rows of a table agree, with themselves and with one another?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posttrain.regime.column import UNKNOWN, Ints, ScoresError, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Columns = dict[str, npt.NDArray[Any]]


def agreeing(columns: Columns, rows: Ints | None = None) -> Columns:
    """Give columns back whose rows agree.

    Args:
        columns: As `read_columns` gives them.
        rows: Number of each row, for the sentences of errors; None counts from 1.

    Raises:
        ScoresError: For a return that is not finite, a sample that stands there twice, or a unit
            of two tasks; with the row.
    """
    numbers = np.arange(1, len(columns["return"]) + 1) if rows is None else rows
    _check_unscorable(columns, numbers)
    _check_duplicates(columns, numbers)
    _check_tasks(columns, numbers)
    return columns


def _check_unscorable(columns: Mapping[str, npt.NDArray[Any]], rows: Ints) -> None:
    """Refuse a return that is not finite, unless the row is unscorable: then it must be NaN."""
    returns = columns["return"]
    without = columns.get("unscorable", np.zeros(len(returns), dtype=bool))
    bad = np.where(without, ~np.isnan(returns), ~np.isfinite(returns))
    if bad.any():
        at = int(bad.argmax())
        wanted = "null, for an unscorable row," if without[at] else "a finite number,"
        got = "null or NaN" if np.isnan(returns[at]) else str(returns[at])
        raise ScoresError(f"row {rows[at]}, column 'return': wanted {wanted} got {got}")


def _check_duplicates(columns: Mapping[str, npt.NDArray[Any]], rows: Ints) -> None:
    """Refuse two rows that say they are the same sample of the same unit."""
    if "unit" not in columns or "seed" not in columns:
        return
    names = ("unit", "seed", "source", "split", "decoding")
    parts = [columns[name] for name in names if name in columns]
    hashed = np.sort(_hash(parts))
    if (hashed[1:] != hashed[:-1]).all():
        return
    first: dict[tuple[Any, ...], int] = {}
    for row, key in zip(rows, zip(*(part.tolist() for part in parts), strict=True), strict=True):
        if key[1] == UNKNOWN:
            continue
        if key in first:
            raise ScoresError(
                f"row {row}: duplicate unit {show(key[0])} with seed {key[1]}, as in row "
                f"{first[key]}; several samples of a unit need different seeds, or no seed"
            )
        first[key] = row


def _check_tasks(columns: Mapping[str, npt.NDArray[Any]], rows: Ints) -> None:
    """Refuse a unit of two tasks: its episodes would be averaged over both."""
    if "unit" not in columns or "task" not in columns:
        return
    first: dict[Any, tuple[Any, Any]] = {}
    units, tasks = columns["unit"].tolist(), columns["task"].tolist()
    for row, unit, task in zip(rows, units, tasks, strict=True):
        if task is None:
            continue
        number, other = first.setdefault(unit, (row, task))
        if task != other:
            raise ScoresError(
                f"row {row}: unit {show(unit)} is of task {show(task)} here and of task "
                f'{show(other)} in row {number}; a unit belongs to one task, as in "task/start"'
            )


def _hash(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.uint64]:
    """Mix the columns of each row into one number, equal for equal rows."""
    mixed = np.zeros(len(parts[0]), dtype=np.uint64)
    for part in parts:
        codes = np.fromiter(map(hash, part.tolist()), dtype=np.int64, count=len(part))
        mixed = (mixed ^ codes.view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed
