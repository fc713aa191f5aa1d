"""TD3+BC and ReBRAC: the two weights by hand, an update in plain loops, what alpha trades."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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

from control import td3, td3_bc
from control.algorithm_settings import Td3BcSettings, Td3Settings
from control.streams import Streams

FAST = Td3Settings(actor_lr=3e-3, critic_lr=3e-3, tau=0.05)
WIDE = replace(DETERMINISTIC, actor=(32, 32), critic=(32, 32))


def test_the_weight_of_the_values_is_alpha_over_their_mean_size_by_hand() -> None:
    values = torch.tensor([[1.0, -3.0], [100.0, 300.0]], requires_grad=True)
    far = torch.tensor([[0.5, 0.1], [0.0, 0.4]])
    loss = td3_bc.pull(values, far, Td3BcSettings(alpha=2.0, actor_bc=10.0))
    # Member 0: 10 * 0.3 - 2 * (-1) / 2; member 1, at another scale: 10 * 0.2 - 2 * 200 / 200.
    torch.testing.assert_close(loss.detach(), torch.tensor([4.0, 0.0]))
    loss.sum().backward()
    wanted = torch.tensor([[-0.5, -0.5], [-0.005, -0.005]])  # -alpha / size / rows, no more
    torch.testing.assert_close(values.grad, wanted)


@given(st.floats(0.1, 1e3), st.lists(st.floats(-10, 10), min_size=2, max_size=6))
def test_alpha_means_the_same_at_any_scale_of_rewards(scale: float, values: list[float]) -> None:
    few = torch.tensor([[*values, 1.0]])
    far = torch.full_like(few, 0.2)
    found = td3_bc.pull(scale * few, far, Td3BcSettings())
    torch.testing.assert_close(found, td3_bc.pull(few, far, Td3BcSettings()), rtol=1e-3, atol=1e-4)


def test_values_that_are_all_zero_pull_nowhere() -> None:
    loss = td3_bc.pull(torch.zeros(1, 4), torch.ones(1, 4), Td3BcSettings(actor_bc=3))
    assert loss.tolist() == [3.0]


def test_the_critic_s_penalty_by_hand_and_none_where_the_next_action_is_unknown() -> None:
    agent = td3_bc.build(DETERMINISTIC, 3, 2, 1).draw_([0])
    answer_(agent.target_critic, [3.0, 4.0])
    for p in agent.target_actor.parameters():
        p.zero_()  # its actions are 0
    unknown = float("nan")
    batch = replace(
        random_batch(1, 3),
        rewards=torch.ones(1, 3),
        masks=torch.tensor([[1.0, 1.0, 0.0]]),
        next_actions=torch.tensor([[[0.6, 0.0], [unknown, unknown], [1.0, 1.0]]]),
    )
    quiet = Td3Settings(gamma=0.5, target_noise=0.0)
    settings = Td3BcSettings(critic_bc=2.0, td3=quiet)
    y = td3_bc.target(agent, settings, Streams([0]), batch)
    # The distance is 0.36 / 2 (mean over dimensions): 1 + 0.5 (3 - 2 * 0.18).
    torch.testing.assert_close(y, torch.tensor([[2.32, 2.5, 1.0]]))
    without = td3_bc.target(agent, replace(settings, critic_bc=0.0), Streams([0]), batch)
    torch.testing.assert_close(without, td3.target(agent, quiet, Streams([0]), batch))


def test_an_update_is_the_formulas_row_by_row() -> None:
    fast = replace(FAST, actor_value="min")
    settings = Td3BcSettings(alpha=1.5, actor_bc=0.7, critic_bc=0.4, td3=fast)
    _, views, learner = start(settings, DETERMINISTIC, [0, 1])
    wanted, batch = copy_of(views[1]), random_batch(2, 6)
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(101))
    loss = torch.zeros(())
    for i in range(6):
        with torch.no_grad():
            following = batch.next_observations[1:, i : i + 1]
            action = wanted.target_actor(following).mode()[0, 0] + (0.2 * noise[i]).clamp(-0.5, 0.5)
            action = action.clamp(-1, 1)
            value = wanted.target_critic(following, action[None, None]).min()
            if not batch.next_actions[1, i].isnan().any():
                value = value - 0.4 * (action - batch.next_actions[1, i]).square().mean()
            y = batch.rewards[1, i] + 0.99 * batch.masks[1, i] * value
        q = wanted.critic(batch.observations[1:, i : i + 1], batch.actions[1:, i : i + 1])
        loss = loss + (q.flatten() - y).square().sum() / 6
    descend(loss, wanted.critic, fast.critic_lr)
    values, far = [], []
    for i in range(6):
        here = batch.observations[1:, i : i + 1]
        action = wanted.actor(here).mode()
        values.append(wanted.critic(here, action).min())
        far.append((action - batch.actions[1:, i : i + 1]).square().mean())
    size = sum(abs(v.item()) for v in values) / 6
    loss = (0.7 * torch.stack(far) - 1.5 / size * torch.stack(values)).mean()
    descend(loss, wanted.actor, fast.actor_lr)
    with torch.no_grad():
        for target, source in wanted.target_pairs():
            target.copy_(0.95 * target + 0.05 * source)
    metrics = learner.update(batch, critic=[True] * 2, actor=[True] * 2)
    assert_same_weights(views[1], wanted)
    assert metrics["distance"][1].item() == pytest.approx(torch.stack(far).mean().item(), rel=1e-4)


def test_a_policy_that_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 'deterministic'"):
        td3_bc.build(GAUSSIAN, 3, 2)


def test_alpha_trades_cloning_for_the_bandit_s_reward() -> None:
    """At 0 it is a clone (a miss of 0.47 from random actions); at 20 the bandit is solved."""
    misses = {}
    for alpha in (0.0, 20.0):
        settings = Td3BcSettings(alpha=alpha, td3=FAST)
        _, _, learner = start(settings, WIDE, [0, 1], observation=1, action=1)
        train(learner, [bandit(2, seed=i) for i in range(300)], delay=2)
        misses[alpha] = miss(learner.agent)
    assert (misses[0.0] > 0.4).all()
    assert (misses[20.0] < 0.2).all()
