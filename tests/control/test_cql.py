"""CQL and Cal-QL: the penalty in plain loops, the bound by hand, and what both do to values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from populations import (
    DETERMINISTIC,
    GAUSSIAN,
    NORMED,
    Started,
    answer_,
    assert_same_weights,
    bandit,
    copy_of,
    miss,
    random_batch,
    start,
    train,
    weights,
)
from torch import Tensor

from control import cql
from control.agent import Agent
from control.algorithm_settings import CqlSettings, SacSettings
from control.cql import Proposals
from control.storage import Batch
from control.streams import Streams

SOFT = SacSettings(actor_lr=3e-3, critic_lr=3e-3, temperature_lr=3e-3, temperature=0.1, tau=0.05)
WIDE = replace(GAUSSIAN, actor=(32, 32), critic=(32, 32))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The penalty


@pytest.mark.parametrize("importance", [True, False])
def test_the_penalty_is_the_soft_maximum_over_the_data_s_value_in_plain_loops(
    importance: bool,
) -> None:
    proposed, held, log_density = noise(2, 3, 6, 4), noise(2, 3, 4, seed=1), noise(2, 6, 4, seed=2)
    found = cql.excess(proposed, held, log_density if importance else None)
    for m in range(2):
        for k in range(3):
            for b in range(4):
                data = held[m, k, b].item()
                total = 0.0 if importance else math.exp(data)
                for c in range(6):
                    weight = math.exp(-log_density[m, c, b].item()) if importance else 1.0
                    total += weight * math.exp(proposed[m, k, c, b].item())
                wanted = math.log(total if importance else total / 7) - data
                assert found[m, k, b].item() == pytest.approx(wanted, abs=1e-5)


@given(st.floats(-50, 50), st.integers(1, 8))
def test_where_all_values_are_equal_nothing_is_pressed(value: float, count: int) -> None:
    equal = torch.full((1, 2, count, 3), value)
    assert cql.excess(equal, equal[:, :, 0], None).abs().max() < 1e-4


def test_importance_sampling_finds_the_integral_over_the_box() -> None:
    """Of exp(Q) with Q(a) = a over [-1, 1], from a uniform and a narrow policy's draws alike."""
    agent = cql.build(CqlSettings(), GAUSSIAN, 3, 1).draw_([0])
    proposals = cql.propose(agent, Streams([0]), random_batch(1, 1, action=1), 20_000)
    values = proposals.actions[..., 0].unsqueeze(1)
    for part in (slice(0, 20_000), slice(20_000, 40_000), slice(40_000, 60_000)):
        density = proposals.log_density[:, part]
        soft = cql.excess(values[:, :, part], torch.zeros(1, 1, 1), density)
        integral = soft.exp().item() / 20_000
        assert integral == pytest.approx(math.e - 1 / math.e, rel=0.1)


def test_a_calibrated_value_of_the_policy_is_no_smaller_than_the_return_by_hand() -> None:
    proposed = torch.tensor([[[[1.0], [2.0], [3.0]]]], requires_grad=True)  # one action of each
    returns = torch.tensor([[2.5]])
    raised = cql.calibrate(proposed, returns, 1)
    assert raised.flatten().tolist() == [1.0, 2.5, 3.0]
    raised.sum().backward()
    assert proposed.grad.flatten().tolist() == [1.0, 0.0, 1.0]  # pressed far enough
    assert cql.bounded(proposed.detach(), returns, 1).tolist() == [0.5]


def test_an_unknown_return_bounds_nothing() -> None:
    proposed, unknown = noise(2, 2, 6, 3), torch.full((2, 3), -torch.inf)
    assert torch.equal(cql.calibrate(proposed, unknown, 2), proposed)
    assert cql.bounded(proposed, unknown, 2).tolist() == [0.0, 0.0]


# Values and actions


