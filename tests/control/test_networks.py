"""Stacked networks against torch's own layers, one by one; policies against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from control.networks import EDGE, LOG_STD, MLP, Actor, Critic, Dense, Hidden, Policy, Scalar, Value

STD = st.floats(0.05, 3)
MEAN = st.floats(-2, 2)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that tell the members and the critics apart, norms included."""
    draw = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=draw) * 0.5
    return module


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(dense: Dense, i: int) -> nn.Linear:
    """Map i of the stack as torch's layer."""
    layer = nn.Linear(dense.weight.shape[1], dense.weight.shape[2])
    layer.weight.data = dense.weight[i].T.clone()
    layer.bias.data = dense.bias[i, 0].clone()
    return layer


def layers(trunk: MLP, head: Dense, i: int) -> nn.Sequential:
    """Network i of a stack as a Sequential."""
    found: list[nn.Module] = []
    for dense in trunk.dense:
        found.append(linear(dense, i))
        if dense.gain is not None:
            norm = nn.LayerNorm(dense.weight.shape[2])
            norm.weight.data, norm.bias.data = (p[i, 0].clone() for p in (dense.gain, dense.offset))
            found.append(norm)
        found.append(nn.ReLU())
    return nn.Sequential(*found, linear(head, i))


@pytest.mark.parametrize("norm", [False, True])
def test_critics_are_networks_of_torch_one_by_one_values_and_gradients(norm: bool) -> None:
    critic = drawn(Critic(2, 3, 6, (7, 5), norm=norm))
    observations, actions = noise(2, 9, 4), noise(2, 9, 2, seed=2).requires_grad_()
    values = critic(observations, actions)
    upstream = noise(*values.shape, seed=3)
    values.backward(upstream)
    by_actions = torch.zeros_like(actions)
    for m in range(2):
        for k in range(3):
            net = layers(critic.trunk, critic.head, 3 * m + k)
            x = torch.cat([observations[m], actions[m].detach()], -1).requires_grad_()
            mine = net(x).squeeze(-1)
            torch.testing.assert_close(values[m, k], mine)
            mine.backward(upstream[m, k])
            by_actions[m] += x.grad[:, 4:]
            first = critic.trunk.dense[0].weight.grad[3 * m + k]
            torch.testing.assert_close(first, net[0].weight.grad.T)
            torch.testing.assert_close(
                critic.head.bias.grad[3 * m + k].flatten(), net[-1].bias.grad
            )
    torch.testing.assert_close(actions.grad, by_actions)


@pytest.mark.parametrize("norm", [False, True])
def test_the_first_critic_alone_is_the_first_of_all(norm: bool) -> None:
    critic = drawn(Critic(2, 3, 6, (7, 5), norm=norm))
    observations, actions = noise(2, 9, 4), noise(2, 9, 2, seed=2).requires_grad_()
    alone, every = critic.first(observations, actions), critic(observations, actions)
    torch.testing.assert_close(alone, every[:, :1])
    by_one = torch.autograd.grad(alone.square().sum(), actions)[0]
    torch.testing.assert_close(by_one, torch.autograd.grad(every[:, 0].square().sum(), actions)[0])


def test_values_and_actors_are_networks_of_torch_too() -> None:
    x = noise(3, 8, 4)
    value = drawn(Value(3, 4, (6,), norm=True))
    actor = drawn(Actor(3, 4, 2, (6, 5), kind="deterministic"))
    for m in range(3):
        wanted = layers(value.trunk, value.head, m)(x[m]).squeeze(-1)
        torch.testing.assert_close(value(x)[m], wanted)
        wanted = torch.tanh(layers(actor.trunk, actor.head, m)(x[m]))
        torch.testing.assert_close(actor(x).mode()[m], wanted)


def test_a_lone_map_to_one_number_equals_its_place_in_a_stack_bit_for_bit() -> None:
    stack, lone = drawn(Dense(3, 16, 1)), Dense(1, 16, 1)
    x = noise(3, 64, 16)
    for m in range(3):
        lone.load_state_dict({k: v[m : m + 1] for k, v in stack.state_dict().items()})
        assert torch.equal(lone(x[m : m + 1]), stack(x)[m : m + 1])
        torch.testing.assert_close(lone(x[m : m + 1])[0], linear(stack, m)(x[m]))


def test_weights_are_drawn_as_torch_draws_a_linear_layer_s() -> None:
    torch.manual_seed(0)
    dense = Dense(4, 100, 200)
    dense.reset_parameters()
    for p in dense.parameters():
        assert p.detach().abs().max() <= 0.1
        assert p.detach().abs().max() > 0.099
        assert abs(float(p.detach().std()) - 0.1 / math.sqrt(3)) < 0.003


def test_a_norm_starts_as_layer_norm_and_returns_to_it() -> None:
    layer, x = Hidden(2, 6, 6, norm=True), noise(2, 5, 6)

    def plain():
        bare = torch.baddbmm(layer.bias, x, layer.weight)
        return torch.relu(nn.LayerNorm(6)(bare))

    drawn(layer)
    for p in (layer.gain, layer.offset):
        nn.init.uniform_(p, 1, 2)
    assert not torch.allclose(layer(x), plain())
    layer.reset_parameters()
    torch.testing.assert_close(layer(x), plain())


