"""What do the other tasks say about this one? Partial pooling of gaps with known errors.

The normal hierarchical model of the eight schools (D. Rubin, J. Educ. Stat. 6, 1981; A. Gelman et
al., Bayesian Data Analysis, 3rd ed., section 5.4): with y_t the observed gap of task t and s_t its
standard error,

    y_t ~ N(theta_t, s_t²)        theta_t ~ N(mu, tau²)

mu is flat, tau half-Cauchy (A. Gelman, Bayesian Anal. 1, 2006), and both are integrated over: an
estimate of tau put in its place would often be 0, and every interval then too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from posttrain.regime.verdict import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.regime.sample import Pairing

Floats: TypeAlias = NDArray[np.float64]

SPREAD = 0.25
"""Median of the prior for tau, as a share of the reward's range: tasks often differ that much."""
POINTS = 400
HALVINGS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """The posterior of each task's gap, and of how much tasks differ."""

    means: Floats
    """`[tasks]`."""
    intervals: tuple[Interval, ...]
    """Of each task; each end has posterior probability alpha beyond it."""
    tau: float
    """Posterior median of the standard deviation of gaps over tasks."""
    tau_interval: Interval


def pool(gaps: Floats, errors: Floats, *, alpha: float) -> Pooled:
    """Shrink the gaps of tasks towards each other, as far as they agree.

    Args:
        gaps: Observed gaps `[tasks]`, on the scale where the reward's range is 1.
        errors: Their standard errors `[tasks]`, above 0; inf for a task that says nothing.
        alpha: Posterior probability beyond each end of an interval.

    >>> pooled = pool(np.array([-0.3, -0.1, -0.1, -0.1]), np.full(4, 0.05), alpha=0.05)
    >>> bool(-0.3 < pooled.means[0] < pooled.means.mean())
    True
    """
    grid, weights = _posterior_of_tau(gaps, errors)
    centre, spread = _given_tau(gaps, errors, grid)
    steps = np.cumsum(weights)
    ends = [float(grid[np.searchsorted(steps, level)]) for level in (alpha, 0.5, 1 - alpha)]
    return Pooled(
        means=weights @ centre,
        intervals=tuple(
            Interval(*(_quantile(m, s, weights, level) for level in (alpha, 1 - alpha)))
            for m, s in zip(centre.T, spread.T, strict=True)
        ),
        tau=ends[1],
        tau_interval=Interval(ends[0], ends[2]),
    )


def _posterior_of_tau(gaps: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Points of tau at equal prior probability, and the posterior's weight of each."""
    levels = (np.arange(POINTS) + 0.5) / POINTS
    grid = SPREAD * np.tan(0.5 * np.pi * levels)
    told = np.isfinite(errors)
    if not told.any():
        return grid, np.full(POINTS, 1 / POINTS)
    variances = errors[told] ** 2 + grid[:, None] ** 2
    mean = (gaps[told] / variances).sum(1) / (1 / variances).sum(1)
    log = -0.5 * (
        np.log((1 / variances).sum(1))
        + np.log(variances).sum(1)
        + ((gaps[told] - mean[:, None]) ** 2 / variances).sum(1)
    )
    weights = np.exp(log - log.max())
    return grid, weights / weights.sum()


def _given_tau(gaps: Floats, errors: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each task's gap at each tau, `[points, tasks]` both."""
    told = np.isfinite(errors)
    shown = np.where(told, gaps, 0.0)
    precision = np.where(told, 1 / errors**2, 0.0)
    between = grid[:, None] ** 2
    share = np.where(told, 1 / (np.where(told, errors, 1.0) ** 2 + between), 0.0)
    total = np.maximum(share.sum(1, keepdims=True), np.finfo(float).tiny)
    mean = (share * shown).sum(1, keepdims=True) / total
    own = precision * between / (1 + precision * between)
    centre = own * shown + (1 - own) * mean
    variance = between / (1 + precision * between) + (1 - own) ** 2 / total
    return centre, np.sqrt(variance)


def _quantile(means: Floats, deviations: Floats, weights: Floats, level: float) -> float:
    """The quantile of a mixture of normal distributions, by bisection."""
    each = means + deviations * ndtri(level)
    low, high = float(each.min()), float(each.max())
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        below = float(weights @ ndtr((middle - means) / deviations))
        low, high = (middle, high) if below < level else (low, middle)
    return 0.5 * (low + high)


def standard_errors(pairings: Sequence[Pairing], *, alpha: float, bounded: bool = True) -> Floats:
    """How far off the observed gaps may be, `[tasks]`, by one variance that all tasks share.

    A task's own variance moves with its own mean: near the ceiling the luckiest tasks would count
    as the surest and pull the others up. Simulated (10 tasks, 50 trials, success near 0.95), own
    variances miss on one side 12 % of the time at 5 % nominal, the shared one 7 %, both ends
    together 11 % at 10 %. Returns that tie get two more observations over all tasks, one at each
    end of what can occur, as A. Agresti and B. Caffo (Am. Stat. 54, 2000) add to binary returns:
    without one failure the variance is not 0. Few units count as t would count them.

    Args:
        pairings: Both sides of each task, on the unit scale.
        alpha: The level at which t and normal bounds shall agree.
        bounded: Whether the scale has ends; without them, no variance says nothing (inf).
    """
    squares = np.zeros(len(pairings))
    for part in _PARTS:
        groups = [part(pairing) for pairing in pairings]
        told = [group for group in groups if group is not None]
        if told:
            variance = _shared(told, alpha=alpha, bounded=bounded)
            squares += [0.0 if group is None else variance / group.values.size for group in groups]
    return np.sqrt(squares)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """What varies within one task: differences of pairs, or one side's returns."""

    values: Floats
    half: float
    """Half of the range that the values can have."""
    tied: bool


def _differences(pairing: Pairing) -> _Group | None:
    p, d = pairing.policy, pairing.dataset
    return _Group(p.values - d.values, 1.0, p.tied or d.tied) if pairing.paired else None


def _of_policy(pairing: Pairing) -> _Group | None:
    side = pairing.policy
    return None if pairing.paired else _Group(side.values, 0.5, side.tied)


def _of_dataset(pairing: Pairing) -> _Group | None:
    side = pairing.dataset
    return None if pairing.paired else _Group(side.values, 0.5, side.tied)


_PARTS = (_differences, _of_policy, _of_dataset)


def _shared(groups: Sequence[_Group], *, alpha: float, bounded: bool) -> float:
    """The variance within tasks, times the square of how much wider t is than normal."""
    squares = sum(float(((g.values - g.values.mean()) ** 2).sum()) for g in groups)
    freedom = sum(g.values.size - 1 for g in groups)
    if bounded and (squares == 0 or any(g.tied for g in groups)):
        squares, freedom = squares + 2 * groups[0].half ** 2, freedom + 2
    if squares == 0:
        return np.inf
    return squares / freedom * float(stdtrit(freedom, 1 - alpha) / ndtri(1 - alpha)) ** 2
