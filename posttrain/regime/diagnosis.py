"""Is the pretrained policy better or worse than the dataset it came from, or can nobody say yet?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from posttrain.regime.flags import (
    decoding_changes_regime,
    flags_of_pairing,
    flags_of_scores,
    success_filtered,
)
from posttrain.regime.gap import gap_interval, level_interval, units_needed
from posttrain.regime.recoverability import recoverability
from posttrain.regime.sample import Pairing, Sample, check_scale, pair, sample
from posttrain.regime.scores import Scores
from posttrain.regime.verdict import (
    DecodingGap,
    Diagnosis,
    Flag,
    Interval,
    Recoverability,
    Regime,
    Test,
    decide,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

__all__ = [
    "DecodingGap",
    "Diagnosis",
    "Flag",
    "Interval",
    "Recoverability",
    "Regime",
    "decide",
    "diagnose",
]


def diagnose(
    policy: Scores | ArrayLike,
    dataset: Scores | ArrayLike,
    *,
    margin: float = 0.05,
    alpha: float = 0.05,
    scale: tuple[float, float] | None = None,
    deployment: Scores | ArrayLike | None = None,
    extra_flags: Iterable[Flag] = (),
) -> Diagnosis:
    """Place a pretrained policy against its dataset by the gap in mean return.

    With Δ = (J(pi_0) - J(D)) / (high - low), and an interval for Δ at level 1 - 2α,

        superior     low >  margin        comparable   -margin < low and high < margin
        inferior     high < -margin       undecided    otherwise

    so that each verdict is a one-sided test at level α. Units that both sides have are compared
    as pairs; several episodes of a unit are one observation, their mean.

    >>> diagnose([0.0, 1.0] * 40, [1.0] * 80).regime
    <Regime.INFERIOR: 'inferior'>

    Args:
        policy: Returns of pi_0: scores, or an array [n] of independent returns.
        dataset: Returns of the demonstrations or trajectories, likewise.
        margin: The smallest gap that matters, as a share of the reward's range.
        alpha: Chance of a wrong verdict, of each of the three.
        scale: Lowest and highest possible return; None says that returns lie in [0, 1].
        deployment: Returns of pi_0 under the decoding that it is deployed with. It is reported
            beside the rollout's, which decides.
        extra_flags: What the caller knows and the returns do not show.

    Raises:
        ValueError: For fewer than 2 units, NaN or infinite returns, returns outside the scale, a
            margin outside (0, 1) or an alpha outside (0, 0.5).
    """
    check_settings(margin=margin, alpha=alpha)
    pairing = pair(
        sample(policy, side="policy", scale=scale), sample(dataset, side="dataset", scale=scale)
    )
    interval = gap_interval(pairing, alpha=alpha)
    regime = decide(interval, margin)
    test, reason = choose_test(pairing)
    needed = None
    if regime is Regime.UNDECIDED:
        needed = units_needed(pairing, margin=margin, alpha=alpha)
    decodings: tuple[DecodingGap, ...] = ()
    if deployment is not None:
        other = pair(
            sample(deployment, side="policy", scale=scale),
            sample(dataset, side="dataset", scale=scale),
        )
        outer = gap_interval(other, alpha=alpha)
        decodings = (
            decoding_gap("rollout", pairing, interval, regime, scale=check_scale(scale)),
            decoding_gap("deployment", other, outer, decide(outer, margin), scale=scale),
        )
    return assemble(
        policy,
        dataset,
        pairing,
        interval=interval,
        regime=regime,
        test=test,
        reason=reason,
        needed=needed,
        margin=margin,
        alpha=alpha,
        scale=scale,
        decodings=decodings,
        extra_flags=extra_flags,
    )


def assemble(
    policy: Scores | ArrayLike,
    dataset: Scores | ArrayLike,
    pairing: Pairing,
    *,
    interval: Interval,
    regime: Regime,
    test: Test,
    reason: str,
    needed: int | None,
    margin: float,
    alpha: float,
    scale: tuple[float, float] | None,
    decodings: tuple[DecodingGap, ...],
    extra_flags: Iterable[Flag],
) -> Diagnosis:
    """Put a verdict and all that was measured beside it into one value."""
    ends = check_scale(scale)
    p, d = pairing.policy, pairing.dataset
    j_policy, j_dataset = (_back(float(side.values.mean()), ends) for side in (p, d))
    flags = [*extra_flags, *flags_of_pairing(pairing, margin=margin)]
    flags += success_filtered(dataset, scale=ends)
    for side, scores, mean in (("policy", policy, j_policy), ("dataset", dataset, j_dataset)):
        if isinstance(scores, Scores):
            flags += flags_of_scores(scores, side=side, scale=ends, mean=mean)
    flags += decoding_changes_regime(decodings)
    return Diagnosis(
        regime=regime,
        paper_regime=Regime.COMPARABLE if regime is Regime.UNDECIDED else regime,
        gap=float(p.values.mean() - d.values.mean()),
        interval=Interval(max(interval.low, -1.0), min(interval.high, 1.0)),
        j_policy=j_policy,
        j_dataset=j_dataset,
        j_policy_interval=_level(p, alpha=alpha, ends=ends),
        j_dataset_interval=_level(d, alpha=alpha, ends=ends),
        margin=margin,
        alpha=alpha,
        scale=ends,
        test=test,
        reason=reason,
        units=p.values.size,
        units_dataset=d.values.size,
        episodes_policy=p.episodes,
        episodes_dataset=d.episodes,
        needed=needed,
        recoverability=recoverability(policy, scale=ends) if isinstance(policy, Scores) else None,
        decodings=decodings,
        flags=tuple(flags),
    )


def choose_test(pairing: Pairing) -> tuple[Test, str]:
    """Name the test that fits the data, and say why."""
    constant = [
        side
        for side, of in (("pi_0", pairing.policy), ("D", pairing.dataset))
        if np.ptp(of.values) == 0
    ]
    tied = pairing.policy.tied or pairing.dataset.tied
    pairs = (
        f"{pairing.policy.values.size} units have returns of both sides, so their differences "
        "are tested"
        if pairing.paired
        else "the two sides do not share their units, so they are tested as independent samples"
    )
    if constant and tied:
        return "exact", (
            f"The returns of {' and '.join(constant)} show no variance, which a t test would take "
            f"for certainty; {pairs}, with an exact bound for bounded returns."
        )
    bound = (
        "with a bound for discrete returns (Gaffke's, which is Clopper and Pearson's for binary "
        "ones)"
        if tied
        else "with t intervals"
        if pairing.paired
        else "with Welch's interval"
    )
    return ("paired" if pairing.paired else "welch"), f"{pairs[0].upper()}{pairs[1:]}, {bound}."


def decoding_gap(
    name: str,
    pairing: Pairing,
    interval: Interval,
    regime: Regime,
    *,
    scale: tuple[float, float] | None,
) -> DecodingGap:
    """Summarise the gap under one decoding of pi_0."""
    p, d = float(pairing.policy.values.mean()), float(pairing.dataset.values.mean())
    return DecodingGap(name, _back(p, check_scale(scale)), p - d, interval, regime)


def check_settings(*, margin: float, alpha: float) -> None:
    """Refuse a margin or an error rate that makes no test."""
    if not (math.isfinite(margin) and 0 < margin < 1):
        raise ValueError(
            f"margin must lie in (0, 1), got {margin!r}: it is the smallest gap that matters, as "
            "a share of the reward's range"
        )
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie in (0, 0.5), got {alpha!r}: it is an error rate")


def _level(side: Sample, *, alpha: float, ends: tuple[float, float]) -> Interval:
    interval = level_interval(side, alpha=alpha)
    return Interval(_back(interval.low, ends), _back(interval.high, ends))


def _back(value: float, ends: tuple[float, float]) -> float:
    """From the unit scale to the reward's own units."""
    return ends[0] + value * (ends[1] - ends[0])
