"""Returns whose true gap is known exactly, to try a diagnosis on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import gamma, gammainc, gammaincc, ndtr

MARGIN = 0.05
Rng: TypeAlias = np.random.Generator
Shape: TypeAlias = tuple[int, int]
Array: TypeAlias = np.ndarray
Sides: TypeAlias = tuple[Array, Array]
Draw: TypeAlias = Callable[[Rng, float, Shape], Sides]
Noise: TypeAlias = Callable[[Rng, Shape], Array]


@dataclass(frozen=True)
class Returns:
    """Mean returns by unit of both sides, with a gap that can be set exactly."""

    name: str
    draw: Draw
    """(rng, gap, [runs, units]) -> policy and dataset, each [runs, units], in [0, 1]."""
    paired: bool = True
    gaps: tuple[float, ...] = (MARGIN, -MARGIN)
    slow: bool = False
    """Whether large samples are tested slowly: many values, and skewed."""


def bernoulli(centre: float, dataset_units: int = 1) -> Draw:
    """One episode a unit on both sides, independent; D may have more units than pi_0."""

    def draw(rng: Rng, gap: float, shape: Shape) -> Sides:
        more = (shape[0], shape[1] * dataset_units)
        policy, dataset = rng.random(shape) < centre + gap / 2, rng.random(more) < centre - gap / 2
        return policy * 1.0, dataset * 1.0

    return draw


def all_right(spread: float = 0.0, episodes: int = 1) -> Draw:
    """Every demonstration succeeds; pi_0 fails by -gap, on units that differ in difficulty."""

    def draw(rng: Rng, gap: float, shape: Shape) -> Sides:
        easy = np.full(shape, 1 + gap)
        if spread and gap:
            easy = rng.beta((1 + gap) / spread, -gap / spread, shape)
        return rng.binomial(episodes, easy) / episodes, np.ones(shape)

    return draw


def clustered(centre: float, spread: float = 1.0, episodes: int = 8) -> Draw:
    """Units differ in difficulty, for both sides alike; pi_0 has several episodes of each."""

    def draw(rng: Rng, gap: float, shape: Shape) -> Sides:
        p, d = centre + gap / 2, centre - gap / 2
        easy = rng.beta(p / spread, (1 - p) / spread, shape)
        scaled = easy * d / p if d < p else 1 - (1 - easy) * (1 - d) / (1 - p)
        return rng.binomial(episodes, easy) / episodes, (rng.random(shape) < scaled) * 1.0

    return draw


def shifted(noise: Noise, mean: float | np.floating) -> Draw:
    """Continuous: noise of a known mean, moved by the gap, against a narrow gaussian."""

    def draw(rng: Rng, gap: float, shape: Shape) -> Sides:
        policy = noise(rng, shape) + gap
        return np.clip(policy, 0, 1), np.clip(mean + 0.02 * rng.standard_normal(shape), 0, 1)

    return draw


def lognormal(rng: Rng, shape: Shape) -> Array:
    """Log-normal of median 1 / 20, cut off at 0.8 and moved to 0.1 .. 0.9."""
    return 0.1 + np.minimum(np.exp(rng.standard_normal(shape)) / 20, 0.8)


LOGNORMAL_MEAN = 0.1 + np.exp(0.5) / 20 * ndtr(np.log(16) - 1) + 0.8 * (1 - ndtr(np.log(16)))


def gaussian(rng: Rng, shape: Shape) -> Array:
    return 0.5 + 0.1 * rng.standard_normal(shape)


def heavy(rng: Rng, shape: Shape) -> Array:
    """Student's t with 3 degrees of freedom: no third moment."""
    return 0.5 + 0.05 * rng.standard_t(3, shape)


def rare_failure(rng: Rng, shape: Shape) -> Array:
    """Nearly constant, but for a failure in 10: a sample may not show that it has tails."""
    fine = 0.85 + 0.01 * rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.1, 0.05 + 0.05 * rng.random(shape), fine)


