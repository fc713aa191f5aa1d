"""Small populations, random batches and tiny worlds for the tests of the algorithms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from control import algorithms
from control.agent import Agent
from control.algorithm_settings import (
    AlgorithmSettings,
    BcSettings,
    CqlSettings,
    IqlSettings,
    NetworkSettings,
    SacSettings,
    Td3BcSettings,
    Td3Settings,
)
from control.learner import Learner
from control.networks import Critic, Value
from control.storage import Batch

Started: TypeAlias = tuple[Agent, list[Agent], Learner]

GAUSSIAN = NetworkSettings(actor=(8, 8), critic=(8, 8))
DETERMINISTIC = replace(GAUSSIAN, policy="deterministic")
NORMED = replace(GAUSSIAN, critics=3, actor_norm=True, critic_norm=True)

FAST = Td3Settings(actor_lr=3e-3, critic_lr=3e-3, tau=0.05)
SOFT = SacSettings(actor_lr=3e-3, critic_lr=3e-3, temperature_lr=3e-3, tau=0.05)

EVERY: dict[str, tuple[AlgorithmSettings, NetworkSettings]] = {
    "bc": (BcSettings(actor_lr=3e-3), GAUSSIAN),
    "bc, deterministic": (BcSettings(actor_lr=3e-3), DETERMINISTIC),
    "td3": (FAST, DETERMINISTIC),
    "td3_bc": (Td3BcSettings(td3=FAST), DETERMINISTIC),
    "rebrac": (
        Td3BcSettings(alpha=1, critic_bc=0.1, td3=replace(FAST, actor_value="min")),
        replace(DETERMINISTIC, critic_norm=True),
    ),
    "sac": (SOFT, GAUSSIAN),
    "redq": (replace(SOFT, subset=2), NORMED),
    "iql": (IqlSettings(lr=3e-3, tau=0.05), GAUSSIAN),
    "iql, deterministic": (IqlSettings(lr=3e-3, tau=0.05), DETERMINISTIC),
    "cql": (CqlSettings(actions=3, sac=SOFT), GAUSSIAN),
    "cal-ql": (
        CqlSettings(actions=3, gap=0.8, max_target=True, calibrate=True, sac=SOFT),
        NORMED,
    ),
}
"""Every algorithm, and the variants that take other paths through the code."""


def start(
    settings: AlgorithmSettings,
    networks: NetworkSettings,
    seeds: Sequence[int],
    *,
    observation: int = 3,
    action: int = 2,
) -> Started:
    """A population with weights drawn and optimizers fresh, its members' views, its learner."""
    agent = algorithms.build(settings, networks, observation, action, len(seeds)).draw_(seeds)
    views = [agent.member(m) for m in range(len(seeds))]
    return agent, views, algorithms.start(settings, agent, views, [s + 100 for s in seeds])


def random_batch(
    members: int, rows: int = 16, *, seed: int = 0, observation: int = 3, action: int = 2
) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(members, rows, *shape, generator=draw)

    unknown = (normal(1) > 1).expand(members, rows, action)
    return Batch(
        observations=normal(observation),
        actions=torch.tanh(normal(action)),
        rewards=normal(),
        masks=(normal() > -1).float(),
        returns=torch.where(normal() > 1, -torch.inf, normal()),
        next_observations=normal(observation),
        next_actions=torch.tanh(normal(action)).masked_fill(unknown, torch.nan),
    )


def of_member(batch: Batch, m: int) -> Batch:
    """What member m sees, as a population of one."""
    return Batch(**{f.name: getattr(batch, f.name)[m : m + 1].clone() for f in fields(Batch)})


def weights(agent: Agent) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in agent.state_dict().items()}


def moments(learner: Learner, view: Agent) -> dict[str, Tensor]:
    """What Adam remembers of one member, by the weights' names."""
    found = {}
    for name, parameter in view.named_parameters():
        for stepper in learner.steppers:
            for key, value in stepper.adam.state.get(parameter, {}).items():
                found[f"{name} {key}"] = value.clone()
    return found


def train(learner: Learner, batches: Sequence[Batch], *, delay: int = 1) -> None:
    """Update every member on each batch, the policy every `delay` updates."""
    on = [True] * learner.agent.members
    for i, batch in enumerate(batches):
        learner.update(batch, critic=on, actor=on if (i + 1) % delay == 0 else None)


def bandit(members: int, rows: int = 128, *, seed: int = 0) -> Batch:
    """One step: the state is a number s, the actions are random, the reward is -(a - s)^2."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.rand(members, rows, 1, generator=draw) * 1.6 - 0.8
    actions = torch.rand(members, rows, 1, generator=draw) * 2 - 1
    rewards = -(actions - states).square().sum(-1)
    return Batch(
        observations=states,
        actions=actions,
        rewards=rewards,
        masks=torch.zeros_like(rewards),
        returns=rewards,
        next_observations=states,
        next_actions=torch.full_like(actions, torch.nan),
    )


def miss(agent: Agent) -> Tensor:
    """Root mean square distance of the policy's actions from the bandit's best ones, `[M]`."""
    states = torch.linspace(-0.8, 0.8, 33)[None, :, None].expand(agent.members, -1, -1)
    with torch.no_grad():
        return (agent.actor(states).mode() - states).square().mean((1, 2)).sqrt()


def copy_of(view: Agent) -> Agent:
    """A member's weights, its own from now on: for references that train them another way."""
    found = copy.deepcopy(view)
    for p in found.parameters():
        p.data = p.data.clone()
        p.grad = None
    return found


def descend(loss: Tensor, network: nn.Module, rate: float) -> None:
    """Take the first step of a new Adam on a network, as one would without steppers."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    optimizer.zero_grad()
    loss.backward(inputs=list(network.parameters()))
    optimizer.step()


def assert_same_weights(found: Agent, wanted: Agent) -> None:
    for name, value in weights(wanted).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=1e-4, atol=1e-5, msg=name)


def answer_(network: Critic | Value, answers: Sequence[float]) -> None:
    """Make network i of a stack answer `answers[i]` whatever it is asked."""
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        network.head.bias.copy_(torch.tensor(answers).view(-1, 1, 1))
