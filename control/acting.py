"""How do members act in environments? One batched call for all who are waiting for an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from control.networks import Policy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from control.agent import Agent
    from control.proposal import Rival
    from control.rollout import Act, Streams

Choose: TypeAlias = Callable[["Agent", Policy, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""`(agent, its policy, normalised observations [M, B, do], noise or None)` to actions."""


def plain(
    agent: Agent, policy: Policy, observations: torch.Tensor, noise: torch.Tensor | None
) -> torch.Tensor:
    """The policy's own action: a sample, or without noise its mode."""
    del agent, observations
    return policy.mode() if noise is None else policy.sample(noise)[0]


def choice(rival: Rival | None) -> Choose:
    """How actions are chosen: by the policy alone, or beside a rival."""
    return plain if rival is None else rival.choose


def act_of(
    agent: Agent,
    members: Sequence[int] | NDArray[np.int64],
    *,
    noise: Streams | None = None,
    spread: float | None = None,
    choose: Choose = plain,
) -> Act:
    """Let each episode be played by its member.

    Args:
        agent: of M members.
        members: which member plays the episode of each slot.
        noise: per-episode streams for sampled actions; None acts without noise.
        spread: exploration noise of a deterministic policy; None takes the agent's own.
        choose: how an action comes from the policy.

    Returns:
        What `control.rollout.play` calls: observations `[n, do]` and slots `[n]` to `[n, da]`.
    """
    plays = np.asarray(members, dtype=np.int64)

    @torch.no_grad()
    def act(observations: NDArray[np.float32], slots: NDArray[np.int64]) -> NDArray[np.float32]:
        who = plays[slots]
        seats, rows = _seats(who, agent.members)
        shape = (agent.members, rows, observations.shape[1])
        table = np.zeros(shape, dtype=np.float32)
        table[who, seats] = observations
        normal = None
        if noise is not None:
            drawn = np.zeros((agent.members, rows, agent.action), dtype=np.float32)
            drawn[who, seats] = noise.normal(slots, agent.action)
            normal = torch.from_numpy(drawn).to(agent.center.device)
        inputs = agent.normalize(torch.from_numpy(table).to(agent.center.device))
        policy = agent.actor(inputs)
        if spread is not None and not policy.squashed:
            policy = policy._replace(std=torch.full_like(policy.std, spread))
        actions = choose(agent, policy, inputs, normal).cpu().numpy()
        return np.asarray(actions[who, seats], dtype=np.float32)

    return act


def _seats(who: NDArray[np.int64], members: int) -> tuple[NDArray[np.int64], int]:
    """A row for each episode among its member's, and how many rows the fullest member needs."""
    seats = np.zeros(len(who), dtype=np.int64)
    taken = np.zeros(members, dtype=np.int64)
    for i, m in enumerate(who):
        seats[i] = taken[m]
        taken[m] += 1
    return seats, int(taken.max())
