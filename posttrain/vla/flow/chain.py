"""The flow as a Gaussian Markov chain, whose log-probabilities a policy gradient needs.

PI0 learns a velocity v(x, t) for x_t = t e + (1 - t) a: at t = 1 there is noise e ~ N(0, I), at
t = 0 the action a, and v is the mean of e - a given x_t. Its ODE dx/dt = v, run from t = 1 down to
0, gives no action a probability that could be computed. What x_t says of noise and action,

    e^ = x + (1 - t) v        a^ = x - t v        score of x_t = -e^ / t

turns the ODE into an SDE with the same marginals, for any g (Flow-GRPO, arXiv 2505.05470):

    x_{t-h} = x_t - h (v + g^2 / (2 t) e^) + g sqrt(h) z,    z ~ N(0, I)

Here g^2 = noise^2 t, so that nothing diverges at either end, and a step from t to s = t - h is
taken as

    x_s = (1 - s) a^ + sqrt(s^2 - sigma^2) e^ + sigma z,     sigma = noise sqrt(t h)

which is the SDE up to O(h^2), holds exactly as much noise as belongs to s at every h
(arXiv 2509.05952), and is the ODE's Euler step at noise 0. In the last step, s = 0, sigma z is
added to a^: the action then has a density, and the environment's reward is a function of the
chain alone. Given pictures and words, every step is a Gaussian with a known deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class FlowError(ValueError):
    """What a flow-matching policy cannot be asked for, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """How many steps lead from noise to an action, and how much noise they add."""

    steps: int = 5
    noise: float = 0.5
    """In deviations of the normalised actions: the SDE adds noise * sqrt(t) dW. 0: the ODE."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise FlowError(f"steps: a chain needs at least 1, got {self.steps!r}")
        if not 0 <= self.noise <= 1:
            raise FlowError(f"noise must lie in [0, 1], got {self.noise!r}")

    def times(self) -> tuple[float, ...]:
        """When its steps begin: 1, 1 - h, ..., h with h = 1 / steps."""
        return tuple(1 - k / self.steps for k in range(self.steps))

    def deviations(self) -> tuple[float, ...]:
        """Standard deviation of every step."""
        return tuple(self.noise * math.sqrt(t / self.steps) for t in self.times())


def step_mean(chain: Chain, x: Tensor, velocity: Tensor, t: Tensor, deviation: Tensor) -> Tensor:
    """Where a step goes on average.

    Args:
        chain: the steps.
        x: states that it begins at, any shape.
        velocity: of the model there.
        t: when it begins, broadcastable to `x`.
        deviation: its standard deviation, likewise.
    """
    s = (t - 1 / chain.steps).clamp(min=0)
    noise, action = x + (1 - t) * velocity, x - t * velocity
    kept = (s.square() - deviation.square()).clamp(min=0).sqrt()
    return (1 - s) * action + kept * noise


def step_log_prob(x_next: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Log-density of where a step went, a number each; to be summed over a state's numbers."""
    z = (x_next - mean) / deviation
    return -0.5 * z.square() - deviation.log() - 0.5 * math.log(2 * math.pi)


def step_kl(mean: Tensor, other: Tensor, deviation: Tensor) -> Tensor:
    """KL of a step to another model's from the same state, exactly, a number each.

    Both deviations are the chain's, so that only the means differ.
    """
    return 0.5 * ((mean - other) / deviation).square()


def grid(chain: Chain, like: Tensor) -> tuple[Tensor, Tensor]:
    """Times and deviations of all steps as `[steps, 1, 1]`, on `like`'s device."""
    made = {"device": like.device, "dtype": like.dtype}
    shape = (-1, 1, 1)
    return (
        torch.tensor(chain.times(), **made).view(shape),  # type: ignore[arg-type]
        torch.tensor(chain.deviations(), **made).view(shape),  # type: ignore[arg-type]
    )
