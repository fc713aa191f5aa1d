"""What is in an offline dataset, and what did its episodes return?

Transitions laid end to end, episode after episode, with raw rewards. Clipping actions, scaling
rewards and normalising returns belong to whoever learns or reports: here numbers stay as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from control.datasets.returns import discounted
from posttrain.regime.scores import Scores

__all__ = ["Dataset", "DatasetError", "DatasetWarning", "concat"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]

TRANSITIONS = ("observations", "actions", "rewards", "next_observations", "terminals", "ends")


class DatasetError(ValueError):
    """A dataset cannot be used, in a sentence that says where and why."""


class DatasetWarning(UserWarning):
    """A dataset can be used, but something in it is probably not as meant."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dataset:
    """Transitions of whole episodes, N rows in E episodes.

    Raises:
        DatasetError: When columns differ in length, hold NaN or infinity, or no episode ends the
            last row.
    """

    observations: Rows
    """`[N, do]`."""
    actions: Rows
    """`[N, da]`, as recorded: a learner clips them."""
    rewards: Floats
    """`[N]`, as the environment paid them."""
    next_observations: Rows
    """`[N, do]`; of a terminal row it is never used."""
    terminals: Bools
    """`[N]`: the task ended here, so nothing is bootstrapped. A time limit is no such end."""
    ends: Bools
    """`[N]`: the last row of its episode, for whatever reason."""
    name: str
    success: Bools | None = None
    """`[E]`: whether an episode reached its goal; None where the data cannot say."""
    incomplete: Bools | None = None
    """`[E]`: whether recording stopped in mid-episode, so that its return is not known."""
    last_rewards: Floats | None = None
    """`[E]`: reward of a last step whose next observation is unknown, NaN where there is none.

    Such a step is no transition that could be learnt from, but it was lived: `returns`, `lengths`
    and `mc_returns` count it.
    """
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where the data come from and what was done to them; values that JSON can hold."""

    def __post_init__(self) -> None:
        for name, kind in zip(TRANSITIONS, ("f4", "f4", "f8", "f4", "?", "?"), strict=True):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        _check_rows(self)
        for name, kind in (("success", "?"), ("incomplete", "?"), ("last_rewards", "f8")):
            values = getattr(self, name)
            if values is not None:
                values = np.asarray(values, dtype=kind)
                if values.shape != (self.episodes,):
                    raise DatasetError(
                        f"{name}: wanted one value for each of {self.episodes} episodes, "
                        f"got shape {values.shape}"
                    )
                object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def episodes(self) -> int:
        """How many episodes there are."""
        return int(self.ends.sum())

    @property
    def stops(self) -> Ints:
        """One past the last row of each episode, `[E]`."""
        return np.flatnonzero(self.ends) + 1

    @property
    def starts(self) -> Ints:
        """The first row of each episode, `[E]`."""
        return np.concatenate(([0], self.stops[:-1]))

    @property
    def episode(self) -> Ints:
        """Which episode each row belongs to, `[N]`."""
        return np.repeat(np.arange(self.episodes), self.stops - self.starts)

    @property
    def truncated(self) -> Bools:
        """Which episodes a time limit or the end of recording cut, `[E]`."""
        return ~self.terminals[self.stops - 1] | self._unheld

    @property
    def _unheld(self) -> Bools:
        if self.last_rewards is None:
            return np.zeros(self.episodes, dtype=bool)
        return np.isfinite(self.last_rewards)

    @property
    def _tails(self) -> Floats:
        if self.last_rewards is None:
            return np.zeros(self.episodes)
        return np.where(self._unheld, self.last_rewards, 0.0)

    def returns(self) -> Floats:
        """Sum the raw rewards of each episode, undiscounted, `[E]`."""
        return np.add.reduceat(self.rewards, self.starts) + self._tails

    def lengths(self) -> Ints:
        """Count the steps of each episode, `[E]`."""
        return self.stops - self.starts + self._unheld

    def mc_returns(
        self,
        gamma: float,
        *,
        scale: float = 1.0,
        bias: float = 0.0,
        bootstrap: npt.ArrayLike | None = None,
        failure_value: float | None = None,
    ) -> Floats:
        """Discount what each row's episode still paid: the bound that Cal-QL puts under Q.

        G_t = (scale r_t + bias) + γ (1 - terminal_t) G_{t+1}, within an episode. Scale and bias are
        applied here and nowhere else, so `rewards` stay raw.

        Args:
            gamma: γ, from 0 to 1.
            scale: Factor on every reward.
            bias: Added to every reward, after the factor.
            bootstrap: Value after the last step of a truncated episode, one number or `[E]`, in
                scaled rewards. None counts nothing after the cut: exact for tasks that end
                there, else too low (bias >= 0) or too high (bias < 0).
            failure_value: Given to every row of an episode without success, in scaled rewards.
                Cal-QL (Nakamoto et al. 2023, its data loader) uses (scale r_neg + bias) / (1 - γ)
                on sparse tasks: failure that goes on for ever.

        Returns:
            G `[N]`.

        Raises:
            DatasetError: For a γ outside [0, 1], or `failure_value` where success is unknown.
        """
        if not 0.0 <= gamma <= 1.0:
            raise DatasetError(f"gamma: wanted a number from 0 to 1, got {gamma!r}")
        if failure_value is not None and self.success is None:
            raise DatasetError(
                f"failure_value: '{self.name}' does not say which episodes succeeded (success is "
                "None); judge it first, or leave failure_value out"
            )
        after = np.zeros(self.episodes)
        if bootstrap is not None:
            after = np.where(self.truncated, np.asarray(bootstrap, dtype=float), 0.0)
        last = scale * self._tails + bias + gamma * after
        returns = discounted(
            scale * self.rewards + bias,
            self.terminals,
            self.ends,
            np.where(self._unheld, last, after),
            gamma,
        )
        if failure_value is not None and self.success is not None:
            returns[~self.success[self.episode]] = failure_value
        return returns

    def take(self, episodes: npt.ArrayLike) -> Dataset:
        """Keep some episodes, in the order given: indices, or booleans `[E]`.

        Raises:
            DatasetError: When none is left, or an index is out of range.
        """
        chosen = np.asarray(episodes)
        if chosen.dtype == np.bool_:
            if chosen.shape != (self.episodes,):
                raise DatasetError(
                    f"episodes: wanted {self.episodes} booleans, got shape {chosen.shape}"
                )
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if not len(chosen):
            raise DatasetError(f"episodes: none of {self.episodes} is left in '{self.name}'")
        if chosen.min() < 0 or chosen.max() >= self.episodes:
            raise DatasetError(
                f"episodes: wanted indices from 0 to {self.episodes - 1}, "
                f"got {chosen.min()} to {chosen.max()}"
            )
        rows = _rows_of(self.starts[chosen], self.stops[chosen])
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in TRANSITIONS}
        for name in ("success", "incomplete", "last_rewards"):
            values = getattr(self, name)
            columns[name] = None if values is None else values[chosen]
        return replace(self, **columns)

    def scores(self, score: Literal["return", "success"] = "return") -> Scores:
        """Tabulate one row an episode: what a diagnosis compares a policy against.

        An incomplete episode has no return and is unscorable, but its success stands if it came.

        Raises:
            DatasetError: When success is asked for and unknown.
        """
        if score not in {"return", "success"}:
            raise DatasetError(f'score: wanted "return" or "success", got {score!r}')
        if score == "success" and self.success is None:
            raise DatasetError(f"score: '{self.name}' does not say which episodes succeeded")
        values = self.returns() if self.success is None or score == "return" else 1.0 * self.success
        unknown = np.zeros(self.episodes, bool) if self.incomplete is None else self.incomplete
        if score == "success":
            unknown = unknown & (values == 0.0)
        return Scores(
            np.where(unknown, np.nan, values),
            unit=np.array([f"{self.name}/{i}" for i in range(self.episodes)], dtype=object),
            source=np.full(self.episodes, "dataset", dtype=object),
            steps=self.lengths(),
            success=self.success,
            truncated=self.truncated,
            unscorable=unknown if unknown.any() else None,
        )


def concat(*datasets: Dataset, name: str) -> Dataset:
    """Lay datasets end to end, as D4RL's "medium-expert" does.

    What some do not know per episode (`success`) is unknown for all.

    Raises:
        DatasetError: When nothing is given or dimensions differ.
    """
    shapes = {(d.observations.shape[1], d.actions.shape[1]) for d in datasets}
    if len(shapes) != 1:
        raise DatasetError(
            f"concat: wanted datasets of one observation and action size, got {sorted(shapes)}"
        )
    columns: dict[str, Any] = {
        column: np.concatenate([getattr(d, column) for d in datasets]) for column in TRANSITIONS
    }
    if all(d.success is not None for d in datasets):
        columns["success"] = np.concatenate([d.success for d in datasets if d.success is not None])
    for column, missing in (("incomplete", False), ("last_rewards", np.nan)):
        parts = [getattr(d, column) for d in datasets]
        if any(part is not None for part in parts):
            columns[column] = np.concatenate(
                [
                    np.full(d.episodes, missing) if part is None else part
                    for d, part in zip(datasets, parts, strict=True)
                ]
            )
    return Dataset(**columns, name=name, about={"parts": [dict(d.about) for d in datasets]})


def _check_rows(dataset: Dataset) -> None:
    rows = len(dataset.rewards)
    for name in TRANSITIONS:
        values = getattr(dataset, name)
        wanted = 2 if name in {"observations", "actions", "next_observations"} else 1
        if values.ndim != wanted or len(values) != rows:
            shape = f"[{rows}, d]" if wanted == 2 else f"[{rows}]"
            raise DatasetError(f"{name}: wanted shape {shape}, got {list(values.shape)}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values).reshape(rows, -1).all(axis=1))[0])
            raise DatasetError(f"{name}: wanted finite numbers, got NaN or infinity in row {bad}")
    if dataset.next_observations.shape != dataset.observations.shape:
        raise DatasetError(
            f"next_observations: wanted the shape of observations "
            f"{list(dataset.observations.shape)}, got {list(dataset.next_observations.shape)}"
        )
    if not rows or not dataset.ends[-1]:
        raise DatasetError("ends: wanted at least one row, and the last one to end its episode")


def _rows_of(starts: Ints, stops: Ints) -> Ints:
    """Indices of every row of the given episodes, in their order."""
    lengths = stops - starts
    offsets = np.repeat(starts - np.concatenate(([0], lengths.cumsum()[:-1])), lengths)
    return offsets + np.arange(lengths.sum())
