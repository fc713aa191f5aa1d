"""TD3: targets by hand, an update in plain loops, and whether it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from populations import (
    DETERMINISTIC,
    GAUSSIAN,
    answer_,
    assert_same_weights,
    bandit,
    copy_of,
    descend,
    miss,
    random_batch,
    start,
    train,
)

from control import td3
from control.agent import Agent
from control.algorithm_settings import ActorValue, Td3Settings
from control.storage import Batch
from control.streams import Streams

SETTINGS = Td3Settings(actor_lr=3e-3, critic_lr=3e-3, tau=0.05)
WIDE = replace(DETERMINISTIC, actor=(32, 32), critic=(32, 32))


def test_target_is_the_reward_and_the_discounted_smaller_value_by_hand() -> None:
    agent = td3.build(DETERMINISTIC, 3, 2, 2).draw_([0, 1])
    answer_(agent.target_critic, [3.0, 2.0, -1.0, 4.0])
    batch = replace(
        random_batch(2, 2),
        rewards=torch.tensor([[1.0, 1.0], [0.0, 5.0]]),
        masks=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
    )
    y = td3.target(agent, Td3Settings(gamma=0.5), Streams([0, 1]), batch)
    torch.testing.assert_close(y, torch.tensor([[2.0, 1.0], [-0.5, 5.0]]))


def test_next_actions_are_the_target_policy_s_with_clipped_noise_inside_the_box() -> None:
    agent = td3.build(DETERMINISTIC, 3, 2, 1).draw_([0])
    for p in agent.target_actor.parameters():
        p.zero_()
    agent.target_actor.head.bias[:] = torch.tensor([0.0, 1.5])  # modes 0 and 0.905
    batch = random_batch(1, 4_000)
    quiet = td3.smoothed(agent, Td3Settings(target_noise=0.0), Streams([0]), batch)
    torch.testing.assert_close(quiet[0, 0], torch.tanh(torch.tensor([0.0, 1.5])))
    noisy = td3.smoothed(agent, Td3Settings(target_noise=0.3, target_clip=0.4), Streams([0]), batch)
    free, crowded = noisy[0].unbind(-1)
    assert free.min() == pytest.approx(-0.4)
    assert free.max() == pytest.approx(0.4)
    inside = free[free.abs() < 0.4]
    assert len(inside) / 4_000 == pytest.approx(0.818, abs=0.02)  # P(|N| < 4/3)
    assert crowded.max() == 1.0
    assert crowded.min() == pytest.approx(0.905 - 0.4, abs=1e-3)


def naive_target(agent: Agent, batch: Batch, i: int, noise: torch.Tensor) -> float:
    """Row i of member 0, one critic at a time."""
    here = batch.next_observations[:1, i : i + 1]
    action = agent.target_actor(here).mode() + (0.2 * noise[i]).clamp(-0.5, 0.5)
    values = agent.target_critic(here, action.clamp(-1, 1)).flatten().tolist()
    return float(batch.rewards[0, i]) + 0.99 * float(batch.masks[0, i]) * min(values)


@pytest.mark.parametrize("which", ["first", "min", "mean"])
def test_an_update_is_the_formulas_row_by_row(which: ActorValue) -> None:
    settings = replace(SETTINGS, actor_value=which)
    _, views, learner = start(settings, replace(DETERMINISTIC, critic_norm=True), [0, 1])
    wanted, batch = copy_of(views[0]), random_batch(2, 6)
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(100))
    with torch.no_grad():
        y = [naive_target(wanted, batch, i, noise) for i in range(6)]
    loss = torch.zeros(())
    for i in range(6):
        values = wanted.critic(batch.observations[:1, i : i + 1], batch.actions[:1, i : i + 1])
        for value in values.flatten():
            loss = loss + (value - y[i]) ** 2 / 6
    descend(loss, wanted.critic, settings.critic_lr)
    loss = torch.zeros(())
    for i in range(6):
        here = batch.observations[:1, i : i + 1]
        values = wanted.critic(here, wanted.actor(here).mode()).flatten()
        climbed = {"first": values[0], "min": values.min(), "mean": values.mean()}[which]
        loss = loss - climbed / 6
    descend(loss, wanted.actor, settings.actor_lr)
    with torch.no_grad():
        for target, source in wanted.target_pairs():
            target.copy_(0.95 * target + 0.05 * source)
    metrics = learner.update(batch, critic=[True] * 2, actor=[True] * 2)
    assert_same_weights(views[0], wanted)
    assert float(metrics["actor_loss"][0]) == pytest.approx(loss.item(), rel=1e-4)


def test_a_policy_that_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="TD3 needs 'deterministic', got 'gaussian'"):
        td3.build(GAUSSIAN, 3, 2)


def test_the_bandit_is_solved_from_random_actions_and_not_from_rewards_of_others() -> None:
    _, _, learner = start(SETTINGS, WIDE, [0, 1], observation=1, action=1)
    train(learner, [bandit(2, seed=i) for i in range(300)], delay=2)
    assert (miss(learner.agent) < 0.2).all()
    _, _, misled = start(SETTINGS, WIDE, [0, 1], observation=1, action=1)
    batches = [bandit(2, seed=i) for i in range(300)]
    train(misled, [replace(b, rewards=b.rewards.roll(1, 1)) for b in batches], delay=2)
    assert (miss(misled.agent) > 0.35).all()
