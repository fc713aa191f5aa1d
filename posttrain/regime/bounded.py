"""How far can a bounded mean be from what few, discrete or constant returns show?

Gaffke's bound: put one more observation at the worst end of the range, weigh the n + 1
observations by a flat Dirichlet, and take the quantile of the weighted mean. For binary returns
it is Clopper and Pearson's exact bound; for many returns it is as tight as the t interval; it needs
no variance, so that 5 successes of 5 leave an honest doubt. N. Gaffke (2005); E. Learned-Miller
and P. Thomas, "A new confidence interval for the mean of a bounded random variable"
(arXiv 1905.06208), who tested its level widely; a proof exists for special cases only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from posttrain.regime.sample import Floats

TAIL = 1e-8
PRECISION = 1e-9
TINY = 1e-12
MOST_STEPS = 100
MOST_NODES = 1 << 15


def upper_bound(values: Floats, counts: Floats, *, alpha: float, top: float) -> float:
    """Bound the mean from above, with error at most alpha.

    Args:
        values: Observed values [u], none above `top`.
        counts: How often each was observed [u]; need not be whole.
        alpha: Chance that the mean lies above the bound.
        top: The largest value that can occur.
    """
    low, high = float(values.min()), top
    if high - low < PRECISION:
        return high
    wanted = float(ndtri(1 - alpha))
    middle, slope = _normal_guess(values, counts, wanted, top)
    last = last_miss = np.nan
    for step in range(MOST_STEPS):
        if not low < middle < high or step % 5 == 4:
            middle = 0.5 * (low + high)
        chance = np.clip(mean_below(values, counts, at=middle, top=top), TINY, 1 - TINY)
        miss = float(ndtri(chance)) - wanted
        if abs(miss) < PRECISION or high - low < PRECISION:
            break
        low, high = (middle, high) if miss < 0 else (low, middle)
        # On the normal scale the distribution is nearly a line, which a secant meets at once.
        slope = (miss - last_miss) / (middle - last) if step else slope
        last, last_miss = middle, miss
        middle = middle - miss / slope if slope > 0 else high
    return middle


def _normal_guess(values: Floats, counts: Floats, wanted: float, top: float) -> tuple[float, float]:
    """Where the bound would be, and the slope there, if the Dirichlet mean were normal."""
    x, m = np.append(values, top), np.append(counts, 1.0)
    mean = x @ m / m.sum()
    spread = np.sqrt((x - mean) ** 2 @ m / (m.sum() * (m.sum() + 1)))
    return float(mean + wanted * spread), float(1 / spread)


def lower_bound(values: Floats, counts: Floats, *, alpha: float, bottom: float) -> float:
    """Bound the mean from below, with error at most alpha; the mirror image of `upper_bound`."""
    return -upper_bound(-values, counts, alpha=alpha, top=-bottom)


def mean_below(values: Floats, counts: Floats, *, at: float, top: float) -> float:
    """P(the Dirichlet mean of the values and one `top` lies below `at`).

    One minus it is the p-value of "the mean is at least `at`". With exponential weights E the
    event reads Σ E_i (x_i - at) < 0, a sum whose characteristic function is known; it is inverted
    by the midpoint rule of Davies (Biometrika 60, 1973), exact to about 1e-8.
    """
    c = np.append(values - at, top - at)
    m = np.append(counts, 1.0)
    if at >= top:
        return 1.0
    if c.min() >= 0:
        return 0.0
    widest = float(np.abs(c).max())
    spread = float(np.sqrt(m @ c**2))
    reach = abs(float(m @ c)) + 8 * spread + 30 * widest
    step = 2 * np.pi / reach
    t = step * (np.arange(_nodes(c, m, step)) + 0.5)
    tc = np.multiply.outer(t, c)
    size = np.exp(-0.5 * (np.log1p(tc**2) @ m))
    angle = np.arctan(tc) @ m
    return float(np.clip(0.5 - np.sum(size * np.sin(angle) / t) * step / np.pi, 0.0, 1.0))


def _nodes(c: Floats, m: Floats, step: float) -> int:
    """Nodes until the characteristic function has died down."""
    nodes = 32
    while nodes < MOST_NODES and -0.5 * (np.log1p((step * nodes * c) ** 2) @ m) > np.log(TAIL):
        nodes *= 2
    return nodes
