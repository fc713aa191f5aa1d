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

if TYPE_CHECKING:
    from posttrain.regime.sample import Floats

TAIL = 1e-9
MOST_NODES = 1 << 17


def upper_bound(values: Floats, counts: Floats, *, alpha: float, top: float) -> float:
    """Bound the mean from above, with error at most alpha.

    Args:
        values: Observed values [u], none above `top`.
        counts: How often each was observed [u]; need not be whole.
        alpha: Chance that the mean lies above the bound.
        top: The largest value that can occur.
    """
    low, high = float(values.min()), top
    if low == high:
        return high
    for _ in range(50):
        middle = 0.5 * (low + high)
        if mean_below(values, counts, at=middle, top=top) < 1 - alpha:
            low = middle
        else:
            high = middle
    return high


def lower_bound(values: Floats, counts: Floats, *, alpha: float, bottom: float) -> float:
    """Bound the mean from below, with error at most alpha; the mirror image of `upper_bound`."""
    return -upper_bound(-values, counts, alpha=alpha, top=-bottom)


def mean_below(values: Floats, counts: Floats, *, at: float, top: float) -> float:
    """P(the Dirichlet mean of the values and one `top` lies below `at`).

    One minus it is the p-value of "the mean is at least `at`". With exponential weights E the
    event reads Σ E_i (x_i - at) < 0, a sum whose characteristic function is known; it is inverted
    by the midpoint rule of Davies (Biometrika 60, 1973), exact to about 1e-9.
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
