"""How many groups of rollouts teach nothing? Those whose returns are all equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, comb

from posttrain.regime.gap import mean_interval
from posttrain.regime.verdict import Interval

if TYPE_CHECKING:
    from posttrain.regime.scores import Scores

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
How: TypeAlias = Literal["counted", "beta_binomial", "bounds"]

DRAWS = 4000
GRID = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentShare:
    """The share of groups without a gradient that RL from pi_0 should expect."""

    share: float
    """The estimate; the least that there can be where `how` is `bounds`."""
    low: float
    high: float
    group: int
    """Rollouts of a group, all from one start."""
    groups: int
    """Starts that the estimate rests on."""
    how: How
    """`counted`: starts have enough samples each. `beta_binomial`: they have several, and a model
    of how starts of a task differ fills in. `bounds`: one sample a start shows nothing of how
    starts differ, or returns take more than two values; all starts of a task alike is the least,
    and 1 the most."""


def silent_share(policy: Scores, group: int, *, alpha: float = 0.05) -> SilentShare:
    """Expect the share of groups whose rollouts all return the same, and so teach nothing.

    Args:
        policy: Scores of pi_0 under the rollout's decoding, with units; tasks where known.
        group: Rollouts of one start that are compared with each other, at least 2.
        alpha: Chance that the share lies beyond an end of the interval, each end.

    Raises:
        ValueError: For a group below 2, or scores without units or without returns.
    """
    if group < 2:
        raise ValueError(f"group must be at least 2 rollouts, got {group}")
    known = policy.scorable
    if known.unit is None or not len(known):
        raise ValueError("the share of silent groups needs scores with the column 'unit'")
    table, tasks = _counts(known)
    sizes = table.sum(1)
    if sizes.min() >= group:
        each = comb(table, group).sum(1) / comb(sizes, group)
        interval = _counted(each, alpha=alpha)
        return _told(float(each.mean()), interval, group, len(table), "counted")
    draw = np.random.default_rng(0)
    parts = [table[tasks == task] for task in np.unique(tasks)]
    weights = np.array([len(part) for part in parts]) / len(table)
    if sizes.min() >= 2 and table.shape[1] <= 2:
        shares = weights @ np.stack([_modelled(part, group, draw) for part in parts])
        ends = Interval(*(float(x) for x in np.quantile(shares, [alpha, 1 - alpha])))
        return _told(float(shares.mean()), ends, group, len(table), "beta_binomial")
    least, shares = (weights @ np.stack(x) for x in zip(*(_alike(p, group, draw) for p in parts),
                                                        strict=True))  # fmt: skip
    low = min(float(least), float(np.quantile(shares, alpha)))
    return _told(float(least), Interval(low, 1.0), group, len(table), "bounds")


def _told(share: float, interval: Interval, group: int, groups: int, how: How) -> SilentShare:
    return SilentShare(
        share=share, low=interval.low, high=interval.high, group=group, groups=groups, how=how
    )


def _counts(known: Scores) -> tuple[Counts, NDArray[np.object_]]:
    """How often each start returned each value `[starts, values]`, and the task of each start."""
    units = np.asarray(known.unit, dtype=object)
    names, first, unit = np.unique(units, return_index=True, return_inverse=True)
    values, value = np.unique(known.returns, return_inverse=True)
    table = np.zeros((len(names), len(values)), dtype=np.int64)
    np.add.at(table, (unit, value), 1)
    if known.task is None:
        return table, np.full(len(names), "", dtype=object)
    tasks = known.task[first]
    return table, np.array(["" if task is None else task for task in tasks], dtype=object)


def _counted(each: Floats, *, alpha: float) -> Interval:
    """Bound the mean over starts; of a start's unbiased estimate, which lies in [0, 1]."""
    interval = mean_interval(each, (0.0, 1.0), tied=True, alpha=alpha)
    return Interval(max(0.0, interval.low), min(1.0, interval.high))


def _modelled(table: Counts, group: int, draw: np.random.Generator) -> Floats:
    """Posterior draws of a task's share, were its starts' chances beta-distributed.

    The mean has Jeffreys' prior, the correlation of two samples of one start a uniform one.
    """
    mean = np.sin(0.5 * np.pi * (np.arange(GRID) + 0.5) / GRID) ** 2
    alike = (np.arange(GRID) + 0.5) / GRID
    size = (1 - alike) / alike
    a, b = (np.outer(x, size).ravel() for x in (mean, 1 - mean))
    hits = table[:, -1] if table.shape[1] == 2 else table.sum(1)
    misses = table.sum(1) - hits
    pairs, times = np.unique(np.stack([hits, misses]), axis=1, return_counts=True)
    log = np.zeros_like(a)
    for hit, miss, count in zip(*pairs, times, strict=True):
        log += count * (betaln(a + hit, b + miss) - betaln(a, b))
    weight = np.exp(log - log.max())
    chosen = draw.choice(weight.size, DRAWS, p=weight / weight.sum())
    share = np.exp(betaln(a + group, b) - betaln(a, b)) + np.exp(
        betaln(a, b + group) - betaln(a, b)
    )
    return np.asarray(share[chosen], dtype=np.float64)


def _alike(table: Counts, group: int, draw: np.random.Generator) -> tuple[float, Floats]:
    """The share if all starts of a task were alike, and draws of it.

    Each term q^group is convex in q, so that starts which differ can only have more silent groups
    (Jensen). The chance of the commonest return is drawn with Jeffreys' prior.
    """
    counts = np.sort(table.sum(0))[::-1]
    total = counts.sum()
    rest = counts[1:] / max(1, total - counts[0])
    chance = draw.beta(counts[0] + 0.5, total - counts[0] + 0.5, DRAWS)
    others = float((rest**group).sum())
    share = chance**group + (1 - chance) ** group * others
    return float(((counts / total) ** group).sum()), share
