"""The chain from noise to action: marginals, densities and the gradient that they give."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from posttrain.intervention.kl import gaussian_kl
from posttrain.vla.flow.chain import Chain, FlowError, grid, step_kl, step_log_prob, step_mean

MEAN, SPREAD = 0.7, 0.3


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity where actions are N(MEAN, SPREAD^2)."""
    variance = t**2 + (1 - t) ** 2 * SPREAD**2
    return -MEAN + (t - (1 - t) * SPREAD**2) / variance * (x - (1 - t) * MEAN)


def linear(chain: Chain, velocity, *, naive: bool = False):
    """Mean and deviation of the action, exactly: the steps of a linear velocity are linear."""
    mean, variance = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for t, deviation in zip(*grid(chain, mean), strict=True):
        kept = torch.zeros_like(deviation) if naive else deviation
        ends = [
            step_mean(chain, x * torch.ones_like(t), velocity(x, t), t, kept) for x in (0.0, 1.0)
        ]
        slope = (ends[1] - ends[0]).squeeze()
        mean = ends[0].squeeze() + slope * mean
        variance = slope**2 * variance + deviation.squeeze() ** 2
    return mean, variance.sqrt()


def test_the_sde_has_the_marginals_of_the_ode() -> None:
    for noise in (0.0, 0.3, 0.5, 0.8):
        mean, deviation = linear(Chain(steps=400, noise=noise), gaussian_velocity)
        assert float(mean) == pytest.approx(MEAN, abs=0.005)
        assert float(deviation) == pytest.approx(SPREAD, abs=0.005)


def test_noise_without_the_correction_of_the_drift_is_another_policy() -> None:
    _, deviation = linear(Chain(steps=400, noise=0.5), gaussian_velocity, naive=True)
    assert abs(float(deviation) - SPREAD) > 0.03


def test_the_error_of_a_step_falls_with_its_length() -> None:
    errors = [
        abs(float(linear(Chain(steps=k, noise=0.5), gaussian_velocity)[1]) - SPREAD)
        for k in (50, 100, 200)
    ]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_without_noise_a_step_is_eulers() -> None:
    chain = Chain(steps=4, noise=0.0)
    x, v = torch.tensor([0.3, -2.0]), torch.tensor([1.5, 0.25])
    t, deviation = torch.tensor(0.75), torch.tensor(0.0)
    assert torch.allclose(step_mean(chain, x, v, t, deviation), x - v / 4, atol=1e-6)


def test_densities_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    deviation = torch.full_like(x, 0.17)
    wanted = norm.logpdf(x.numpy(), mean.numpy(), 0.17)
    assert torch.allclose(step_log_prob(x, mean, deviation), torch.from_numpy(wanted))


def test_the_kl_of_a_step_is_that_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, other = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    deviation = torch.tensor(0.4, dtype=torch.float64)
    wanted = gaussian_kl(mean, deviation, other, deviation)
    assert torch.allclose(step_kl(mean, other, deviation).sum(-1), wanted)


def _sampled_gradient(chain: Chain, theta: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """REINFORCE for E[-(a - 1)^2] under v = theta_0 + theta_1 x, with its standard error."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    first = torch.zeros(n, dtype=torch.float64)
    second = torch.zeros(n, dtype=torch.float64)
    for t, deviation in zip(*(part.flatten() for part in grid(chain, x)), strict=True):
        # A mean is linear in v, so that its slope in v gives the scores in closed form.
        base = step_mean(chain, x, theta[0] + theta[1] * x, t, deviation)
        slope = step_mean(chain, x, theta[0] + theta[1] * x + 1, t, deviation) - base
        reached = base + deviation * torch.randn(n, generator=generator, dtype=torch.float64)
        score = (reached - base) / deviation**2 * slope
        first, second, x = first + score, second + score * x, reached
    reward = -((x - 1) ** 2)
    terms = (reward - reward.mean())[None] * torch.stack([first, second])
    return terms.mean(1), terms.std(1) / math.sqrt(n)


def test_the_gradient_of_the_likelihood_is_unbiased() -> None:
    chain = Chain(steps=3, noise=0.5)
    theta = torch.tensor([0.4, 0.3], dtype=torch.float64, requires_grad=True)
    mean, deviation = linear(chain, lambda x, _: theta[0] + theta[1] * x)
    value = -((mean - 1) ** 2 + deviation**2)
    (exact,) = torch.autograd.grad(value, theta)
    found, error = _sampled_gradient(chain, theta.detach(), 200_000)
    assert float(error.max()) < 0.05 * float(exact.abs().max())
    assert bool(((found - exact).abs() < 4 * error).all())


@pytest.mark.parametrize(
    ("given", "named"),
    [({"steps": 0}, "steps"), ({"noise": -0.1}, "noise"), ({"noise": 2}, "noise")],
)
def test_impossible_chains_are_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(FlowError, match=named):
        Chain(**given)  # type: ignore[arg-type]
