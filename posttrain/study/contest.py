"""Which family of arms won, and does a gap pass the margin? Arithmetic on one number a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.regime import unbounded
from posttrain.regime.gap import gap_interval, mean_interval
from posttrain.regime.sample import Pairing, Sample
from posttrain.regime.verdict import Interval, Regime, decide

Floats = NDArray[np.float64]
Verdict = Literal["correct", "adjacent", "opposite"]

ORDER = (Regime.SUPERIOR, Regime.COMPARABLE, Regime.INFERIOR)
"""The ordered scale on which a prediction and an outcome lie side by side."""

DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A gap over seeds, and where it lies against the margin."""

    gap: float
    interval: Interval
    """At level 1 - 2α."""
    regime: Regime
    seeds: int

    @property
    def label(self) -> Regime:
        """The paper's three-way label: comparable where the evidence does not reach."""
        return Regime.COMPARABLE if self.regime is Regime.UNDECIDED else self.regime

    @property
    def word(self) -> str:
        """The label, with a question mark where the evidence does not reach."""
        return f"{self.label}{'?' if self.regime is Regime.UNDECIDED else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The strongest pi0-centric arm against the strongest D-centric arm, paired by seed."""

    found: Gap
    """Superior: the pi0-centric arm is ahead."""
    pi0_arms: tuple[str, ...]
    """The arm that was chosen, one for each half of the seeds; one where all seeds chose."""
    data_arms: tuple[str, ...]


def paired_gap(
    differences: ArrayLike, *, margin: float, alpha: float, bounded: bool = True
) -> Gap | None:
    """Test differences of seeds `[n]` against the margin; None for fewer than two.

    A t interval; where the differences have no spread or are skewed, Gaffke's bound if returns are
    `bounded`.

    >>> paired_gap([0.5, 0.6, 0.7], margin=0.05, alpha=0.05).regime
    <Regime.SUPERIOR: 'superior'>
    """
    # 0.9 - 0.5 and 0.8 - 0.4 are the same difference: the spread of rounding is no evidence.
    values: Floats = np.asarray(differences, dtype=np.float64).round(DIGITS)
    if values.size < 2:
        return None
    if bounded:
        reach = max(1.0, float(np.abs(values).max()))
        interval = mean_interval(values, (-reach, reach), tied=False, alpha=alpha)
    else:
        pairs = Pairing(
            _sample(values, tied=False), _sample(0 * values, tied=True), paired=True, left_out=0
        )
        interval = unbounded.gap_interval(pairs, alpha=alpha)
    return _gap(float(values.mean()), interval, margin, values.size)


def regime_gap(
    policies: Sequence[Floats],
    datasets: Sequence[Floats],
    *,
    margin: float,
    alpha: float,
    bounded: bool = True,
) -> Gap | None:
    """Place the pi_0 of all seeds against D; None for fewer than two seeds.

    A seed's pi_0 counts once, by its mean return, since its episodes share what pretraining made
    of it. Where all seeds have the same D, its episodes are the other sample (Welch or exact, as
    in `posttrain.regime.gap`); where each has its own, seeds are pairs.

    Args:
        policies: Returns of each seed's pi_0 `[episodes]`, on the unit scale.
        datasets: Returns of each seed's D `[episodes]`, on the unit scale.
        margin: The smallest gap that matters.
        alpha: Chance of a wrong verdict.
        bounded: Whether no return lies outside the unit scale.
    """
    means = np.array([returns.mean() for returns in policies]).round(DIGITS)
    if means.size < 2:
        return None
    first = datasets[0]
    if not all(np.array_equal(first, other) for other in datasets[1:]) or first.size < 2:
        own = np.array([returns.mean() for returns in datasets])
        return paired_gap(means - own, margin=margin, alpha=alpha, bounded=bounded)
    policy = _sample(means, tied=False)
    dataset = _sample(first, tied=np.unique(first).size < first.size)
    pairing = Pairing(policy, dataset, paired=False, left_out=0)
    test = gap_interval if bounded else unbounded.gap_interval
    interval = test(pairing, alpha=alpha)
    return _gap(float(means.mean() - first.mean()), interval, margin, means.size)


def _sample(values: Floats, *, tied: bool) -> Sample:
    """Independent values, one a unit."""
    return Sample(values, None, np.ones(values.size, dtype=np.int64), tied)


def _gap(gap: float, interval: Interval, margin: float, seeds: int) -> Gap:
    return Gap(gap=gap, interval=interval, regime=decide(interval, margin), seeds=seeds)


def naive(
    pi0: Mapping[str, Floats],
    data: Mapping[str, Floats],
    *,
    margin: float,
    alpha: float,
    bounded: bool = True,
) -> Contest | None:
    """Let the same seeds choose each family's arm and compare the two.

    Args:
        pi0: Numbers of the pi0-centric arms by name, one a seed `[n]`, seeds in the same order.
        data: Those of the D-centric arms.
        margin: The smallest difference that matters.
        alpha: Chance of a wrong verdict.
        bounded: Whether no return lies outside the unit scale.

    Returns:
        None where a family has no arm, or fewer than two seeds.
    """
    if not pi0 or not data:
        return None
    ours, theirs = _strongest(pi0), _strongest(data)
    found = paired_gap(pi0[ours] - data[theirs], margin=margin, alpha=alpha, bounded=bounded)
    if found is None:
        return None
    return Contest(found=found, pi0_arms=(ours,), data_arms=(theirs,))


def cross_fitted(
    pi0: Mapping[str, Floats],
    data: Mapping[str, Floats],
    *,
    margin: float,
    alpha: float,
    bounded: bool = True,
) -> Contest | None:
    """Choose each family's arm on half of the seeds, compare on the other half, and swap.

    A maximum over arms is too high on the seeds that chose it (the winner's curse), and more so
    for the family with more arms. Seeds go to the halves in turn. Arguments as of `naive`.
    """
    if not pi0 or not data:
        return None
    size = len(next(iter(pi0.values())))
    halves = [np.arange(size) % 2 == half for half in (0, 1)]
    if size < 2:
        return None
    differences = np.zeros(size)
    ours: list[str] = []
    theirs: list[str] = []
    for judged in halves:
        ours.append(_strongest({name: values[~judged] for name, values in pi0.items()}))
        theirs.append(_strongest({name: values[~judged] for name, values in data.items()}))
        differences[judged] = (pi0[ours[-1]] - data[theirs[-1]])[judged]
    found = paired_gap(differences, margin=margin, alpha=alpha, bounded=bounded)
    if found is None:
        return None
    return Contest(found=found, pi0_arms=tuple(ours), data_arms=tuple(theirs))


def _strongest(arms: Mapping[str, Floats]) -> str:
    """The arm with the highest mean; the first of several."""
    return max(arms, key=lambda name: float(arms[name].mean()))


def judge(predicted: Regime, found: Regime) -> Verdict:
    """Say how far a prediction is from the outcome on the scale superior, comparable, inferior.

    >>> judge(Regime.SUPERIOR, Regime.COMPARABLE)
    'adjacent'
    """
    verdicts: tuple[Verdict, ...] = ("correct", "adjacent", "opposite")
    return verdicts[abs(ORDER.index(predicted) - ORDER.index(found))]