@pytest.mark.parametrize("piece", [None, 1, 24, 10_000])
def test_values_of_many_actions_are_those_of_each_however_they_are_cut_to_pieces(
    piece: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if piece is not None:
        monkeypatch.setattr("control.networks.outgrown", lambda *_: True)
        monkeypatch.setattr("control.stack.PIECE", piece)
    critic = cql.build(CqlSettings(), NORMED, 3, 2, 2).draw_([0, 1]).critic
    observations, actions = noise(2, 8, 3), noise(2, 7, 8, 2, seed=1)
    found = cql.grid(critic, observations, actions)
    found.square().mean().backward()
    gradient = critic.trunk.dense[0].weight.grad.clone()
    critic.zero_grad()
    one_by_one = torch.stack([critic(observations, actions[:, c]) for c in range(7)], 2)
    one_by_one.square().mean().backward()
    torch.testing.assert_close(found, one_by_one)
    torch.testing.assert_close(gradient, critic.trunk.dense[0].weight.grad)


def test_proposals_are_uniform_then_the_policy_s_here_then_the_policy_s_there() -> None:
    agent = cql.build(CqlSettings(), GAUSSIAN, 3, 2, 2).draw_([0, 1])
    batch = random_batch(2, 5)
    found = cql.propose(agent, Streams([3, 4]), batch, 400)
    uniform, here, there = found.actions.split(400, 1)
    assert uniform.min() < -0.99
    assert uniform.max() > 0.99
    assert uniform.mean().abs() < 0.02
    assert torch.equal(found.log_density[:, :400], torch.full((2, 400, 5), math.log(0.25)))
    for part, observations, density in (
        (here, batch.observations, found.log_density[:, 400:800]),
        (there, batch.next_observations, found.log_density[:, 800:]),
    ):
        policy = agent.actor(observations)
        mean = torch.atanh(part).mean(1)
        torch.testing.assert_close(mean, policy.mean, atol=0.06, rtol=0)
        torch.testing.assert_close(policy.log_prob(part[:, 7]), density[:, 7], rtol=1e-3, atol=1e-3)
    assert not here.requires_grad


def proposals_of(agent: Agent, batch: Batch, n: int) -> Proposals:
    return cql.propose(agent, Streams([0] * agent.members), batch, n)


@pytest.mark.parametrize("entropy", [False, True])
def test_the_target_takes_one_next_action_or_the_best_of_all(entropy: bool) -> None:
    """Each row in plain loops over actions and critics."""
    sac = SacSettings(gamma=0.5, backup_entropy=entropy, temperature=0.3)
    for best in (False, True):
        settings = CqlSettings(max_target=best, sac=sac)
        agent = cql.build(settings, GAUSSIAN, 3, 2).draw_([0])
        batch = random_batch(1, 4)
        proposals = proposals_of(agent, batch, 3)
        y = cql.target(agent, settings, Streams([0]), batch, proposals)
        for b in range(4):
            values = []
            for c in range(6, 9 if best else 7):
                action = proposals.actions[:, c, b : b + 1]
                q = agent.target_critic(batch.next_observations[:, b : b + 1], action).min().item()
                values.append((q, proposals.log_density[0, c, b].item()))
            q, log_prob = max(values)
            following = q - (0.3 * log_prob if entropy else 0.0)
            wanted = batch.rewards[0, b].item() + 0.5 * batch.masks[0, b].item() * following
            assert y[0, b].item() == pytest.approx(wanted, abs=1e-5)


# An update


def naive_loss(agent: Agent, settings: CqlSettings, batch: Batch, proposals: Proposals) -> Tensor:
    """Of member 0, the regression and the penalty of each critic and row, one at a time."""
    y = cql.target(agent, settings, Streams([0]), batch, proposals)
    rows, total = batch.rewards.shape[1], torch.zeros(())
    for b in range(rows):
        here = batch.observations[:, b : b + 1]
        held = agent.critic(here, batch.actions[:, b : b + 1]).flatten()
        terms = []
        for c in range(proposals.actions.shape[1]):
            values = agent.critic(here, proposals.actions[:, c, b : b + 1]).flatten()
            if settings.calibrate and c >= proposals.n:
                values = values.clamp(min=batch.returns[0, b].item())
            terms.append(values - proposals.log_density[0, c, b])
        pressed = torch.stack(terms).exp().sum(0).log() - held
        total = total + ((held - y[0, b]).square() + settings.alpha * pressed).sum() / rows
    return total


@pytest.mark.parametrize("calibrate", [False, True])
def test_the_critics_take_adam_s_step_on_the_losses_of_each_row(calibrate: bool) -> None:
    settings = CqlSettings(alpha=2.0, actions=2, calibrate=calibrate, sac=SOFT)
    _, views, learner = start(settings, GAUSSIAN, [0, 1])
    wanted, batch = copy_of(views[0]), random_batch(2, 6)
    mine = Batch(**{name: getattr(batch, name)[:1] for name in batch.__slots__})
    proposals = cql.propose(wanted, Streams([100]), mine, 2)
    optimizer = torch.optim.Adam(wanted.critic.parameters(), lr=SOFT.critic_lr)
    naive_loss(wanted, settings, mine, proposals).backward()
    optimizer.step()
    with torch.no_grad():
        for target, source in wanted.target_pairs():
            target.copy_(0.95 * target + 0.05 * source)
    metrics = learner.update(batch, critic=[True] * 2, actor=[False] * 2)
    assert_same_weights(views[0], wanted)
    assert ("bounded" in metrics) == calibrate


def pressing(gap: float) -> tuple[Started, Tensor]:
    settings = CqlSettings(alpha=1.0, gap=gap, alpha_lr=0.1, actions=2, sac=SOFT)
    started = start(settings, GAUSSIAN, [0, 1])
    return started, started[0].penalty().detach().clone()


def test_a_learnt_weight_rises_while_the_excess_is_above_the_gap_and_falls_below() -> None:
    (_, _, learner), _ = pressing(0.0)
    batch = random_batch(2)
    excess = learner.update(batch, critic=[True, False])["penalty"][0].item()
    for gap, direction in ((excess - 0.5, 1), (excess + 0.5, -1)):
        (agent, _, learner), before = pressing(gap)
        learner.update(batch, critic=[True, False])
        moved = (agent.penalty() / before).log().flatten()
        torch.testing.assert_close(moved, torch.tensor([0.1 * direction, 0.0]))  # Adam's first step


def test_a_fixed_weight_is_no_part_of_the_agent() -> None:
    assert cql.build(CqlSettings(), GAUSSIAN, 3, 2).penalty is None


def test_without_weight_the_penalty_does_nothing() -> None:
    """Then CQL's critic is SAC's, whatever is proposed: two critics from the same targets agree."""
    found = []
    for actions in (1, 5):
        settings = CqlSettings(alpha=0.0, actions=actions, sac=replace(SOFT, gamma=0.0))
        agent, _, learner = start(settings, GAUSSIAN, [0])
        for i in range(5):
            learner.update(random_batch(1, seed=i), critic=[True])
        found.append(weights(agent)["critic.head.weight"])
    torch.testing.assert_close(found[0], found[1])


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 'gaussian', got 'deterministic'"):
        cql.build(CqlSettings(), DETERMINISTIC, 3, 2)
    with pytest.raises(ValueError, match=r"algorithm.actions: wanted a number >= 1, got 0"):
        start(CqlSettings(actions=0), GAUSSIAN, [0])
    with pytest.raises(ValueError, match=r"algorithm.subset: wanted a number from 1 to .* \(2\)"):
        start(CqlSettings(sac=SacSettings(subset=3)), GAUSSIAN, [0])


# What it does to values


def one_sided(rows: int, seed: int) -> Batch:
    """The bandit with data on one side only: no action below 0."""
    batch = bandit(2, rows, seed=seed)
    actions = batch.actions.abs()
    rewards = -(actions - batch.observations).square().sum(-1)
    return replace(batch, actions=actions, rewards=rewards, returns=rewards)


def test_values_of_actions_without_data_are_pressed_below_those_with_data() -> None:
    gaps = {}
    for alpha in (0.0, 1.0):
        settings = CqlSettings(alpha=alpha, actions=4, sac=SOFT)
        agent, _, learner = start(settings, WIDE, [0, 1], observation=1, action=1)
        train(learner, [one_sided(64, i) for i in range(150)], delay=2)
        states = torch.linspace(-0.8, 0.8, 9)[None, :, None].expand(2, -1, -1)
        q = [agent.critic(states, torch.full_like(states, a)).detach() for a in (-0.5, 0.5)]
        truth = -((-0.5 - states) ** 2) + (0.5 - states) ** 2
        gaps[alpha] = (q[0] - q[1] - truth[..., 0].unsqueeze(1)).mean((1, 2))
    assert (gaps[1.0] < gaps[0.0] - 0.5).all()


def test_calibration_keeps_values_of_the_policy_near_the_returns_that_cql_presses_them_below() -> (
    None
):
    below = {}
    for calibrate in (False, True):
        settings = CqlSettings(alpha=5.0, actions=4, calibrate=calibrate, sac=SOFT)
        agent, _, learner = start(settings, WIDE, [0, 1], observation=1, action=1)
        train(learner, [bandit(2, 64, seed=i) for i in range(150)], delay=2)
        batch = bandit(2, 256, seed=999)
        actions = agent.actor(batch.observations).mode()
        values = agent.critic(batch.observations, actions).mean(1)
        below[calibrate] = (batch.returns - values).relu().mean(-1).detach()
    assert (below[True] < below[False] - 0.1).all()


@pytest.mark.parametrize("calibrate", [False, True])
def test_the_bandit_is_solved_and_not_from_rewards_of_others(calibrate: bool) -> None:
    settings = CqlSettings(alpha=0.2, actions=3, calibrate=calibrate, sac=SOFT)
    misses = {}
    for shuffled in (False, True):
        _, _, learner = start(settings, WIDE, [0, 1], observation=1, action=1)
        batches = [bandit(2, 96, seed=i) for i in range(250)]
        if shuffled:
            batches = [replace(b, rewards=b.rewards.roll(1, 1)) for b in batches]
        train(learner, batches)
        misses[shuffled] = miss(learner.agent)
    assert (misses[False] < 0.2).all()
    assert (misses[True] > 0.35).all()


def test_constant_critics_leave_a_penalty_that_counts_volume_alone() -> None:
    """By hand: with Q = 2 everywhere the excess is log sum of exp(-log density), held cancels."""
    settings = CqlSettings(actions=2, sac=SOFT)
    agent, _, learner = start(settings, GAUSSIAN, [0], action=2)
    answer_(agent.critic, [2.0, 2.0])
    batch = random_batch(1)
    proposals = cql.propose(agent, Streams([100]), batch, 2)
    wanted = torch.logsumexp(-proposals.log_density, 1).mean(-1)
    metrics = learner.update(batch, critic=[True])
    torch.testing.assert_close(metrics["penalty"], wanted)