def squashed(mean: Tensor, std: Tensor) -> TransformedDistribution:
    return TransformedDistribution(Independent(Normal(mean, std), 1), [TanhTransform()])


def gaussian_policies() -> tuple[Policy, Policy]:
    def one(seed: int) -> Policy:
        mean = 0.5 * noise(2, 7, 3, seed=seed)
        return Policy(mean, (0.5 * noise(2, 7, 3, seed=seed + 1)).exp(), squashed=True)

    return one(10), one(20)


def test_log_prob_of_given_actions_agrees_with_torch_distributions() -> None:
    policy, _ = gaussian_policies()
    actions = torch.tanh(noise(2, 7, 3))
    wanted = squashed(policy.mean, policy.std).log_prob(actions)
    torch.testing.assert_close(policy.log_prob(actions), wanted, rtol=1e-4, atol=1e-4)


def test_a_sample_comes_with_the_log_prob_that_its_action_is_given() -> None:
    policy, _ = gaussian_policies()
    actions, log_prob = policy.sample(noise(2, 7, 3))
    torch.testing.assert_close(policy.log_prob(actions), log_prob, rtol=1e-3, atol=1e-3)
    plain = Policy(torch.zeros(1, 5, 2), torch.tensor(0.1), squashed=False)
    actions, log_prob = plain.sample(noise(1, 5, 2))
    torch.testing.assert_close(plain.log_prob(actions), log_prob)
    wanted = Independent(Normal(plain.mean, torch.tensor(0.1).expand(1, 5, 2)), 1)
    torch.testing.assert_close(log_prob, wanted.log_prob(actions))


@given(MEAN, STD)
def test_the_density_of_a_squashed_policy_integrates_to_one(mean: float, std: float) -> None:
    u = torch.linspace(-4.8, 4.8, 20_001, dtype=torch.float64)
    actions = torch.tanh(u)[None, :, None]
    policy = Policy(torch.tensor([[[mean]]]).double(), torch.tensor([[[std]]]).double(), True)
    density = policy.log_prob(actions)[0].exp() * (1 - actions[0, :, 0].square())
    inside = Normal(mean, std).cdf(torch.tensor(4.8)) - Normal(mean, std).cdf(torch.tensor(-4.8))
    assert abs(float(torch.trapezoid(density, u)) - float(inside)) < 1e-3


def test_actions_on_the_edge_of_the_box_have_a_finite_likelihood() -> None:
    policy, _ = gaussian_policies()
    edge = torch.ones(2, 7, 3)
    assert torch.isfinite(policy.log_prob(edge)).all()
    assert torch.equal(policy.log_prob(edge), policy.log_prob(edge * EDGE))


def test_kl_is_that_of_torch_distributions_squashed_or_not() -> None:
    policy, other = gaussian_policies()
    wanted = kl_divergence(Normal(policy.mean, policy.std), Normal(other.mean, other.std)).sum(-1)
    torch.testing.assert_close(policy.kl(other), wanted)
    spread = torch.tensor(0.1)
    plain = Policy(policy.mean, spread, squashed=False)
    far = Policy(policy.mean + 0.2, spread, squashed=False)
    torch.testing.assert_close(plain.kl(far), torch.full((2, 7), 3 * (0.2 / 0.1) ** 2 / 2))
    with pytest.raises(ValueError, match="no KL"):
        policy.kl(plain)


@given(MEAN, STD, MEAN, STD)
def test_kl_is_never_negative_and_zero_of_a_policy_to_itself(
    mean: float, std: float, other_mean: float, other_std: float
) -> None:
    policy = Policy(torch.tensor([[[mean]]]), torch.tensor([[[std]]]), squashed=True)
    other = Policy(torch.tensor([[[other_mean]]]), torch.tensor([[[other_std]]]), squashed=True)
    assert policy.kl(other) >= -1e-5
    assert policy.kl(policy).abs() < 1e-5


def test_a_deterministic_policy_explores_inside_the_box() -> None:
    policy = Policy(torch.full((1, 4, 2), 0.95), torch.tensor(0.5), squashed=False)
    actions, _ = policy.sample(noise(1, 4, 2).abs() * 5)
    assert torch.equal(actions, torch.ones(1, 4, 2))
    assert torch.equal(policy.mode(), policy.mean)


def test_the_standard_deviation_is_bounded_smoothly() -> None:
    actor = Actor(1, 1, 1, (4,), kind="gaussian")
    x = torch.ones(1, 1, 1)
    for raw, wanted in ((0.0, sum(LOG_STD) / 2), (50.0, LOG_STD[1]), (-50.0, LOG_STD[0])):
        actor.head.bias.data[..., 1] = raw
        assert math.isclose(float(actor(x).std.detach().log()), wanted, abs_tol=1e-4)


def test_a_scalar_is_positive_and_starts_where_it_was_told() -> None:
    scalar = Scalar(3, 0.25)
    torch.testing.assert_close(scalar(), torch.full((3, 1), 0.25))
    scalar.log.data -= 10
    assert (scalar() > 0).all()
    scalar.reset_parameters()
    torch.testing.assert_close(scalar(), torch.full((3, 1), 0.25))
