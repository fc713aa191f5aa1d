"""Estimators against sums over every outcome; exact divergences against torch.distributions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import (
    Categorical,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from posttrain.intervention import kl

seeds = st.integers(0, 10_000)


def logits(seed, *shape, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def gaussians(seed, *shape):
    mean, ref_mean, raw, ref_raw = logits(seed, 4, *shape, scale=1.0)
    return mean, raw.exp(), ref_mean, ref_raw.exp()


@given(seeds, st.sampled_from(["k1", "k3"]))
def test_k1_and_k3_are_unbiased(seed, name):
    pi, ref = logits(seed, 7), logits(seed + 1, 7)
    logp, ref_logp = pi.log_softmax(-1), ref.log_softmax(-1)
    expected = (logp.exp() * kl.estimate(name, logp, ref_logp)).sum()
    assert expected.item() == pytest.approx(kl.categorical_kl(pi, ref).item())


@given(seeds)
def test_k2_is_biased_by_no_more_than_the_third_order(seed):
    pi = logits(seed, 7)
    ref = pi + 0.01 * logits(seed + 1, 7)
    logp, ref_logp = pi.log_softmax(-1), ref.log_softmax(-1)
    expected = (logp.exp() * kl.k2(logp, ref_logp)).sum()
    assert expected.item() == pytest.approx(kl.categorical_kl(pi, ref).item(), rel=0.1)


@given(seeds)
def test_k2_and_k3_are_never_negative_and_zero_only_at_agreement(seed):
    logp, ref_logp = logits(seed, 50), logits(seed + 1, 50)
    for estimator in (kl.k2, kl.k3):
        assert (estimator(logp, ref_logp) > 0).all()
        assert (estimator(logp, logp) == 0).all()


def gradient_of_loss(name, pi, ref):
    """The expected gradient of an estimator used as a loss: samples do not move with pi."""
    pi = pi.clone().requires_grad_()
    logp, ref_logp = pi.log_softmax(-1), ref.log_softmax(-1)
    (logp.detach().exp() * kl.estimate(name, logp, ref_logp)).sum().backward()
    return pi.grad


def gradient(divergence, pi):
    pi = pi.clone().requires_grad_()
    divergence(pi).backward()
    return pi.grad


@given(seeds)
def test_as_a_loss_k1_is_no_anchor_k2_is_the_reverse_kl_and_k3_the_forward(seed):
    pi, ref = logits(seed, 7), logits(seed + 1, 7)
    reverse = gradient(lambda x: kl.categorical_kl(x, ref), pi)
    forward = gradient(lambda x: kl.categorical_kl(ref, x), pi)
    torch.testing.assert_close(gradient_of_loss("k1", pi, ref), torch.zeros_like(pi))
    torch.testing.assert_close(gradient_of_loss("k2", pi, ref), reverse)
    torch.testing.assert_close(gradient_of_loss("k3", pi, ref), forward)


def test_k3_keeps_its_digits_where_the_policies_are_close():
    r = torch.tensor([1e-3, -1e-3], dtype=torch.float32)
    naive = torch.exp(r.double()) - 1 - r.double()
    torch.testing.assert_close(kl.k3(-r, torch.zeros(2)).double(), naive, rtol=2e-4, atol=0)


def test_an_estimator_that_samples_cannot_give_is_refused():
    with pytest.raises(ValueError, match="exact"):
        kl.estimate("exact", torch.zeros(1), torch.zeros(1))


@given(seeds)
def test_forward_kl_from_samples_of_the_reference(seed):
    pi, ref = logits(seed, 5), logits(seed + 1, 5)
    draws = torch.multinomial(
        ref.softmax(-1), 20_000, replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    found = kl.forward_kl_estimate(pi.log_softmax(-1)[draws], ref.log_softmax(-1)[draws])
    spread = (ref.log_softmax(-1) - pi.log_softmax(-1)).abs().max().item()
    exact = kl.categorical_kl(ref, pi).item()
    assert found.item() == pytest.approx(exact, abs=6 * spread / math.sqrt(20_000))


@given(seeds)
def test_the_categorical_kl_is_that_of_torch(seed):
    pi, ref = logits(seed, 3, 4, 9), logits(seed + 1, 3, 4, 9)
    theirs = kl_divergence(Categorical(logits=pi), Categorical(logits=ref))
    torch.testing.assert_close(kl.categorical_kl(pi, ref), theirs)


def test_a_choice_nobody_takes_costs_nothing_and_has_no_gradient():
    pi = torch.tensor([0.3, -math.inf, 1.0], requires_grad=True)
    ref = torch.tensor([0.0, -math.inf, 0.5])
    found = kl.categorical_kl(pi, ref)
    two = kl.categorical_kl(torch.tensor([0.3, 1.0]), torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(found, two)
    found.backward()
    assert pi.grad.isfinite().all()


def test_a_choice_only_the_policy_takes_costs_everything():
    assert kl.categorical_kl(torch.zeros(2), torch.tensor([0.0, -math.inf])).item() == math.inf


def test_half_precision_logits_are_compared_in_single_precision():
    pi = logits(0, 100, scale=5.0).bfloat16()
    assert kl.categorical_kl(pi, pi).dtype == torch.float32
    assert kl.categorical_kl(pi, pi).item() == 0


@given(seeds)
def test_the_gaussian_kl_is_that_of_torch(seed):
    mean, std, ref_mean, ref_std = gaussians(seed, 5, 3)
    theirs = kl_divergence(
        Independent(Normal(mean, std), 1), Independent(Normal(ref_mean, ref_std), 1)
    )
    torch.testing.assert_close(kl.gaussian_kl(mean, std, ref_mean, ref_std), theirs)


def squashed(mean, std):
    return TransformedDistribution(Independent(Normal(mean, std), 1), [TanhTransform(cache_size=1)])


@given(seeds)
def test_the_squashed_kl_is_that_of_torch(seed):
    mean, std, ref_mean, ref_std = gaussians(seed, 5, 3)
    theirs = kl_divergence(squashed(mean, std), squashed(ref_mean, ref_std))
    torch.testing.assert_close(kl.squashed_gaussian_kl(mean, std, ref_mean, ref_std), theirs)


def test_the_squashed_kl_is_the_integral_over_actions():
    mean, std, ref_mean, ref_std = (torch.tensor([x]).double() for x in (0.3, 0.5, -0.2, 0.8))
    edge = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
    action = ((edge[1:] + edge[:-1]) / 2).unsqueeze(-1)
    logp = kl.squashed_gaussian_log_prob(mean, std, action.atanh())
    ref_logp = kl.squashed_gaussian_log_prob(ref_mean, ref_std, action.atanh())
    width = edge[1] - edge[0]
    assert (logp.exp().sum() * width).item() == pytest.approx(1, abs=1e-6)
    integral = (logp.exp() * (logp - ref_logp)).sum() * width
    exact = kl.squashed_gaussian_kl(mean, std, ref_mean, ref_std)
    assert integral.item() == pytest.approx(exact.item(), rel=1e-5)


@given(seeds)
def test_the_squashed_density_is_that_of_torch(seed):
    mean, std, x, _ = gaussians(seed, 5, 3)
    distribution = squashed(mean, std)
    torch.testing.assert_close(
        kl.squashed_gaussian_log_prob(mean, std, x), distribution.log_prob(x.tanh())
    )


def test_the_squashed_density_is_finite_where_tanh_has_saturated():
    far = torch.tensor([40.0])
    assert kl.squashed_gaussian_log_prob(far, torch.ones(1), far).isfinite()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_sampled_squashed_kl_approaches_the_exact_one(estimator):
    mean, std, ref_mean, ref_std = gaussians(3, 6, 2)
    std = std + ref_std  # wider than the reference, so that k3 has a variance
    found = kl.sampled_squashed_gaussian_kl(
        mean,
        std,
        ref_mean,
        ref_std,
        samples=40_000,
        estimator=estimator,
        generator=torch.Generator().manual_seed(0),
    )
    exact = kl.squashed_gaussian_kl(mean, std, ref_mean, ref_std)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.02)


def test_a_mean_counts_only_what_the_mask_shows():
    x = torch.tensor([[1.0, math.nan], [3.0, math.inf]], requires_grad=True)
    mask = torch.tensor([[1, 0], [1, 0]])
    found = kl.masked_mean(x, mask)
    assert found.item() == 2
    found.backward()
    torch.testing.assert_close(x.grad, 0.5 * mask.float())


def test_a_mean_of_nothing_is_zero():
    assert kl.masked_mean(torch.ones(3), torch.zeros(3)).item() == 0