def u_shaped(rng: Rng, shape: Shape) -> Array:
    return 0.05 + 0.9 * rng.beta(0.2, 0.8, shape)


def weibull(rng: Rng, shape: Shape) -> Array:
    """Weibull of shape 0.7 and scale 0.1, cut off at 0.7."""
    return 0.1 + np.minimum(0.1 * rng.weibull(0.7, shape), 0.7)


def lomax(rng: Rng, shape: Shape) -> Array:
    """Pareto's tail with exponent 3, scale 0.2, cut off at 0.7."""
    return 0.1 + np.minimum(0.2 * rng.pareto(3, shape), 0.7)


def gamma_half(rng: Rng, shape: Shape) -> Array:
    """Gamma of shape 0.5 and scale 0.2, cut off at 0.7."""
    return 0.1 + np.minimum(rng.gamma(0.5, 0.2, shape), 0.7)


def left_gamma(rng: Rng, shape: Shape) -> Array:
    """Its mirror image: nearly always good, with a long tail of failures."""
    return 1 - gamma_half(rng, shape)


WEIBULL_MEAN = 0.1 + (
    0.1 * gamma(1 + 1 / 0.7) * gammainc(1 + 1 / 0.7, 7**0.7) + 0.7 * np.exp(-(7**0.7))
)
LOMAX_MEAN = 0.1 + 0.1 * (1 - 4.5**-2)
GAMMA_MEAN = 0.1 + 0.1 * gammainc(1.5, 3.5) + 0.7 * gammaincc(0.5, 3.5)

RETURNS = (
    Returns("Bernoulli 0.05, matched units", bernoulli(0.05)),
    Returns("Bernoulli 0.5, matched units", bernoulli(0.5)),
    Returns("Bernoulli 0.95, matched units", bernoulli(0.95)),
    Returns("all demonstrations right, Bernoulli pi_0", all_right(), gaps=(-MARGIN,)),
    Returns("all demonstrations right, 8 episodes a unit", all_right(1.0, 8), gaps=(-MARGIN,)),
    Returns("clustered, 8 episodes a unit, centre 0.5", clustered(0.5)),
    Returns("clustered, 8 episodes a unit, centre 0.9", clustered(0.9)),
    Returns("Bernoulli 0.05, unmatched", bernoulli(0.05), paired=False),
    Returns("Bernoulli 0.5, unmatched", bernoulli(0.5), paired=False),
    Returns("Bernoulli 0.95, unmatched, 20 x more D", bernoulli(0.95, 20), paired=False),
    Returns("gaussian, matched units", shifted(gaussian, 0.5)),
    Returns("gaussian, unmatched", shifted(gaussian, 0.5), paired=False),
    Returns("t with 3 degrees of freedom, unmatched", shifted(heavy, 0.5), paired=False, slow=True),
    Returns("log-normal, cut off, matched units", shifted(lognormal, LOGNORMAL_MEAN), slow=True),
    Returns(
        "log-normal, cut off, unmatched",
        shifted(lognormal, LOGNORMAL_MEAN),
        paired=False,
        slow=True,
    ),
    Returns("U-shaped (beta), matched units", shifted(u_shaped, 0.23), slow=True),
    Returns("one rare failure in 10, continuous", shifted(rare_failure, 0.7725), slow=True),
)
HELD_OUT = (
    Returns("Weibull 0.7, matched units", shifted(weibull, WEIBULL_MEAN), slow=True),
    Returns("Pareto tail 3, matched units", shifted(lomax, LOMAX_MEAN), slow=True),
    Returns("gamma 0.5, matched units", shifted(gamma_half, GAMMA_MEAN), slow=True),
    Returns("gamma 0.5, skewed to the left", shifted(left_gamma, 1 - GAMMA_MEAN), slow=True),
)
"""Skewed returns that no setting of the tests was chosen on."""
