"""Is the pretrained policy better or worse than the dataset it came from, or can nobody say yet?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from posttrain.regime import unbounded
from posttrain.regime.evidence import Method, check_settings, weigh
from posttrain.regime.gap import gap_interval, is_regular, mean_interval, stricter
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

    from posttrain.regime.sample import Pairing
    from posttrain.regime.scores import Scores

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
    bounded: bool = True,
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
        bounded: False says that `scale` is two returns to compare with (D4RL's random and expert)
            and bounds nothing. Tests that start from bounds then give way to t and Welch, with a
            flag; returns that show no variance leave the verdict undecided.
        deployment: Returns of pi_0 under the decoding that it is deployed with. It is reported
            beside the rollout's, which decides.
        extra_flags: What the caller knows and the returns do not show; they take the place of flags
            of the same kind.

    Raises:
        ValueError: For fewer than 2 units, NaN or infinite returns, returns outside the scale, a
            margin outside (0, 1) or an alpha outside (0, 0.5).
    """
    check_settings(margin=margin, alpha=alpha)
    method = _bounded_method(alpha) if bounded else _unbounded_method(alpha)
    return weigh(
        policy,
        dataset,
        method,
        margin=margin,
        alpha=alpha,
        scale=scale,
        deployment=deployment,
        extra_flags=extra_flags,
    )


def _bounded_method(alpha: float) -> Method:
    return Method(
        gap=partial(gap_interval, alpha=alpha),
        plan=lambda pairing, times: gap_interval(pairing, alpha=stricter(alpha), times=times),
        mean=lambda side: mean_interval(side.values, (0.0, 1.0), tied=side.tied, alpha=alpha / 2),
        name=choose_test,
    )


def _unbounded_method(alpha: float) -> Method:
    return Method(
        gap=partial(unbounded.gap_interval, alpha=alpha),
        plan=lambda pairing, times: unbounded.gap_interval(
            pairing, alpha=stricter(alpha), times=times
        ),
        mean=lambda side: unbounded.mean_interval(side.values, alpha=alpha / 2),
        name=unbounded.choose_test,
        bounded=False,
    )


def choose_test(pairing: Pairing) -> tuple[Test, str]:
    """Name the test that fits the returns, and say why."""
    p, d = pairing.policy, pairing.dataset
    if pairing.paired:
        regular = is_regular(p.values - d.values, tied=p.tied or d.tied)
        design = f"{p.values.size} units have returns of both sides, and their differences"
    else:
        regular = all(is_regular(side.values, tied=side.tied) for side in (p, d))
        design = "The units of the two sides do not match, so that they are independent samples,"
    constant = " and ".join(
        name for name, side in (("pi_0", p), ("D", d)) if np.ptp(side.values) == 0
    )
    if constant:
        return "exact", (
            f"{design} are tested by an exact bound (Clopper and Pearson's for binary returns): "
            f"the returns of {constant} show no variance, which a t test would take for certainty."
        )
    if regular:
        how = "a t interval" if pairing.paired else "Welch's interval"
        why = "the returns are continuous and not skewed"
    else:
        how = "Gaffke's bound (Clopper and Pearson's for binary returns)"
        why = "the returns are discrete or skewed, where t intervals err too often"
    return "paired" if pairing.paired else "welch", f"{design} are tested by {how}: {why}."
