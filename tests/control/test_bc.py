"""Cloning: the likelihood by torch's distributions, an update in plain loops, what it recovers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from populations import (
    DETERMINISTIC,
    GAUSSIAN,
    assert_same_weights,
    bandit,
    copy_of,
    descend,
    miss,
    random_batch,
    start,
    train,
)
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from control import bc
from control.algorithm_settings import BcSettings, NetworkSettings
from control.networks import Policy
from control.storage import Batch

SETTINGS = BcSettings(actor_lr=3e-3)


def test_a_gaussian_policy_misses_by_the_nats_that_torch_s_distribution_says() -> None:
    batch = random_batch(2, 5)
    mean, std = batch.next_actions.nan_to_num(0.3), batch.observations[..., :2].exp()
    law = TransformedDistribution(Independent(Normal(mean, std), 1), [TanhTransform()])
    found = bc.misfit(Policy(mean, std, squashed=True), batch.actions)
    torch.testing.assert_close(found, -law.log_prob(batch.actions), rtol=1e-3, atol=1e-3)


def test_a_deterministic_policy_misses_by_the_mean_squared_difference_by_hand() -> None:
    policy = Policy(torch.tensor([[[0.5, -0.5]]]), torch.tensor(0.1), squashed=False)
    assert bc.misfit(policy, torch.tensor([[[0.1, 0.3]]])).item() == pytest.approx(0.4)


@pytest.mark.parametrize("networks", [GAUSSIAN, DETERMINISTIC])
def test_an_update_is_adam_on_the_mean_misfit_row_by_row(networks: NetworkSettings) -> None:
    _, views, learner = start(SETTINGS, replace(networks, actor_norm=True), [0, 1])
    wanted, batch = copy_of(views[1]), random_batch(2, 6)
    loss = torch.zeros(())
    for i in range(6):
        policy = wanted.actor(batch.observations[1:, i : i + 1])
        loss = loss + bc.misfit(policy, batch.actions[1:, i : i + 1]).sum() / 6
    descend(loss, wanted.actor, SETTINGS.actor_lr)
    metrics = learner.update(batch, critic=[True] * 2, actor=[True] * 2)
    assert_same_weights(views[1], wanted)
    assert float(metrics["actor_loss"][1]) == pytest.approx(loss.item(), rel=1e-4)


def test_there_is_no_critic_and_nothing_happens_before_the_policy_s_turn() -> None:
    agent, _, learner = start(SETTINGS, GAUSSIAN, [0, 1])
    assert agent.critic is None
    assert learner.update(random_batch(2), critic=[True] * 2) == {}
    assert learner.update(random_batch(2), critic=[True] * 2, actor=[False] * 2) == {}


def expert(rows: int, seed: int) -> Batch:
    """tanh(0.8 s + 0.3 noise): in the family of squashed Gaussians, so its law is recoverable."""
    batch = bandit(1, rows, seed=seed)
    noise = torch.randn(1, rows, 1, generator=torch.Generator().manual_seed(seed + 10_000))
    return replace(batch, actions=torch.tanh(0.8 * batch.observations + 0.3 * noise))


def test_the_law_of_a_noisy_expert_is_recovered() -> None:
    networks = replace(GAUSSIAN, actor=(32, 32))
    agent, _, learner = start(SETTINGS, networks, [0], observation=1, action=1)
    train(learner, [expert(256, i) for i in range(300)])
    states = torch.linspace(-0.7, 0.7, 15)[None, :, None]
    policy = agent.actor(states)
    torch.testing.assert_close(policy.mean.detach(), 0.8 * states, atol=0.08, rtol=0)
    torch.testing.assert_close(policy.std.detach(), torch.full((1, 15, 1), 0.3), atol=0.06, rtol=0)


@pytest.mark.parametrize("networks", [GAUSSIAN, DETERMINISTIC])
def test_random_actions_are_cloned_however_they_were_rewarded(networks: NetworkSettings) -> None:
    """The clone's best guess is 0, a root mean square of 0.47 from the bandit's best actions."""
    _, _, learner = start(SETTINGS, networks, [0, 1], observation=1, action=1)
    train(learner, [bandit(2, seed=i) for i in range(200)])
    assert ((miss(learner.agent) - 0.47).abs() < 0.08).all()
