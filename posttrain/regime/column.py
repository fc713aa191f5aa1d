"""What may each column of a table of scores hold?

Columns are named as in files. Whatever comes (lists out of JSON, arrays) becomes one array of one
type, or is refused with the row, the column, what was wanted and what came.
"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Strings: TypeAlias = npt.NDArray[np.object_]

CHOICES: Final = {
    "source": ("policy", "dataset"),
    "split": ("seen", "heldout"),
    "decoding": ("rollout", "deployment"),
}
COUNTS: Final = ("seed", "steps")
FLAGS: Final = ("success", "truncated", "unscorable")
COLUMNS: Final = (
    "return", "unit", "source", "seed", "steps", *FLAGS, "text", "prompt", "split", "decoding",
    "task",
)  # fmt: skip
UNKNOWN: Final = -1
"""What a column of whole numbers holds where a file has null."""
LARGEST: Final = 2**63 - 1


class ScoresError(ValueError):
    """A table of scores that cannot be used, in a sentence that says where and why."""


def either(choices: Sequence[str]) -> str:
    """Spell out a choice: '"policy" or "dataset"'."""
    return " or ".join(f'"{choice}"' for choice in choices)


def check_names(names: Sequence[str]) -> None:
    """Refuse columns that no table has, that stand twice, or a table without returns."""
    for name in names:
        if name not in COLUMNS:
            close = difflib.get_close_matches(str(name), COLUMNS, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            known = ", ".join(COLUMNS)
            raise ScoresError(f"unknown column {show(name)}{hint} (known columns: {known})")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ScoresError(f"column '{twice}' stands there twice")
    if "return" not in names:
        raise ScoresError(f"column 'return' is missing (there: {', '.join(names) or 'nothing'})")


def read_columns(raw: Mapping[str, Any], rows: Ints | None = None) -> dict[str, npt.NDArray[Any]]:
    """Turn each column into one array of its type; drop those in which nothing is known.

    Args:
        raw: Column name -> values `[n]`; None for an absent column.
        rows: Number of each row, for the sentences of errors; None counts from 1.

    Raises:
        ScoresError: Naming row, column, what was wanted and what came.
    """
    given = {name: _one_dimensional(name, raw[name]) for name in raw if raw[name] is not None}
    check_names(list(given))
    length = len(given["return"])
    for name, values in given.items():
        if len(values) != length:
            raise ScoresError(
                f"column '{name}' has {len(values)} values while 'return' has {length}"
            )
    numbers = np.arange(1, length + 1) if rows is None else rows
    return drop_unknown(
        {
            name: _read_column(name, values, numbers)
            for name, values in given.items()
            if name == "return" or not _all_null(values)
        }
    )


def drop_unknown(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Leave out the columns in which nothing is known: they say as much as absent ones."""
    return {name: column for name, column in columns.items() if _says_something(name, column)}


def _all_null(values: npt.NDArray[Any] | list[Any]) -> bool:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return False
    return all(value is None for value in values)


def _says_something(name: str, column: npt.NDArray[Any]) -> bool:
    if name in COUNTS:
        return bool((column != UNKNOWN).any())
    return name == "return" or not _all_null(column)


def unknown(name: str, length: int) -> npt.NDArray[Any]:
    """Fill a column with "unknown"; for `unscorable` that is False."""
    if name in COUNTS:
        return np.full(length, UNKNOWN)
    if name == "unscorable":
        return np.zeros(length, dtype=bool)
    return np.full(length, None, dtype=object)


def known(name: str, column: npt.NDArray[Any]) -> list[Any]:
    """List a column's values as plain Python ones, None where unknown."""
    values: list[Any] = column.tolist()
    if name == "return":
        return [None if math.isnan(value) else value for value in values]
    if name in COUNTS:
        return [None if value == UNKNOWN else value for value in values]
    return values


def _one_dimensional(name: str, values: Any) -> npt.NDArray[Any] | list[Any]:
    if isinstance(values, list):
        return values
    array = np.asarray(values)
    if array.ndim != 1:
        raise ScoresError(f"column '{name}' must be one-dimensional, got shape {array.shape}")
    return array


