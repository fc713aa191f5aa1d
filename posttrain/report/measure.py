"""Numbers that a report shows and no file of the record holds: all of them per unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from posttrain.intervention.actions import ACTIONS, Action, action, mostly_right
from posttrain.regime.statistics import pass_at_k

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.regime.scores import Scores

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEVER, ALWAYS = 0, 5
BINS = ("never", "1–25%", "26–50%", "51–75%", "76–99%", "always")
"""Columns of the unit map: the share of pi_0's samples that succeed."""
ROWS = ("right", "wrong", "no score")
"""Rows of the unit map: what the unit's demonstration scores."""
CELLS: dict[Action, str] = {"demonstration": "keep", "rl": "rl", "drop": "drop", "fix": "fix"}
"""Cells of the unit map, by the action that each asks for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over units with its interval."""

    value: float
    low: float
    high: float
    units: int


@dataclass(frozen=True, slots=True)
class ByUnit:
    """Scores of one source, one entry a unit, in the order of the units' names."""

    units: NDArray[np.str_]
    mean: Floats
    """Mean return of the scorable episodes; NaN where there is none. [u]"""
    samples: Ints
    successes: Ints
    unscorable: Ints


def unit_names(scores: Scores) -> NDArray[np.str_]:
    """The unit of every episode; without units, each is its own."""
    names = np.arange(len(scores)) if scores.unit is None else scores.unit
    return np.asarray(names, dtype=str)


def by_unit(scores: Scores, *, cut: float) -> ByUnit:
    """Gather episodes by unit. An episode succeeds where `success` says so, else from `cut` on."""
    units, place = np.unique(unit_names(scores), return_inverse=True)
    size = len(units)
    returns = np.asarray(scores.returns, dtype=float)
    scorable = np.isfinite(returns)
    won = (
        scores.success if scores.success is not None else np.nan_to_num(returns, nan=-np.inf) >= cut
    )
    won = np.asarray(won, dtype=bool) & scorable
    counted = np.bincount(place[scorable], minlength=size)
    total = np.bincount(place[scorable], weights=returns[scorable], minlength=size)
    mean = np.full(size, np.nan)
    np.divide(total, counted, out=mean, where=counted > 0)
    samples = np.bincount(place, minlength=size)
    return ByUnit(
        units, mean, samples, np.bincount(place[won], minlength=size), samples - counted
    )  # fmt: skip


def mean_over_units(values: Floats, *, alpha: float = 0.05) -> Estimate:
    """Mean with a two-sided Student interval at level 1 - alpha; units are the sample."""
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"), 1)
    half = float(stdtrit(n - 1, 1 - alpha / 2) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


@dataclass(frozen=True, slots=True)
class UnitMap:
    """Units placed by what their demonstration scores and how often pi_0 succeeds."""

    table: Ints
    """Units, as [ROWS, BINS]."""
    cells: dict[str, NDArray[np.str_]]
    """Units with each of the four meanings: keep, rl, drop, fix."""
    units: int
    without_demonstration: int
    without_rollout: int


def unit_map(policy: ByUnit, dataset: ByUnit) -> UnitMap:
    """Place every unit that both sides know."""
    shared, mine, theirs = np.intersect1d(policy.units, dataset.units, return_indices=True)
    scored = dataset.samples[theirs] - dataset.unscorable[theirs]
    right = mostly_right(dataset.successes[theirs], scored)
    row = np.where(scored == 0, 2, np.where(right, 0, 1))
    rate = policy.successes[mine] / np.maximum(policy.samples[mine], 1)
    column = np.where(rate <= 0, NEVER, np.where(rate >= 1, ALWAYS, np.ceil(rate * 4))).astype(int)
    table = np.zeros((len(ROWS), len(BINS)), dtype=np.int64)
    np.add.at(table, (row, column), 1)
    actions = np.array(
        [action(right=bool(r), found=bool(f)) for r, f in zip(right, column > NEVER, strict=True)],
        dtype=str,
    )
    return UnitMap(
        table=table,
        cells={CELLS[name]: shared[actions == name] for name in ACTIONS},
        units=len(shared),
        without_demonstration=len(policy.units) - len(shared),
        without_rollout=len(dataset.units) - len(shared),
    )


@dataclass(frozen=True, slots=True)
class PassCurve:
    """pass@k with a bootstrap interval over units."""

    k: Ints
    value: Floats
    low: Floats
    high: Floats
    units: int


def pass_curve(policy: ByUnit, rng: np.random.Generator, *, draws: int = 1000) -> PassCurve:
    """pass@k for k = 1, 2, 4, ... up to the samples that every unit has.

    Unbiased in each unit (Chen et al., arXiv 2107.03374): 1 - C(n - c, k) / C(n, k). The
    interval is the central 95% of `draws` bootstrap means over units.
    """
    most = int(policy.samples.min())
    ks = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})
    per_unit = np.stack([pass_at_k(policy.samples, policy.successes, k) for k in ks], axis=1)
    n = len(per_unit)
    means = np.empty((draws, len(ks)))
    for i in range(draws):
        weights = np.bincount(rng.integers(0, n, n), minlength=n)
        means[i] = weights @ per_unit / n
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return PassCurve(np.array(ks), per_unit.mean(axis=0), low, high, n)


def no_signal(policy: ByUnit, group: int) -> float:
    """Expected share of groups of `group` samples that all succeed or all fail.

    A group-relative method learns nothing from such a group. Unbiased in each unit; units with
    fewer samples than the group are left out. NaN when none is left.
    """
    enough = policy.samples >= group
    if not enough.any():
        return float("nan")
    n, c = policy.samples[enough], policy.successes[enough]
    return float(np.mean(2.0 - pass_at_k(n, c, group) - pass_at_k(n, n - c, group)))


@dataclass(frozen=True, slots=True)
class Curve:
    """Held-out return at every evaluation, each a mean over units with its interval."""

    steps: Ints
    points: tuple[Estimate, ...]

    @property
    def values(self) -> Floats:
        """Means, in the order of the steps."""
        return np.array([p.value for p in self.points])


def curve(steps: Sequence[int], units: Sequence[str], returns: Sequence[float]) -> Curve:
    """Average by step and unit, then over units."""
    step, unit = np.asarray(steps, dtype=np.int64), np.asarray(units, dtype=str)
    value = np.asarray(returns, dtype=float)
    _, unit_place = np.unique(unit, return_inverse=True)
    points, found = [], np.unique(step)
    for at in found:
        here = (step == at) & np.isfinite(value)
        count = np.bincount(unit_place[here])
        total = np.bincount(unit_place[here], weights=value[here])
        points.append(mean_over_units(total[count > 0] / count[count > 0]))
    return Curve(found, tuple(points))


def running_median(values: Floats, window: int) -> Floats:
    """Median over a centred window that shrinks at the ends."""
    half = window // 2
    return np.array(
        [np.nanmedian(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )
