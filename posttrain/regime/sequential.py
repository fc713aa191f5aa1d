"""May sampling stop already? The same verdicts, valid however often one looks.

    state = start(margin=0.05, alpha=0.05)
    while not state.decided and more units can be had:
        state = state.update(policy, dataset)     # mean returns of the next units, matched
    state.regime, state.interval, state.needed

A fixed test repeated after every batch errs far more often than alpha. Here each end of the
interval is a confidence sequence (`betting`): the chance that it is ever wrong is at most alpha,
for every distribution of bounded returns, every sample size and every rule for stopping.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from posttrain.regime.betting import fractions, lower_bound, upper_bound
from posttrain.regime.evidence import Method, check_settings, weigh
from posttrain.regime.gap import units_needed
from posttrain.regime.sample import check_scale, sample
from posttrain.regime.verdict import (
    EVERYTHING,
    Diagnosis,
    Flag,
    Interval,
    Regime,
    Test,
    decide,
    meet,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

    from posttrain.regime.sample import Floats, Pairing, Sample
    from posttrain.regime.scores import Scores

NOTHING: Floats = np.empty(0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sequential:
    """What matched units have shown so far. A value: `update` returns a new one."""

    margin: float
    alpha: float
    scale: tuple[float, float]
    differences: Floats = field(default_factory=lambda: NOTHING)
    """Policy minus dataset [units], in units of the reward's range."""
    interval: Interval = EVERYTHING
    """For the gap at level 1 - 2α; what one look has excluded stays excluded."""

    @property
    def regime(self) -> Regime:
        """The verdict by now; once decided it does not change."""
        return decide(self.interval, self.margin)

    @property
    def decided(self) -> bool:
        """Whether sampling may stop."""
        return self.regime is not Regime.UNDECIDED

    @property
    def units(self) -> int:
        """Units seen."""
        return int(self.differences.size)

    @property
    def gap(self) -> float:
        """Mean difference so far; NaN before the first unit."""
        return float(self.differences.mean()) if self.units else float("nan")

    @property
    def needed(self) -> int | None:
        """Further units that would decide if they look like those seen.

        None when decided, before the first unit, or when a million would not do.
        """
        if self.decided or not self.units:
            return None
        return units_needed(
            lambda times: meet(
                self.interval,
                sequence(self.differences, margin=self.margin, alpha=self.alpha, times=times),
            ),
            units=self.units,
            margin=self.margin,
        )

    def update(self, policy: ArrayLike, dataset: ArrayLike) -> Sequential:
        """Look at a further batch.

        Args:
            policy: Mean return of pi_0 on each new unit [m], over a number of episodes that was
                fixed beforehand.
            dataset: Mean return of D on the same units [m].

        Raises:
            ValueError: For batches of different lengths, NaN, or returns outside the scale.
        """
        batch = _differences(policy, dataset, self.scale)
        differences = np.append(self.differences, batch)
        seen = sequence(differences, margin=self.margin, alpha=self.alpha)
        return replace(self, differences=differences, interval=meet(self.interval, seen))


def start(
    *, margin: float = 0.05, alpha: float = 0.05, scale: tuple[float, float] | None = None
) -> Sequential:
    """Begin with no units; the settings are those of `diagnose`."""
    check_settings(margin=margin, alpha=alpha)
    return Sequential(margin=margin, alpha=alpha, scale=check_scale(scale))


def diagnose_sequential(
    policy: Scores | ArrayLike,
    dataset: Scores | ArrayLike,
    *,
    margin: float = 0.05,
    alpha: float = 0.05,
    scale: tuple[float, float] | None = None,
    bounded: bool = True,
    deployment: Scores | ArrayLike | None = None,
    extra_flags: Iterable[Flag] = (),
    before: Interval = EVERYTHING,
) -> Diagnosis:
    """Diagnose at any moment of a growing sample, with intervals that allow for every look.

    The arguments are those of `diagnose`, for the whole sample up to now; `before` is the interval
    that earlier looks have left (`Sequential.interval`), of which the result is the intersection.
    Unmatched units cost more: each side then has a sequence of its own at alpha / 2.

    Raises:
        ValueError: As `diagnose`, and for `bounded=False`: bets are on bounded returns.
    """
    check_settings(margin=margin, alpha=alpha)
    if not bounded:
        raise ValueError(
            "bounded=False: the sequential test bets on returns between a lowest and a highest; "
            "state them as scale=(low, high), or test once with diagnose"
        )

    def gap(pairing: Pairing, times: float = 1.0) -> Interval:
        return _gap_sequence(pairing, margin=margin, alpha=alpha, times=times)

    method = Method(
        gap=gap,
        plan=gap,
        mean=lambda side: _mean_sequence(side, margin=margin, alpha=alpha / 2),
        name=_name,
    )
    return weigh(
        policy,
        dataset,
        method,
        margin=margin,
        alpha=alpha,
        scale=scale,
        deployment=deployment,
        extra_flags=extra_flags,
        before=before,
    )


def sequence(differences: Floats, *, margin: float, alpha: float, times: float = 1.0) -> Interval:
    """Bound the mean of differences in [-1, 1] for ever, each end with error alpha.

    Args:
        differences: [n].
        margin: The smallest gap that matters, to which the bets are matched.
        alpha: Chance that an end is ever wrong.
        times: Pretend that the sample had been seen this many times, for planning.
    """
    ends = _bounds((differences + 1.0) / 2.0, margin=margin, alpha=alpha, times=times)
    return Interval(2.0 * ends.low - 1.0, 2.0 * ends.high - 1.0)


def _gap_sequence(pairing: Pairing, *, margin: float, alpha: float, times: float) -> Interval:
    p, d = pairing.policy, pairing.dataset
    if pairing.paired:
        return sequence(p.values - d.values, margin=margin, alpha=alpha, times=times)
    of_p, of_d = (
        _mean_sequence(side, margin=margin, alpha=alpha / 2, times=times) for side in (p, d)
    )
    return Interval(of_p.low - of_d.high, of_p.high - of_d.low)


def _mean_sequence(side: Sample, *, margin: float, alpha: float, times: float = 1.0) -> Interval:
    return _bounds(side.values, margin=margin, alpha=alpha, times=times)


def _bounds(values: Floats, *, margin: float, alpha: float, times: float) -> Interval:
    support, counts = np.unique(values, return_counts=True)
    weights, bets = np.asarray(counts * times, dtype=np.float64), fractions(margin)
    return Interval(
        lower_bound(support, weights, alpha=alpha, bets=bets),
        upper_bound(support, weights, alpha=alpha, bets=bets),
    )


def _name(pairing: Pairing) -> tuple[Test, str]:
    how = (
        f"the differences of {pairing.policy.values.size} matched units"
        if pairing.paired
        else "each side, since their units do not match"
    )
    return "sequential", (
        f"Sampling may stop at any look, so that a confidence sequence by betting bounds {how}."
    )


def _differences(policy: ArrayLike, dataset: ArrayLike, scale: tuple[float, float]) -> Floats:
    p = sample(policy, side="policy", scale=scale, least=1).values
    d = sample(dataset, side="dataset", scale=scale, least=1).values
    if p.size != d.size:
        raise ValueError(
            f"a batch holds the same units of both sides, got {p.size} of the policy and "
            f"{d.size} of the dataset"
        )
    return p - d