def _read_column(name: str, values: npt.NDArray[Any] | list[Any], rows: Ints) -> npt.NDArray[Any]:
    if name == "return":
        return _read_returns(values, rows)
    if name in COUNTS:
        return _read_counts(name, values, rows)
    if name in FLAGS:
        return _read_flags(name, values, rows)
    return _read_strings(name, values, rows)


def _read_returns(values: npt.NDArray[Any] | list[Any], rows: Ints) -> Floats:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64, copy=False)
    plain = _plain(values)
    if not set(map(type, plain)) <= {float, int, type(None)}:
        for row, value in zip(rows, plain, strict=True):
            if type(value) not in {float, int, type(None)}:
                raise _wrong(row, "return", "a number", value)
    try:
        return np.array([math.nan if value is None else value for value in plain], dtype=float)
    except OverflowError:
        row, value = next(
            (row, value)
            for row, value in zip(rows, plain, strict=True)
            if type(value) is int and abs(value) > 1e308
        )
        raise _wrong(row, "return", "a finite number", value) from None


def _read_counts(name: str, values: npt.NDArray[Any] | list[Any], rows: Ints) -> Ints:
    if isinstance(values, np.ndarray) and values.dtype.kind == "i":
        column = values.astype(np.int64, copy=False)
        if (column >= UNKNOWN).all():
            return column
    whole: list[int] = []
    for row, value in zip(rows, _plain(values), strict=True):
        count = UNKNOWN if value is None else value
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if type(count) is not int or not UNKNOWN <= count <= LARGEST:
            raise _wrong(row, name, "a whole number from 0 to 2^63 - 1", value)
        whole.append(count)
    return np.array(whole, dtype=np.int64)


def _read_flags(name: str, values: npt.NDArray[Any] | list[Any], rows: Ints) -> Bools:
    if isinstance(values, np.ndarray) and values.dtype == np.bool_:
        return values
    plain = _plain(values)
    if not set(map(type, plain)) <= {bool}:
        for row, value in zip(rows, plain, strict=True):
            if type(value) is not bool:
                raise _wrong(row, name, "true or false", value)
    return np.array(plain, dtype=bool)


def _read_strings(name: str, values: npt.NDArray[Any] | list[Any], rows: Ints) -> Strings:
    plain = _plain(values)
    if name == "unit" and int in (kinds := set(map(type, plain))) and kinds <= {int, str}:
        plain = [str(value) for value in plain]
    wanted = either(CHOICES[name]) if name in CHOICES else "text"
    allowed = set(CHOICES.get(name, ()))
    if allowed and _all_strings(plain, optional=True):
        fine = set(plain) <= allowed | {None}
    else:
        fine = not allowed and _all_strings(plain, optional=name != "unit")
    if not fine:
        for row, value in zip(rows, plain, strict=True):
            missing = value is None and name != "unit"
            choice = not allowed or (type(value) is str and value in allowed)
            if not missing and not (_all_strings([value], optional=False) and choice):
                raise _wrong(row, name, wanted, value)
    column = np.empty(len(plain), dtype=object)
    column[:] = plain
    return column


def _all_strings(values: Sequence[Any], *, optional: bool) -> bool:
    """Whether all are text that UTF-8 can hold; a lone surrogate is not."""
    if not set(map(type, values)) <= ({str, type(None)} if optional else {str}):
        return False
    told = [value for value in values if value is not None] if optional else values
    if all(map(str.isascii, told)):
        return True
    try:
        for value in told:
            value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(values: npt.NDArray[Any] | list[Any]) -> list[Any]:
    plain: list[Any] = values if isinstance(values, list) else values.tolist()
    return plain


def _wrong(row: Any, name: str, wanted: str, got: Any) -> ScoresError:
    return ScoresError(f"row {row}, column '{name}': wanted {wanted}, got {show(got)}")


def show(value: Any) -> str:
    """Write what came as JSON would, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    try:
        shown = repr(value)
    except ValueError:  # more digits than Python converts
        shown = "a number too long to print"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
