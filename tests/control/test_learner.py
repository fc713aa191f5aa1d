"""Laws of every algorithm: members are alone together, and who holds still keeps still."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from populations import EVERY, moments, of_member, random_batch, start, train, weights

from control import algorithms
from control.algorithm_settings import (
    AlgorithmSettings,
    CqlSettings,
    IqlSettings,
    SacSettings,
    Td3BcSettings,
    Td3Settings,
)
from control.learner import Learner
from control.storage import Batch

SEEDS = (5, 11, 3)


def schedule(learner: Learner, batches: list[Batch], m: int | None = None) -> list[dict]:
    """A warm-up of the policy, members that hold still in turn, and other rows for the policy.

    With `m` that member alone goes through what it goes through in the population.
    """
    delay = algorithms.delay_of(learner.settings)
    found = []
    for i, every in enumerate(batches):
        batch = every
        critic = [i % 4 != 1, True, i > 3]
        actor = [on and i >= warm for on, warm in zip(critic, (0, 4, 0), strict=True)]
        turn = (i + 1) % delay == 0
        if m is not None:
            critic, actor = critic[m : m + 1], actor[m : m + 1]
            if not any(critic):
                continue
            batch = of_member(every, m)
        rows = batch.rows(32, 64) if i % 3 == 0 else None
        metrics = learner.update(
            batch, critic=critic, actor=actor if turn else None, rows=rows if turn else None
        )
        found.append({k: v.clone() for k, v in metrics.items()})
    return found


@pytest.mark.parametrize("name", EVERY)
def test_a_member_gets_the_very_numbers_that_it_gets_alone(name: str) -> None:
    """Bit for bit where batches have a multiple of 32 rows.

    Elsewhere torch's vector loops leave a remainder to scalar code, which rounds otherwise, and
    where the remainder lies depends on the number of members.
    """
    batches = [random_batch(3, 64, seed=i) for i in range(9)]
    _, views, learner = start(*EVERY[name], SEEDS)
    schedule(learner, batches)
    for m, seed in enumerate(SEEDS):
        alone, lone_views, lone = start(*EVERY[name], [seed])
        schedule(lone, batches, m)
        together = weights(views[m])
        for key, value in weights(alone).items():
            assert torch.equal(value, together[key]), (m, key)
        remembered = moments(learner, views[m])
        for key, value in moments(lone, lone_views[0]).items():
            assert torch.equal(value, remembered[key]), (m, key)


@pytest.mark.parametrize("name", EVERY)
def test_another_seed_is_another_run(name: str) -> None:
    batches = [random_batch(3, 64, seed=i) for i in range(4)]
    _, views, learner = start(*EVERY[name], SEEDS)
    schedule(learner, batches)
    other, _, lone = start(*EVERY[name], [SEEDS[0] + 1])
    schedule(lone, batches, 0)
    same = weights(views[0])
    assert not torch.equal(weights(other)["actor.head.weight"], same["actor.head.weight"])


@pytest.mark.parametrize("name", EVERY)
def test_a_member_that_holds_still_keeps_weights_moments_targets_and_noise(name: str) -> None:
    _, views, learner = start(*EVERY[name], SEEDS)
    on, delay = [True] * 3, algorithms.delay_of(learner.settings)
    for i in range(2 * delay):
        learner.update(random_batch(3, seed=i), critic=on, actor=on)
    before = [weights(v) for v in views], [moments(learner, v) for v in views]
    noise = [g.get_state() for g in learner.streams.generators]
    for i in range(3):
        learner.update(
            random_batch(3, seed=50 + i), critic=[True, False, True], actor=[True, False, True]
        )
    for m, view in enumerate(views):
        still = m == 1
        trained = [k for k in before[0][m] if k not in {"center", "scale", "actor.spread"}]
        after, remembered = weights(view), moments(learner, view)
        assert all(torch.equal(before[0][m][k], after[k]) for k in trained) == still
        assert remembered.keys() == before[1][m].keys()
        assert all(torch.equal(before[1][m][k], v) for k, v in remembered.items()) == still
        if not name.startswith(("bc", "iql")):
            assert torch.equal(noise[m], learner.streams.generators[m].get_state()) == still


@pytest.mark.parametrize("name", [n for n in EVERY if not n.startswith("bc")])
def test_during_warm_up_the_critic_and_its_target_move_and_the_policy_does_not(name: str) -> None:
    agent, _, learner = start(*EVERY[name], SEEDS)
    before = weights(agent)
    learner.update(random_batch(3), critic=[True] * 3, actor=[False] * 3)
    learner.update(random_batch(3, seed=1), critic=[True] * 3, actor=[False] * 3)
    moved = {k for k, v in weights(agent).items() if not torch.equal(v, before[k])}
    assert {"critic.head.weight", "target_critic.head.weight"} <= moved
    assert not [k for k in moved if k.startswith(("actor", "target_actor", "temperature"))]


@pytest.mark.parametrize("name", EVERY)
def test_every_weight_that_is_trained_gets_a_gradient(name: str) -> None:
    agent, _, learner = start(*EVERY[name], [0], observation=3)
    before = weights(agent)
    for i in range(2):
        learner.update(random_batch(1, seed=i), critic=[True], actor=[True])
    fixed = {"center", "scale", "actor.spread", "target_actor.spread"}
    stuck = [k for k, v in weights(agent).items() if torch.equal(v, before[k]) and k not in fixed]
    assert stuck == []


@pytest.mark.parametrize("name", EVERY)
def test_the_plan_s_own_terms_pull_the_policy(name: str) -> None:
    """With a huge pull of every mode to 0.5, that is where the modes go."""
    agent, _, learner = start(*EVERY[name], [0, 1])
    batch, on = random_batch(2), [True, True]
    for _ in range(200):
        learner.update(
            batch,
            critic=on,
            actor=on,
            extra=lambda _, policy, __: 1e4 * (policy.mode() - 0.5).square().mean((1, 2)),
        )
    far = (agent.actor(batch.observations).mode() - 0.5).abs().mean()
    assert far < 0.05


@pytest.mark.parametrize("name", EVERY)
def test_metrics_are_one_finite_number_a_member(name: str) -> None:
    _, _, learner = start(*EVERY[name], SEEDS)
    metrics = learner.update(random_batch(3), critic=[True] * 3, actor=[True] * 3)
    assert "actor_loss" in metrics
    for key, value in metrics.items():
        assert value.shape == (3,), key
        assert torch.isfinite(value).all(), key
        assert not value.requires_grad, key


def chain(rows: int, seed: int) -> Batch:
    """Two states in turn, reward 1 a step, random actions. Member 1's task ends at the second.

    For member 0 only time ran out there, and what follows counts.
    """
    draw = torch.Generator().manual_seed(seed)
    second = torch.rand(2, rows, generator=draw) < 0.5
    states = torch.stack([~second, second], -1).float()
    masks = torch.ones(2, rows)
    masks[1][second[1]] = 0
    return Batch(
        observations=states,
        actions=torch.rand(2, rows, 1, generator=draw) * 2 - 1,
        rewards=torch.ones(2, rows),
        masks=masks,
        returns=torch.full((2, rows), -torch.inf),
        next_observations=1 - states,
        next_actions=torch.full((2, rows, 1), torch.nan),
    )


GAMMA = 0.8
TD3 = Td3Settings(gamma=GAMMA, tau=0.2, actor_lr=3e-3, critic_lr=1e-2)
SAC = SacSettings(gamma=GAMMA, tau=0.1, actor_lr=3e-3, critic_lr=1e-2)
SHORT: dict[str, AlgorithmSettings] = {
    "td3": TD3,
    "td3_bc": Td3BcSettings(td3=TD3),
    "rebrac": Td3BcSettings(critic_bc=0.5, td3=TD3),
    "sac": SAC,
    "redq": replace(SAC, subset=2),
    "iql": IqlSettings(gamma=GAMMA, tau=0.1, lr=1e-2),
    "cql": CqlSettings(alpha=0, actions=2, sac=SAC),
    "cal-ql": CqlSettings(alpha=0, actions=2, max_target=True, calibrate=True, sac=SAC),
}


@pytest.mark.parametrize("name", SHORT)
def test_values_are_those_of_a_known_chain_and_only_a_true_end_ends_them(name: str) -> None:
    networks = replace(EVERY[name][1], actor=(16,), critic=(32,))
    agent, _, learner = start(SHORT[name], networks, [0, 1], observation=2, action=1)
    train(learner, [chain(32, seed=i) for i in range(400)], delay=2)
    for actions in (torch.full((2, 2, 1), -0.5), torch.full((2, 2, 1), 0.5)):
        states = torch.eye(2).expand(2, 2, 2)
        values = agent.critic(states, actions).detach().mean(1)
        for_ever, once = 1 / (1 - GAMMA), 1.0
        wanted = torch.tensor([[for_ever, for_ever], [once + GAMMA, once]])
        torch.testing.assert_close(values, wanted, rtol=0.05, atol=0.05)
