"""One Adam step for all members, against one optimizer a member."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from control.agent import Agent
from control.algorithm_settings import NetworkSettings
from control.stepper import MemberState, Stepper

SEEDS = (4, 9, 2)
SMALL = NetworkSettings(policy="deterministic", actor=(8,), critic=(8,))


def started() -> tuple[Agent, list[Agent], Stepper]:
    agent = Agent(SMALL, 3, 2, members=3).draw_(SEEDS)
    views = [agent.member(m) for m in range(3)]
    return agent, views, Stepper(agent, views, {"critic": 1e-2, "actor": 1e-3})


def loss_of(agent: Agent, turn: int, members: slice) -> Tensor:
    draw = torch.Generator().manual_seed(turn)
    observations = torch.randn(3, 16, 3, generator=draw)[members]
    actions = torch.randn(3, 16, 2, generator=draw)[members]
    far = (agent.actor(observations).mode() - actions).square().sum()
    return far + agent.critic(observations, actions).square().sum()


def reference(agent: Agent) -> list[tuple[Agent, torch.optim.Adam]]:
    """Copies of the members, each with an optimizer of its own."""
    found = []
    for m in range(3):
        one = copy.deepcopy(agent.member(m))
        groups = [
            {"params": list(one.critic.parameters()), "lr": 1e-2},
            {"params": list(one.actor.parameters()), "lr": 1e-3},
        ]
        found.append((one, torch.optim.Adam(groups)))
    return found


def follow(alone: list[tuple[Agent, torch.optim.Adam]], turn: int) -> None:
    for m, (one, optimizer) in enumerate(alone):
        optimizer.zero_grad()
        loss_of(one, turn, slice(m, m + 1)).backward()
        optimizer.step()


def require_equal(views: list[Agent], alone: list[tuple[Agent, torch.optim.Adam]]) -> None:
    for view, (one, _) in zip(views, alone, strict=True):
        for mine, wanted in zip(view.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(mine, wanted)


def test_two_networks_at_two_rates_step_as_adam_would_step_them() -> None:
    agent, views, stepper = started()
    alone = reference(agent)
    for turn in range(5):
        stepper.minimize(loss_of(agent, turn, slice(None)), [True] * 3)
        follow(alone, turn)
    require_equal(views, alone)


@pytest.mark.parametrize("which", ["critic", "actor"])
def test_a_member_forgets_between_steps_and_the_others_do_not(which: str) -> None:
    agent, views, stepper = started()
    alone = reference(agent)
    for turn in range(6):
        if turn == 3:
            memory = MemberState([stepper], 1)
            for p in getattr(views[1], which).parameters():
                del memory[p]
            one, optimizer = alone[1]
            for p in getattr(one, which).parameters():
                del optimizer.state[p]
        stepper.minimize(loss_of(agent, turn, slice(None)), [True] * 3)
        follow(alone, turn)
    require_equal(views, alone)


def test_moments_that_a_checkpoint_brought_are_those_that_the_next_step_uses() -> None:
    agent, _, stepper = started()
    for turn in range(3):
        stepper.minimize(loss_of(agent, turn, slice(None)), [True] * 3)
    kept = [{k: v.clone() for k, v in stepper.adam.state[p].items()} for p in stepper.views[0]]
    before = [p.detach().clone() for p in stepper.views[0]]
    stepper.minimize(loss_of(agent, 3, slice(None)), [True] * 3)
    wanted = [p.detach().clone() for p in stepper.views[0]]
    with torch.no_grad():
        for p, old, state in zip(stepper.views[0], before, kept, strict=True):
            p.copy_(old)
            stepper.adam.state[p] = state
    stepper.minimize(loss_of(agent, 3, slice(None)), [True] * 3)
    for p, was in zip(stepper.views[0], wanted, strict=True):
        torch.testing.assert_close(p.detach(), was)
    assert float(stepper.adam.state[stepper.views[0][0]]["step"]) == 4
    assert float(stepper.adam.state[stepper.views[1][0]]["step"]) == 5
