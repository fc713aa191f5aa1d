"""pi_0 beside the policy: who acts, what the target assumes, and PEX's law of the draw."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from control import sac
from control.agent import Agent
from control.algorithm_settings import NetworkSettings, SacSettings
from control.bc import build as build_clone
from control.proposal import Rival, compared
from control.sac import Sac, target
from control.storage import Batch
from control.streams import Streams

NETWORKS = NetworkSettings(actor=(8,), critic=(8,), critics=3)


def pair(members: int = 2) -> tuple[Agent, Agent]:
    """An agent and another, frozen one: far apart, so that their actions differ."""
    agent = sac.build(NETWORKS, 3, 2, members).draw_(list(range(members)))
    reference = build_clone(NETWORKS, 3, 2, members).draw_([9 + m for m in range(members)])
    with torch.no_grad():
        for one, sign in ((agent, 1), (reference, -1)):
            one.actor.head.bias[..., :2] += 0.5 * sign
    return agent, reference.requires_grad_(False)


def states(members: int, rows: int, seed: int = 0) -> Tensor:
    return torch.randn(members, rows, 3, generator=torch.Generator().manual_seed(seed))


def batch_at(following: Tensor) -> Batch:
    members, rows, _ = following.shape
    ones = torch.ones(members, rows)
    actions = torch.zeros(members, rows, 2)
    return Batch(following, actions, ones, ones, ones, following, actions)


@torch.no_grad()
def test_ibrl_acts_by_the_action_that_its_slow_critic_values_more() -> None:
    agent, reference = pair()
    at = states(2, 40)
    noise = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(1))
    policy = agent.actor(at)
    found = Rival(reference, "ibrl").act(agent, policy, at, noise)
    mine, theirs = policy.sample(noise)[0], reference.actor(at).mode()
    taken = set()
    for m in range(2):
        for b in range(40):
            worth = [
                min(agent.target_critic(at[m : m + 1, b : b + 1].expand(2, 1, 3), a)[m, :, 0])
                for a in (
                    mine[:, b : b + 1][m].expand(2, 1, 2),
                    theirs[:, b : b + 1][m].expand(2, 1, 2),
                )
            ]
            wanted = theirs if worth[1] > worth[0] else mine
            taken.add(wanted is theirs)
            torch.testing.assert_close(found[m, b], wanted[m, b])
    assert taken == {True, False}


@torch.no_grad()
def test_pex_draws_with_the_odds_of_the_two_values() -> None:
    _, reference = pair(1)
    values = torch.tensor([[[0.3] * 4000, [0.2] * 4000]])
    taken = Rival(reference, "pex", inverse=10.0).prefer(values, Streams([0]))
    odds = 1 / (1 + math.exp(-10 * (0.3 - 0.2)))
    assert taken.float().mean().item() == pytest.approx(odds, abs=4 * math.sqrt(0.25 / 4000))


def test_pex_with_nothing_to_draw_from_takes_the_larger_value() -> None:
    _, reference = pair(1)
    values = torch.tensor([[[1.0, 2.0, 3.0], [1.5, 1.9, 3.0]]])
    assert Rival(reference, "pex").prefer(values, None).tolist() == [[False, True, False]]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pex", "ibrl"])
def test_each_kind_asks_its_critic_when_it_acts(kind: str) -> None:
    """PEX the critic that learns, IBRL the slow one: let the other be wrong about everything."""
    agent, reference = pair()
    at = states(2, 30)
    before = Rival(reference, kind).choose(agent, agent.actor(at), at, None)
    unused = agent.critic if kind == "ibrl" else agent.target_critic
    unused.head.weight.neg_()
    unused.head.bias.neg_()
    assert torch.equal(Rival(reference, kind).choose(agent, agent.actor(at), at, None), before)


@torch.no_grad()
def test_ibrls_target_is_the_larger_of_the_two_values_by_hand() -> None:
    agent, reference = pair()
    batch = batch_at(states(2, 20))
    settings = SacSettings(gamma=0.5)
    found = target(agent, settings, Streams([3, 4]), batch, Rival(reference, "ibrl"))
    own = target(agent, settings, Streams([3, 4]), batch)
    mode = reference.actor(batch.next_observations).mode()
    theirs = 1 + 0.5 * agent.target_critic(batch.next_observations, mode).amin(1)
    torch.testing.assert_close(found, torch.maximum(own, theirs))
    assert (found > own).any()
    assert (found > theirs).any()


@torch.no_grad()
def test_pi_0s_action_earns_no_entropy_in_the_target() -> None:
    agent, reference = pair()
    batch = batch_at(states(2, 20))
    settings = SacSettings(gamma=0.5, backup_entropy=True)
    rival = Rival(reference, "ibrl")
    found = target(agent, settings, Streams([3, 4]), batch, rival)
    plain = target(agent, replace(settings, backup_entropy=False), Streams([3, 4]), batch, rival)
    own = target(agent, replace(settings, backup_entropy=False), Streams([3, 4]), batch)
    theirs = plain > own
    assert torch.equal(found[theirs], plain[theirs])
    assert (found[~theirs] != plain[~theirs]).all()


@torch.no_grad()
def test_a_pi_0_that_is_the_policy_changes_nothing_where_nothing_is_drawn() -> None:
    agent, _ = pair()
    at = states(2, 10)
    same = Rival(agent, "ibrl").choose(agent, agent.actor(at), at, None)
    assert torch.equal(same, agent.actor(at).mode())


@torch.no_grad()
def test_values_of_the_two_are_those_of_two_calls() -> None:
    agent, _ = pair()
    at, noise = states(2, 10), states(2, 20, 1)[..., :2].tanh()
    found = compared(agent.critic, at, noise[:, :10], noise[:, 10:])
    torch.testing.assert_close(found[:, 0], agent.critic(at, noise[:, :10]).amin(1))
    torch.testing.assert_close(found[:, 1], agent.critic(at, noise[:, 10:]).amin(1))


def test_learning_beside_a_rival_never_moves_the_rival() -> None:
    agent, reference = pair()
    views = [agent.member(m) for m in range(2)]
    learner = Sac.start(agent, SacSettings(), views, [0, 1])
    learner.rival = Rival(reference, "pex")
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    for seed in range(3):
        learner.update(batch_at(states(2, 16, seed)), critic=[True] * 2, actor=[True] * 2)
    for name, value in reference.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_algorithm_without_a_critic_is_refused() -> None:
    _, reference = pair()
    clone = build_clone(NETWORKS, 3, 2, 2)
    with pytest.raises(ValueError, match="'pex' needs a critic"):
        Rival(reference, "pex").choose(clone, clone.actor(states(2, 1)), states(2, 1), None)
