"""How large is the gap, and how sure is that? Intervals for means and for their difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from posttrain.regime.bounded import lower_bound, upper_bound
from posttrain.regime.verdict import Interval, Regime, decide

if TYPE_CHECKING:
    from posttrain.regime.sample import Floats, Pairing, Sample

POWER = 0.8
MOST_UNITS = 1_000_000


def gap_interval(pairing: Pairing, *, alpha: float, times: float = 1.0) -> Interval:
    """Bound the gap J(pi_0) - J(D) from both sides, each with error alpha.

    With matched units the differences of unit means are one sample, which makes the interval
    robust to clustering of episodes within units. Otherwise the two sides are independent.

    Args:
        pairing: Both sides on the unit scale.
        alpha: Error of each end.
        times: Pretend that the sample had been seen this many times, for planning.
    """
    policy, dataset = pairing.policy.values, pairing.dataset.values
    tied = pairing.policy.tied or pairing.dataset.tied
    if pairing.paired:
        return mean_interval(policy - dataset, (-1.0, 1.0), tied=tied, alpha=alpha, times=times)
    if not tied:
        return welch_interval(policy, dataset, alpha=alpha, times=times)
    p = mean_interval(policy, (0.0, 1.0), tied=True, alpha=alpha, times=times)
    d = mean_interval(dataset, (0.0, 1.0), tied=True, alpha=alpha, times=times)
    mean_p, mean_d = float(policy.mean()), float(dataset.mean())
    gap = mean_p - mean_d
    return Interval(
        gap - float(np.hypot(mean_p - p.low, d.high - mean_d)),
        gap + float(np.hypot(p.high - mean_p, mean_d - d.low)),
    )


def mean_interval(
    values: Floats, ends: tuple[float, float], *, tied: bool, alpha: float, times: float = 1.0
) -> Interval:
    """Bound a mean from both sides, each with error alpha.

    Returns that tie are discrete: they may show no variance, or one that a rare failure would
    multiply, and a t interval errs too often. They get the exact kind of bound; all others the
    t interval.
    """
    if tied:
        support, counts = np.unique(values, return_counts=True)
        weights = np.asarray(counts * times, dtype=np.float64)
        return Interval(
            lower_bound(support, weights, alpha=alpha, bottom=ends[0]),
            upper_bound(support, weights, alpha=alpha, top=ends[1]),
        )
    n = values.size * times
    half = stdtrit(n - 1, 1 - alpha) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(values.mean() - half), float(values.mean() + half))


def welch_interval(
    policy: Floats, dataset: Floats, *, alpha: float, times: float = 1.0
) -> Interval:
    """Welch's interval for a difference of two independent means (Biometrika 34, 1947)."""
    n, m = policy.size * times, dataset.size * times
    a, b = policy.var(ddof=1) / n, dataset.var(ddof=1) / m
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    half = stdtrit(freedom, 1 - alpha) * np.sqrt(a + b)
    gap = policy.mean() - dataset.mean()
    return Interval(float(gap - half), float(gap + half))


def level_interval(side: Sample, *, alpha: float) -> Interval:
    """Bound one side's mean on the unit scale, at level 1 - alpha."""
    ends = mean_interval(side.values, (0.0, 1.0), tied=side.tied, alpha=alpha / 2)
    return Interval(max(ends.low, 0.0), min(ends.high, 1.0))


def units_needed(pairing: Pairing, *, margin: float, alpha: float) -> int | None:
    """Further units that would decide with power 0.8, were the sample as good as the truth.

    The sample is repeated until its interval, at the level whose normal quantile is the sum of
    the quantiles of 1 - alpha and of the power, would give a verdict. Without matched units both
    sides grow in proportion, and the policy's further units are counted.

    Returns:
        None when a million units would not do: the gap is estimated on the margin.
    """
    strict = float(ndtr(-(ndtri(1 - alpha) + ndtri(POWER))))
    units = pairing.policy.values.size

    def decided(total: int) -> bool:
        interval = gap_interval(pairing, alpha=strict, times=total / units)
        return decide(interval, margin) is not Regime.UNDECIDED

    too_few, enough = units, units + 1
    while not decided(enough):
        if enough >= MOST_UNITS:
            return None
        too_few, enough = enough, min(2 * enough, MOST_UNITS)
    while enough - too_few > max(1, enough // 200):
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if decided(middle) else (middle, enough)
    return enough - units
