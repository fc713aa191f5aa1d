"""IQL: expectiles of known laws, an update in plain loops, and what it prefers."""

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

from control import iql
from control.algorithm_settings import IqlSettings, NetworkSettings
from control.bc import misfit
from control.storage import Batch

FAST = IqlSettings(lr=3e-3, tau=0.05, beta=10, expectile=0.9)
WIDE = replace(GAUSSIAN, actor=(32, 32), critic=(32, 32))


def test_the_loss_weighs_both_sides_by_hand() -> None:
    errors = torch.tensor([2.0, -2.0, 0.0])
    torch.testing.assert_close(iql.expectile_loss(errors, 0.7), torch.tensor([2.8, 1.2, 0.0]))


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_the_value_of_a_coin_is_its_known_expectile(expectile: float, chance: float) -> None:
    """Of a coin that pays 1 with chance p: tau p / (tau p + (1 - tau)(1 - p))."""
    wanted = expectile * chance / (expectile * chance + (1 - expectile) * (1 - chance))
    value = torch.tensor(wanted, dtype=torch.float64, requires_grad=True)
    pays = torch.tensor([1.0, 0.0], dtype=torch.float64)
    loss = (torch.tensor([chance, 1 - chance]) * iql.expectile_loss(pays - value, expectile)).sum()
    loss.backward()
    assert value.grad.abs() < 1e-6  # float32 weights
    assert (value.grad + 0.01).abs() > 1e-3


def test_preferences_by_hand() -> None:
    advantages = torch.tensor([0.0, 0.5, -1.0, 9.0])
    found = iql.preference(advantages, IqlSettings(beta=2.0, clip=50.0))
    wanted = torch.tensor([1.0, 2.7182818, 0.1353353, 50.0])
    torch.testing.assert_close(found, wanted)


def test_advantages_come_from_the_smaller_target_critic_by_hand() -> None:
    agent = iql.build(GAUSSIAN, 3, 2, 2).draw_([0, 1])
    answer_(agent.target_critic, [3.0, 2.0, -1.0, 4.0])
    answer_(agent.critic, [100.0] * 4)
    answer_(agent.value, [0.5, 1.0])
    batch = random_batch(2, 3)
    wanted = torch.tensor([[1.5] * 3, [-2.0] * 3])
    torch.testing.assert_close(iql.advantage(agent, batch), wanted)
    batch = replace(batch, rewards=torch.ones(2, 3), masks=torch.tensor([[1.0, 0.0, 1.0]] * 2))
    y = iql.target(agent, IqlSettings(gamma=0.5), batch)
    torch.testing.assert_close(y, torch.tensor([[1.25, 1.0, 1.25], [1.5, 1.0, 1.5]]))


@pytest.mark.parametrize("networks", [GAUSSIAN, DETERMINISTIC])
@pytest.mark.parametrize("late", [False, True])
def test_an_update_is_the_formulas_row_by_row(networks: NetworkSettings, late: bool) -> None:
    """With `late` the policy has other rows than the values."""
    _, views, learner = start(FAST, networks, [0, 1])
    wanted, batch, other = copy_of(views[1]), random_batch(2, 6), random_batch(2, 6, seed=1)
    regression, asymmetric, advantages = torch.zeros(()), torch.zeros(()), []
    for i in range(6):
        here, action = batch.observations[1:, i : i + 1], batch.actions[1:, i : i + 1]
        with torch.no_grad():
            following = wanted.value(batch.next_observations[1:, i : i + 1])[0, 0]
            y = batch.rewards[1, i] + 0.99 * batch.masks[1, i] * following
            held = wanted.target_critic(here, action).min()
        error = held - wanted.value(here)[0, 0]
        asymmetric = asymmetric + (0.9 if error > 0 else 0.1) * error**2 / 6
        regression = regression + (wanted.critic(here, action).flatten() - y).square().sum() / 6
        advantages.append(error.item())
    descend(regression, wanted.critic, FAST.lr)
    descend(asymmetric, wanted.value, FAST.lr)
    with torch.no_grad():
        for target, source in wanted.target_pairs():
            target.copy_(0.95 * target + 0.05 * source)
    seen = batch
    if late:
        seen, advantages = other, []
        for i in range(6):
            here, action = seen.observations[1:, i : i + 1], seen.actions[1:, i : i + 1]
            with torch.no_grad():
                held = wanted.target_critic(here, action).min()
                advantages.append((held - wanted.value(here)[0, 0]).item())
    loss = torch.zeros(())
    for i in range(6):
        policy = wanted.actor(seen.observations[1:, i : i + 1])
        weight = min(torch.tensor(10 * advantages[i]).exp().item(), FAST.clip)
        loss = loss + weight * misfit(policy, seen.actions[1:, i : i + 1]).sum() / 6
    descend(loss, wanted.actor, FAST.lr)
    on = [True] * 2
    metrics = learner.update(batch, critic=on, actor=on, rows=other if late else None)
    assert_same_weights(views[1], wanted)
    assert metrics["actor_loss"][1].item() == pytest.approx(loss.item(), rel=1e-3)


def coin(rows: int, seed: int) -> Batch:
    """One state; action 0.5 pays 1 and action -0.5 pays nothing, each half of the time."""
    pays = torch.rand(1, rows, generator=torch.Generator().manual_seed(seed)) < 0.5
    batch = bandit(1, rows, seed=seed)
    return replace(
        batch,
        observations=torch.ones(1, rows, 1),
        actions=(pays.float() - 0.5).unsqueeze(-1),
        rewards=pays.float(),
    )


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_a_state_is_worth_the_expectile_of_its_actions(expectile: float) -> None:
    agent, _, learner = start(
        IqlSettings(lr=3e-3, tau=0.1, expectile=expectile), WIDE, [0], observation=1, action=1
    )
    train(learner, [coin(64, i) for i in range(300)])
    assert agent.value(torch.ones(1, 1, 1)).item() == pytest.approx(expectile, abs=0.04)


def test_the_bandit_is_solved_by_preferring_and_not_without_preference() -> None:
    misses = {}
    for beta in (0.0, 10.0):
        settings = replace(FAST, beta=beta)
        _, _, learner = start(settings, WIDE, [0, 1], observation=1, action=1)
        train(learner, [bandit(2, seed=i) for i in range(400)])
        misses[beta] = miss(learner.agent)
    assert (misses[0.0] > 0.4).all()
    assert (misses[10.0] < 0.2).all()
