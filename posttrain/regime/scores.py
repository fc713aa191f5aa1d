"""What did each episode return, of which unit and from where?

The one data shape that a diagnosis starts from: a table with one row an episode, held as columns,
read from and written to JSONL, CSV and Parquet.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from posttrain.files import replacing
from posttrain.regime.agreement import agreeing
from posttrain.regime.column import (
    CHOICES,
    Bools,
    Floats,
    Ints,
    ScoresError,
    Strings,
    drop_unknown,
    either,
    known,
    read_columns,
    unknown,
)
from posttrain.regime.table import read_table, transpose, write_table

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

__all__ = ["Scores", "ScoresError", "concat", "read_scores", "write_scores"]

Source: TypeAlias = Literal["policy", "dataset"]
Split: TypeAlias = Literal["seen", "heldout"]
Decoding: TypeAlias = Literal["rollout", "deployment"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Episodes and their returns, one array a column.

    Every column but `returns` may be absent (None). A column in which nothing is known is absent.

    >>> scores = Scores([0.0, 1.0, 1.0], unit=["a", "a", "b"])
    >>> len(scores), scores.returns.mean().round(3).item()
    (3, 0.667)

    Raises:
        ScoresError: When columns differ in length, or a value is not what its column holds.
    """

    returns: Floats
    """What RL maximises, `[n]`, finite; NaN exactly where `unscorable`. In files, `return`."""
    unit: Strings | None = None
    """What is sampled independently and can be paired, `[n]`: a prompt, a task and its start."""
    source: Strings | None = None
    """"policy" or "dataset", `[n]`; None where unknown."""
    seed: Ints | None = None
    """Which of its unit's samples an episode is, `[n]`; -1 where unknown."""
    steps: Ints | None = None
    """Length of the episode, in environment steps or tokens, `[n]`; -1 where unknown."""
    success: Bools | None = None
    """Whether the episode reached its goal, `[n]`."""
    truncated: Bools | None = None
    """Whether a limit on length ended the episode, `[n]`."""
    unscorable: Bools | None = None
    """Whether no return could be given, `[n]`."""
    text: Strings | None = None
    """What was said or done, `[n]`; None where unknown."""
    prompt: Strings | None = None
    """What it answered, `[n]`; None where unknown."""
    split: Strings | None = None
    """Whether training saw the unit: "seen" or "heldout", `[n]`; None where unknown."""
    decoding: Strings | None = None
    """How the policy was sampled: "rollout" or "deployment", `[n]`; None where unknown."""
    task: Strings | None = None
    """Which task a unit is of, `[n]`; None where unknown. A unit has one task."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, field) for field, name in FIELDS.items()}
        _hold(self, agreeing(read_columns(given)))

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def scorable(self) -> Scores:
        """The episodes that have a return."""
        return self if self.unscorable is None else self.where(~self.unscorable)

    def where(
        self,
        mask: npt.ArrayLike | None = None,
        *,
        source: Source | None = None,
        split: Split | None = None,
        decoding: Decoding | None = None,
        task: str | None = None,
    ) -> Scores:
        """Keep the episodes that fulfil every condition, perhaps none.

        Args:
            mask: Booleans `[n]`.
            source: Keep this source.
            split: Keep this split.
            decoding: Keep this decoding.
            task: Keep this task.

        Raises:
            ScoresError: When a condition is on an absent column or a value it cannot hold.
        """
        keep = np.ones(len(self), dtype=bool)
        if mask is not None:
            given = np.asarray(mask)
            if given.dtype != np.bool_ or given.shape != keep.shape:
                raise ScoresError(
                    f"mask must be {len(self)} booleans, got {given.dtype} of shape {given.shape}"
                )
            keep &= given
        conditions = {"source": source, "split": split, "decoding": decoding, "task": task}
        for name, wanted in conditions.items():
            if wanted is None:
                continue
            column = getattr(self, name)
            if wanted not in CHOICES.get(name, (wanted,)):
                raise ScoresError(f"{name} is {either(CHOICES[name])}, got {wanted!r}")
            if column is None:
                raise ScoresError(f"there is no column '{name}' to look for {wanted!r} in")
            keep &= column == wanted
        return self._take(keep)

    def rows(self) -> list[dict[str, Any]]:
        """List the episodes as plain dicts keyed as in files, None where unknown."""
        columns = {name: known(name, column) for name, column in _present(self).items()}
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Scores:
        """Build scores from dicts keyed as in files: the inverse of `rows`.

        Raises:
            ScoresError: When there is no row, or one has an unknown key or a wrong value.
        """
        return _scores(transpose(rows), None)

    def _take(self, keep: Bools) -> Scores:
        return _checked(drop_unknown({n: c[keep] for n, c in _present(self).items()}))


FIELDS: Final = {
    field.name: "return" if field.name == "returns" else field.name for field in fields(Scores)
}
COLUMNS: Final = tuple(FIELDS.values())


def concat(*scores: Scores) -> Scores:
    """Lay tables end to end.

    A column that one of them lacks is filled with "unknown" where it can say so (`source`, `seed`,
    `steps`, `text`, `prompt`, `split`, `decoding`, `task`), and `unscorable` with False, which is
    exact.

    Raises:
        ScoresError: When nothing is given, or some but not all have `unit`, `success` or
            `truncated`, which have no value for "unknown".
    """
    if not scores:
        raise ScoresError("concat needs at least one table of scores, got none")
    merged: dict[str, Any] = {}
    for field in FIELDS:
        parts = [getattr(table, field) for table in scores]
        lacking = [i for i, part in enumerate(parts) if part is None and len(scores[i])]
        if len(lacking) == len(parts) or all(part is None for part in parts):
            continue
        if lacking and field in {"unit", "success", "truncated"}:
            raise ScoresError(
                f"table {lacking[0] + 1} of {len(scores)} has no column '{field}' while another "
                f"has: fill it in, or leave it out of all with dataclasses.replace(_, {field}=None)"
            )
        merged[field] = np.concatenate(
            [
                unknown(field, len(table)) if part is None else part
                for part, table in zip(parts, scores, strict=True)
            ]
        )
    return Scores(**merged)


def read_scores(path: str | os.PathLike[str], *, source: Source | None = None) -> Scores:
    """Read scores from a .jsonl, .csv or .parquet file.

    Args:
        path: The file; its suffix says the format.
        source: Keep the rows of this source. A file without that column is taken to be all of it.

    Raises:
        ScoresError: Naming file, row (the first is 1, a header not counted), column, what was
            wanted and what came.
    """
    path = Path(path)
    if source is not None and source not in CHOICES["source"]:
        raise ScoresError(f"source is {either(CHOICES['source'])}, got {source!r}")
    try:
        return _scores(read_table(path), source)
    except ScoresError as error:
        raise ScoresError(f"{path}: {error}") from None
    except OSError as error:
        raise ScoresError(f"{path}: cannot be read ({error.strerror or error})") from error


def write_scores(scores: Scores, path: str | os.PathLike[str]) -> None:
    """Write scores to a .jsonl, .csv or .parquet file, all of them or none.

    Raises:
        ScoresError: When there is nothing to write, or for another suffix.
    """
    path = Path(path)
    if not len(scores):
        raise ScoresError(f"{path}: there are no scores to write")
    with replacing(path) as partial:
        write_table(_present(scores), partial, like=path)


def _present(scores: Scores) -> dict[str, npt.NDArray[Any]]:
    return {
        name: column
        for field, name in FIELDS.items()
        if (column := getattr(scores, field)) is not None
    }


def _scores(raw: Mapping[str, Any], source: Source | None) -> Scores:
    """Select the rows of one source, then check: what the other source lacks does not matter."""
    rows = np.arange(1, len(raw["return"]) + 1)
    if not len(rows):
        raise ScoresError("there are no rows")
    if source is not None:
        raw, rows = _select(raw, rows, source)
    return _checked(agreeing(read_columns(raw, rows), rows))


def _hold(scores: Scores, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    for field, name in FIELDS.items():
        object.__setattr__(scores, field, columns.get(name))


def _checked(columns: Mapping[str, npt.NDArray[Any]]) -> Scores:
    """Hold columns that were checked before: checking a million rows takes a second."""
    scores = Scores.__new__(Scores)
    _hold(scores, columns)
    return scores


def _select(raw: Mapping[str, Any], rows: Ints, source: Source) -> tuple[Mapping[str, Any], Ints]:
    """Keep the rows of one source; without that column, take all rows to be of it."""
    checked = read_columns({"return": np.zeros(len(rows)), "source": raw.get("source")}, rows)
    if "source" not in checked:
        return {**raw, "source": [source] * len(rows)}, rows
    keep = checked["source"] == source
    if not keep.any():
        raise ScoresError(f"no row has source {source!r}: all {len(rows)} have another")
    if keep.all():
        return raw, rows
    kept = np.flatnonzero(keep)
    return {
        name: values[kept] if isinstance(values, np.ndarray) else [values[i] for i in kept]
        for name, values in raw.items()
    }, rows[kept]
