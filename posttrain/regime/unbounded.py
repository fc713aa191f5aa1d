"""What can be said where no return is the lowest or the highest, and the scale is only a unit?

Returns of D4RL are scaled by those of a random and of an expert policy, and fall outside. The
bounds for discrete or skewed returns (`bounded`) start from the worst that can occur, which nobody
knows here: t intervals take their place, and a flag says so. Where returns show no variance,
nothing is left: a t interval would be certain, and any mean is possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from posttrain.regime.gap import is_regular, welch_interval
from posttrain.regime.verdict import Flag, Interval, Test

if TYPE_CHECKING:
    from collections.abc import Iterator

    from posttrain.regime.sample import Floats, Pairing


def gap_interval(pairing: Pairing, *, alpha: float, times: float = 1.0) -> Interval:
    """Bound the gap J(pi_0) - J(D) from both sides, each with error alpha, by t or Welch.

    Args:
        pairing: Both sides, in units of the scale.
        alpha: Error of each end.
        times: Pretend that the sample had been seen this many times, for planning.

    Returns:
        Where the paired differences, or a side of an unpaired comparison, show no variance:
        an interval in which every verdict is possible.
    """
    p, d = pairing.policy.values, pairing.dataset.values
    gap = float(p.mean() - d.mean())
    if _constant(pairing):
        return Interval(min(-1.0, gap), max(1.0, gap))
    if pairing.paired:
        return _t_interval(p - d, alpha=alpha, times=times)
    return welch_interval(p, d, alpha=alpha, times=times)


def mean_interval(values: Floats, *, alpha: float) -> Interval:
    """Bound a mean from both sides, each with error alpha, by t; all the scale if nothing varies.

    Args:
        values: Independent values [n], in units of the scale.
        alpha: Error of each end.
    """
    if np.ptp(values) == 0:
        return Interval(min(0.0, float(values[0])), max(1.0, float(values[0])))
    return _t_interval(values, alpha=alpha, times=1.0)


def choose_test(pairing: Pairing) -> tuple[Test, str]:
    """Name the test, and say why it is this one."""
    units = pairing.policy.values.size
    if pairing.paired:
        what = f"{units} units have returns of both sides, and their differences are tested by t"
    else:
        what = (
            "The units of the two sides do not match, so that they are independent samples, "
            "tested by Welch's interval"
        )
    return "paired" if pairing.paired else "welch", (
        f"{what}: the returns have no bounds that an exact test could start from."
    )


def flags(pairing: Pairing) -> Iterator[Flag]:
    """Say what is lost without bounds."""
    if constant := _constant(pairing):
        yield Flag(
            "no_variance",
            f"The returns of {constant} show no variance, and nothing bounds them: no test can "
            "tell certainty from chance, so there is no verdict. State the lowest and the highest "
            "return that can occur if they are known.",
        )
        return
    p, d = pairing.policy, pairing.dataset
    if pairing.paired:
        regular = is_regular(p.values - d.values, tied=p.tied or d.tied)
    else:
        regular = all(is_regular(side.values, tied=side.tied) for side in (p, d))
    if not regular:
        yield Flag(
            "unbounded",
            "The returns are discrete or skewed, where t intervals err too often, and without "
            "bounds there is no better test: the chance of a wrong verdict may exceed alpha.",
        )


def _constant(pairing: Pairing) -> str:
    """Name what shows no variance; an empty text if everything varies."""
    p, d = pairing.policy.values, pairing.dataset.values
    if pairing.paired:
        return "" if np.ptp(p - d) > 0 else "pi_0, less those of D on the same units,"
    return " and ".join(name for name, side in (("pi_0", p), ("D", d)) if np.ptp(side) == 0)


def _t_interval(values: Floats, *, alpha: float, times: float) -> Interval:
    n = values.size * times
    half = stdtrit(n - 1, 1 - alpha) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(values.mean() - half), float(values.mean() + half))
