"""Two policies propose, the critic decides: the frozen pi_0 beside the policy that learns.

PEX (Zhang, Xu, Yu 2023, arXiv 2302.00935, section 4) draws between the two actions with
probabilities proportional to exp(Q / temperature); IBRL (Hu, Mirchandani, Sadigh 2023, arXiv
2311.02198, section 4) takes the one with the larger Q, in acting and in the critic's target. pi_0
can be used for ever but not forgotten: this is an anchor that no coefficient has to be found for.

Both papers let the second policy begin anew; here that is a plan's reset of the policy. PEX's own
code learns by IQL, whose target asks no policy. With SAC and TD3 the target must, and it asks what
acts: the pair, chosen by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from control.agent import Agent
from control.networks import Critic, Policy
from control.streams import Streams

INVERSE = 10.0
"""Inverse temperature of PEX's draw; soft IBRL's default too."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The frozen pi_0 of every member, as a rival of its policy at each decision."""

    reference: Agent
    kind: Literal["pex", "ibrl"]
    inverse: float = INVERSE

    def act(
        self,
        agent: Agent,
        policy: Policy,
        observations: Tensor,
        noise: Tensor | None,
        streams: Streams | None = None,
    ) -> Tensor:
        """Act by the better of two proposals: pi_0's mode, and an action of the policy.

        Args:
            agent: whose critic decides.
            policy: at the observations.
            observations: normalised, `[M, B, do]`.
            noise: standard normal, for the policy's action, `[M, B, A]`; None takes its mode.
            streams: what PEX draws from; None lets the larger value decide, as in an evaluation.

        Returns:
            Actions `[M, B, A]`.

        Raises:
            ValueError: the agent has no critic.
        """
        critic = agent.target_critic if self.kind == "ibrl" else agent.critic
        if critic is None:
            raise ValueError(f"proposal: {self.kind!r} needs a critic, the algorithm has none")
        theirs = self.reference.actor(observations).mode()
        mine = policy.mode() if noise is None else policy.sample(noise)[0]
        chosen = self.prefer(compared(critic, observations, theirs, mine), streams)
        return torch.where(chosen.unsqueeze(-1), theirs, mine)

    def choose(
        self, agent: Agent, policy: Policy, observations: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Act where nothing is drawn (`control.acting.Choose`): evaluations."""
        return self.act(agent, policy, observations, noise)

    def follow(
        self, agent: Agent, observations: Tensor, actions: Tensor, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """What the critic's target is to assume at the next states.

        Args:
            agent: whose target critic decides.
            observations: the next ones, `[M, B, do]`.
            actions: proposed there by the policy, `[M, B, A]`.
            streams: what PEX draws from.

        Returns:
            Actions `[M, B, A]`, and which of them are pi_0's, `[M, B]`.
        """
        assert agent.target_critic is not None  # noqa: S101 - a critic's target is asked for
        theirs = self.reference.actor(observations).mode()
        values = compared(agent.target_critic, observations, theirs, actions)
        chosen = self.prefer(values, streams)
        return torch.where(chosen.unsqueeze(-1), theirs, actions), chosen

    def prefer(self, values: Tensor, streams: Streams | None) -> Tensor:
        """Where pi_0's action is taken, `[M, B]`, given the values `[M, 2, B]` of its and ours."""
        lead = values[:, 0] - values[:, 1]
        if self.kind == "ibrl" or streams is None:
            return lead > 0
        return streams.uniform(values.shape[-1]) < torch.sigmoid(self.inverse * lead)


def compared(critic: Critic, observations: Tensor, theirs: Tensor, mine: Tensor) -> Tensor:
    """The smallest value of each of two actions over a member's critics, `[M, 2, B]`."""
    rows = observations.shape[1]
    both = critic(torch.cat([observations, observations], 1), torch.cat([theirs, mine], 1)).amin(1)
    return torch.stack([both[:, :rows], both[:, rows:]], 1)
