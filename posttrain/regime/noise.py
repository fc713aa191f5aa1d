"""How much of a curve of evaluations is noise, and what can be said of the curve behind it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from posttrain.regime.verdict import Interval

if TYPE_CHECKING:
    from posttrain.regime.evaluation import Evaluations

Floats = NDArray[np.float64]
CHUNK = 2**21
"""Numbers held at a time: 16 MiB."""


def smooth(evaluations: Evaluations) -> Floats:
    """Estimate the curve behind the noise `[n]`: the posterior mean under a random walk.

    Increments of θ are taken as N(0, q²) and q² as its most likely value, given the noise's
    covariance: empirical Bayes. A policy that never changes gets q² = 0 and a flat line; without
    noise the curve stays as measured.
    """
    means, factor = evaluations.means, evaluations.factor
    if len(means) < 2:
        return means
    steps = np.diff(factor, axis=0)
    values, vectors = np.linalg.eigh(steps @ steps.T)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ np.diff(means)
    top = max(float(np.mean(np.diff(means) ** 2)), float(values.max()))
    if top == 0:
        return means
    grid = np.concatenate([[0.0], top * np.geomspace(1e-6, 10, 141)])
    total = np.maximum(grid[:, None] + values, 1e-12 * top)
    fit = -0.5 * (np.log(total) + rotated**2 / total).sum(axis=1)
    best = int(fit.argmax())
    increments = vectors @ (grid[best] / total[best] * rotated)
    shape = np.concatenate([[0.0], np.cumsum(increments)])
    precision = 1 / np.maximum((factor**2).sum(axis=1), 1e-12 * top)
    level = float(np.average(means - shape, weights=precision))
    return level + shape


@dataclass(frozen=True, slots=True)
class Windows:
    """Averages over neighbouring evaluations: lengths 1, 2, 4, ..., and all.

    A mean of θ over a window lies between its extremes, so that a stretch of good evaluations can
    show together what none of them shows alone.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def of(cls, n: int) -> Windows:
        """List the windows of `n` evaluations; the first `n` are the evaluations themselves."""
        pairs = [(0, n)]
        length = 2 ** max(n - 1, 0).bit_length() // 2
        while length:
            pairs[:0] = [
                (start, start + length) for start in range(0, n - length + 1, max(1, length // 2))
            ]
            length //= 2
        starts, stops = np.array(pairs).T
        return cls(starts, stops)

    def __call__(self, curve: Floats) -> Floats:
        """Average the last axis `[..., n]` over each window `[..., w]`."""
        total = np.cumsum(curve, axis=-1)
        total = np.concatenate([np.zeros((*curve.shape[:-1], 1)), total], axis=-1)
        return (total[..., self.stops] - total[..., self.starts]) / (self.stops - self.starts)


def range_interval(evaluations: Evaluations, noise: Floats, *, tail: float) -> Interval:
    """Bound max θ - min θ from both sides, each with error `tail`, whatever the curve.

    Below: with window averages m_A of centred means and their errors s_A,

        max_A (m_A - κ s_A) - min_B (m_B + κ s_B) <= max θ - min θ

    holds whenever max_A (z_A - κ s_A) + max_B (-z_B - κ s_B) <= 0; κ makes that 1 - `tail` likely.
    Above: the true extremes are one pair, so max over pairs of (difference + its one-sided error)
    needs no correction for the number of pairs.

    Args:
        evaluations: Means and noise.
        noise: Heavy draws of the noise `[b, n]`.
        tail: Error of each end.
    """
    average = Windows.of(len(evaluations.means))

    def centre(curve: Floats) -> Floats:
        averages = average(curve)
        return averages - averages[..., -1:]

    error = np.linalg.norm(centre(evaluations.factor.T), axis=0)
    kappa = _smallest_kappa(centre(noise), error, tail)
    means = centre(evaluations.means)
    low = float((means - kappa * error).max() - (means + kappa * error).min())
    covariance = evaluations.factor @ evaluations.factor.T
    own = np.diag(covariance)
    pair = np.sqrt(np.maximum(own[:, None] + own - 2 * covariance, 0.0))
    apart = evaluations.means[:, None] - evaluations.means
    return Interval(low, float((apart + evaluations.quantile(1 - tail) * pair).max()))


def _smallest_kappa(drawn: Floats, error: Floats, tail: float) -> float:
    """Find κ with max_A (z_A - κ s_A) + max_B (-z_B - κ s_B) <= 0 in 1 - tail of the draws."""
    low, high = 0.0, 64.0
    while high - low > 2e-3:
        middle = (low + high) / 2
        slack = (drawn - middle * error).max(axis=1) + (-drawn - middle * error).max(axis=1)
        low, high = (low, middle) if (slack <= 0).mean() >= 1 - tail else (middle, high)
    return high


def prior_intervals(
    evaluations: Evaluations, noise: Floats, *, n: int, tail: float
) -> tuple[Interval, Interval]:
    """Bound min θ - prior and max θ - prior, with prior the largest of θ_0 and what was joined.

    With window averages m_A, priors m_p, the error s_Ap of their difference, and κ the quantile of
    the largest (z_A - z_p) / s_Ap,

        min θ - prior <= min_Ap (m_A - m_p + κ s_Ap)    max θ - prior >= min_p max_A (... - κ s_Ap)

    while the other two ends concern one pair and use the quantile of a single difference (shared
    among the priors, where each of them would do).

    Args:
        evaluations: The curve `[n]`, then other priors.
        noise: Heavy draws of the noise of all.
        n: Length of the curve.
        tail: Error of each end.
    """
    average = Windows.of(n)
    priors = [0, *range(n, len(evaluations.means))]

    def differ(curves: Floats) -> Floats:
        averages = average(curves[..., :n])
        return np.stack([averages - curves[..., p, None] for p in priors], axis=-2)

    means = differ(evaluations.means)
    error = np.linalg.norm(differ(evaluations.factor.T), axis=0)
    real = error > 0
    parts = np.array_split(noise, 1 + noise.shape[0] * error.size // CHUNK)
    largest = [(differ(z)[:, real] / error[real]).max(axis=1, initial=0.0) for z in parts]
    kappa = float(np.quantile(np.concatenate(largest), 1 - tail))
    one, shared = (evaluations.quantile(1 - part) for part in (tail, tail / len(priors)))
    single, alone = means[:, :n], error[:, :n]
    return (
        Interval(
            float((single - one * alone).min()), min(float((means + kappa * error).min()), 0.0)
        ),
        Interval(
            float((means - kappa * error).max(axis=1).min()),
            float((single + shared * alone).max(axis=1).min()),
        ),
    )
