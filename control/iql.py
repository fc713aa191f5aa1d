"""IQL: values learnt inside the data alone, and a policy cloned with the weight of its advantage.

Kostrikov, Nair, Levine, "Offline Reinforcement Learning with Implicit Q-Learning", 2021
(arXiv 2110.06169), equations 5 to 7. No action of the policy is ever valued, so the same update
serves online, on batches that mix D with new experience.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from control.agent import Agent
from control.algorithm_settings import IqlSettings, NetworkSettings
from control.bc import misfit
from control.learner import Extra, Metrics
from control.stepper import Stepper, follow_
from control.storage import Batch
from control.streams import Active, Streams


def build(networks: NetworkSettings, observation: int, action: int, members: int = 1) -> Agent:
    """An agent with the networks that IQL trains, its weights not drawn yet."""
    return Agent(networks, observation, action, members=members, value=True)


@dataclass(slots=True)
class Iql:
    """IQL on M members."""

    agent: Agent
    settings: IqlSettings
    views: Sequence[Agent]
    steppers: tuple[Stepper, Stepper]
    streams: Streams

    @classmethod
    def start(
        cls, agent: Agent, settings: IqlSettings, views: Sequence[Agent], seeds: Sequence[int]
    ) -> Iql:
        """Begin with fresh optimizers. The seeds change nothing: IQL draws no noise."""
        critic = Stepper(agent, views, {"critic": settings.lr, "value": settings.lr})
        actor = Stepper(agent, views, {"actor": settings.lr})
        return cls(agent, settings, views, (critic, actor), Streams(seeds, agent.center.device))

    def update(
        self,
        batch: Batch,
        *,
        critic: Active,
        actor: Active | None = None,
        rows: Batch | None = None,
        extra: Extra | None = None,
    ) -> Metrics:
        """See `control.learner.Learner`."""
        metrics, advantages = self._value(batch, critic)
        if actor is not None and any(actor):
            if rows is not None:
                batch, advantages = rows, advantage(self.agent, rows)
            metrics["actor_loss"] = self._imitate(batch, advantages, actor, extra)
        return metrics

    def _value(self, batch: Batch, active: Active) -> tuple[dict[str, Tensor], Tensor]:
        """Train critics and values; give metrics, and the advantages as they were before."""
        agent, settings = self.agent, self.settings
        assert agent.critic is not None and agent.value is not None  # noqa: PT018, S101 - by build
        held, y = _held(agent, batch), target(agent, settings, batch)
        values = agent.value(batch.observations)
        value_loss = expectile_loss(held - values, settings.expectile).mean(-1)
        q = agent.critic(batch.observations, batch.actions)
        critic_loss = (q - y.unsqueeze(1)).square().mean(-1).sum(-1)
        self.steppers[0].minimize((critic_loss + value_loss).sum(), active)
        follow_(agent, self.views, settings.tau, active)
        metrics = {
            "critic_loss": critic_loss.detach(),
            "value_loss": value_loss.detach(),
            "q": q.detach().mean((1, 2)),
            "value": values.detach().mean(-1),
        }
        return metrics, held - values.detach()

    def _imitate(
        self, batch: Batch, advantages: Tensor, active: Active, extra: Extra | None
    ) -> Tensor:
        policy = self.agent.actor(batch.observations)
        weights = preference(advantages, self.settings)
        loss = (weights * misfit(policy, batch.actions)).mean(-1)
        if extra is not None:
            loss = loss + extra(self.agent.actor, policy, batch)
        self.steppers[1].minimize(loss.sum(), active)
        return loss.detach()


@torch.no_grad()
def target(agent: Agent, settings: IqlSettings, batch: Batch) -> Tensor:
    """Compute r + gamma * mask * V(s'), `[M, B]`."""
    assert agent.value is not None  # noqa: S101 - by build
    return batch.rewards + settings.gamma * batch.masks * agent.value(batch.next_observations)


@torch.no_grad()
def advantage(agent: Agent, batch: Batch) -> Tensor:
    """Compute min_k Q'_k(s, a) - V(s), `[M, B]`."""
    assert agent.value is not None  # noqa: S101 - by build
    return _held(agent, batch) - agent.value(batch.observations)


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """Square errors (target - value), those above 0 weighing `expectile`, the others the rest.

    The value that minimises it is the expectile of its targets: at 0.5 their mean, towards 1
    their largest.
    """
    return torch.where(errors > 0, expectile, 1 - expectile) * errors.square()


def preference(advantages: Tensor, settings: IqlSettings) -> Tensor:
    """Weigh an action by exp(beta * advantage), and never by more than `clip`."""
    return (settings.beta * advantages).exp().clamp(max=settings.clip)


@torch.no_grad()
def _held(agent: Agent, batch: Batch) -> Tensor:
    """The smallest of the target critics at the actions that were taken, `[M, B]`."""
    assert agent.target_critic is not None  # noqa: S101 - by build
    return agent.target_critic(batch.observations, batch.actions).amin(1)
