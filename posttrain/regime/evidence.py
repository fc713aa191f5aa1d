"""What belongs beside a verdict? All that was measured on the way to it, put into one value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.regime import unbounded
from posttrain.regime.flags import (
    decoding_changes_regime,
    flags_of_pairing,
    flags_of_scores,
    success_filtered,
)
from posttrain.regime.gap import units_needed
from posttrain.regime.recoverability import recoverability
from posttrain.regime.sample import Pairing, Sample, check_scale, pair, sample
from posttrain.regime.scores import Scores
from posttrain.regime.verdict import (
    ANYTHING,
    EVERYTHING,
    DecodingGap,
    Diagnosis,
    Flag,
    Interval,
    Recoverability,
    Regime,
    Test,
    decide,
    meet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to test: how it bounds what, on the scale where the reward's range is 1."""

    gap: Callable[[Pairing], Interval]
    """Bounds for the gap, each with error alpha."""
    plan: Callable[[Pairing, float], Interval]
    """Bounds for the gap if the sample had been seen this many times, allowing for power."""
    mean: Callable[[Sample], Interval]
    """Bounds for one side's mean, together with error alpha."""
    name: Callable[[Pairing], tuple[Test, str]]
    """Which test that is, and why."""
    bounded: bool = True
    """Whether the scale bounds the returns, or is only their unit."""

    @property
    def anything(self) -> Interval:
        """Every gap that there can be."""
        return EVERYTHING if self.bounded else ANYTHING


def weigh(
    policy: Scores | ArrayLike,
    dataset: Scores | ArrayLike,
    method: Method,
    *,
    margin: float,
    alpha: float,
    scale: tuple[float, float] | None,
    deployment: Scores | ArrayLike | None,
    extra_flags: Iterable[Flag],
    before: Interval | None = None,
) -> Diagnosis:
    """Reach a verdict by one method, and gather what it rests on.

    The arguments are those of `diagnose`; `before` is what is known of the gap already.
    """
    ends = check_scale(scale)
    p, d = (
        sample(returns, side=side, scale=scale, bounded=method.bounded)
        for side, returns in (("policy", policy), ("dataset", dataset))
    )
    pairing = pair(p, d)
    known = method.anything if before is None else before
    rollout = _gap_of("rollout", pairing, method, known, margin=margin, ends=ends)
    decodings: tuple[DecodingGap, ...] = ()
    if deployment is not None:
        other = pair(sample(deployment, side="policy", scale=scale, bounded=method.bounded), d)
        decodings = (
            rollout,
            _gap_of("deployment", other, method, method.anything, margin=margin, ends=ends),
        )
    test, reason = method.name(pairing)
    p, d = pairing.policy, pairing.dataset
    return Diagnosis(
        regime=rollout.regime,
        paper_regime=_three_way(rollout.regime),
        gap=rollout.gap,
        interval=rollout.interval,
        j_policy=rollout.j_policy,
        j_dataset=_back(float(d.values.mean()), ends),
        j_policy_interval=_back_both(method.mean(p), ends, bounded=method.bounded),
        j_dataset_interval=_back_both(method.mean(d), ends, bounded=method.bounded),
        margin=margin,
        alpha=alpha,
        scale=ends,
        test=test,
        reason=reason,
        units=p.values.size,
        units_dataset=d.values.size,
        episodes_policy=p.episodes,
        episodes_dataset=d.episodes,
        needed=_needed(pairing, rollout, method, margin=margin),
        recoverability=_recoverability(policy, ends, bounded=method.bounded),
        decodings=decodings,
        flags=_once(
            extra_flags,
            *flags_of_pairing(pairing, margin=margin, bounded=method.bounded),
            *(() if method.bounded else unbounded.flags(pairing)),
            *success_filtered(dataset, scale=ends, bounded=method.bounded),
            *flags_of_scores(policy, side="policy", scale=ends),
            *flags_of_scores(dataset, side="dataset", scale=ends),
            *decoding_changes_regime(decodings),
        ),
        bounded=method.bounded,
    )


def _once(said: Iterable[Flag], *seen: Flag) -> tuple[Flag, ...]:
    """What the caller knows, then what the returns show of other kinds: the caller knows more."""
    given = tuple(said)
    kinds = {flag.kind for flag in given}
    return (*given, *(flag for flag in seen if flag.kind not in kinds))


def check_settings(*, margin: float, alpha: float) -> None:
    """Refuse a margin or an error rate that makes no test."""
    if not (math.isfinite(margin) and 0 < margin < 1):
        raise ValueError(
            f"margin must lie in (0, 1), got {margin!r}: it is the smallest gap that matters, as "
            "a share of the reward's range"
        )
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie in (0, 0.5), got {alpha!r}: it is an error rate")


def _gap_of(
    name: str,
    pairing: Pairing,
    method: Method,
    before: Interval,
    *,
    margin: float,
    ends: tuple[float, float],
) -> DecodingGap:
    p, d = float(pairing.policy.values.mean()), float(pairing.dataset.values.mean())
    interval = meet(before, method.gap(pairing))
    return DecodingGap(name, _back(p, ends), p - d, interval, decide(interval, margin))


def _needed(pairing: Pairing, found: DecodingGap, method: Method, *, margin: float) -> int | None:
    if found.regime is not Regime.UNDECIDED:
        return None
    return units_needed(
        lambda times: meet(found.interval, method.plan(pairing, times)),
        units=pairing.policy.values.size,
        margin=margin,
    )


def _three_way(regime: Regime) -> Regime:
    return Regime.COMPARABLE if regime is Regime.UNDECIDED else regime


def _back(value: float, ends: tuple[float, float]) -> float:
    """From the unit scale to the reward's own units."""
    return ends[0] + value * (ends[1] - ends[0])


def _back_both(interval: Interval, ends: tuple[float, float], *, bounded: bool) -> Interval:
    low, high = interval
    if bounded:
        low, high = max(low, 0.0), min(high, 1.0)
    return Interval(_back(low, ends), _back(high, ends))


def _recoverability(
    policy: Scores | ArrayLike, ends: tuple[float, float], *, bounded: bool
) -> Recoverability | None:
    """None where nothing says what a success is: a reference return that was reached is none."""
    if not isinstance(policy, Scores) or (policy.success is None and not bounded):
        return None
    return recoverability(policy, scale=ends)
