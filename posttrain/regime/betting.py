"""How far can a bounded mean be, at whatever moment one looks? Confidence sequences by betting.

Bet on "the mean is above m": multiply a capital of 1 by 1 + c (z - m) / m at each z in [0, 1]. If
the mean is at most m, no strategy makes the capital ever exceed 1/α with probability above α
(Ville), so whichever m lets it do so is refuted for good, at any number of looks. I. Waudby-Smith
and A. Ramdas, "Estimating means of bounded random variables by betting" (arXiv 2010.09686).

The capital is split over fixed fractions c, from the margin upwards in doublings. Such a mixture
needs no tuning and does not depend on the order of the sample. Small fractions resolve gaps near
the margin; large ones settle large gaps within a dozen units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from posttrain.regime.sample import Floats

BOLDEST = 0.99


def fractions(margin: float) -> Floats:
    """Fractions of the capital to bet: the margin, doubled until nearly everything."""
    doublings = int(np.ceil(np.log2(BOLDEST / margin)))
    return np.append(margin * 2.0 ** np.arange(doublings), BOLDEST)


def log_capital(values: Floats, counts: Floats, *, at: float, bets: Floats) -> float:
    """Log of the capital won by betting that the mean is above `at`.

    Args:
        values: Values in [0, 1], [u].
        counts: How often each was seen [u].
        at: The mean under test, in (0, 1).
        bets: Fractions [k], each given an equal part of the capital.
    """
    won = np.log1p(np.multiply.outer(bets, values / at - 1.0)) @ counts
    most = won.max()
    return float(most + np.log(np.mean(np.exp(won - most))))


def lower_bound(values: Floats, counts: Floats, *, alpha: float, bets: Floats) -> float:
    """Bound the mean from below, with chance alpha of ever being wrong: the largest m refuted."""
    low, high = 0.0, float(values @ counts / counts.sum())
    for _ in range(40):
        middle = 0.5 * (low + high)
        if middle <= 0.0:
            break
        if log_capital(values, counts, at=middle, bets=bets) >= -np.log(alpha):
            low = middle
        else:
            high = middle
    return low


def upper_bound(values: Floats, counts: Floats, *, alpha: float, bets: Floats) -> float:
    """Bound the mean from above: the mirror image of `lower_bound`."""
    return 1.0 - lower_bound(1.0 - values, counts, alpha=alpha, bets=bets)
