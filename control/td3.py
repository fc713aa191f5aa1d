"""TD3: a deterministic policy, the smaller of its critics, smoothed targets, a delayed policy.

Fujimoto, van Hoof, Meger, "Addressing Function Approximation Error in Actor-Critic Methods",
2018 (arXiv 1802.09477), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from control.agent import Agent
from control.algorithm_settings import ActorValue, NetworkSettings, Td3Settings
from control.learner import Extra, Metrics
from control.proposal import Rival
from control.stepper import Stepper, follow_
from control.storage import Batch
from control.streams import Active, Streams


def build(networks: NetworkSettings, observation: int, action: int, members: int = 1) -> Agent:
    """An agent with the networks that TD3 trains, its weights not drawn yet.

    Raises:
        ValueError: the policy is not deterministic.
    """
    if networks.policy != "deterministic":
        raise ValueError(
            f"networks.policy: TD3 needs 'deterministic', got {networks.policy!r}; SAC takes "
            "'gaussian'"
        )
    return Agent(networks, observation, action, members=members, target_actor=True)


@dataclass(slots=True)
class Td3:
    """TD3 on M members."""

    agent: Agent
    settings: Td3Settings
    views: Sequence[Agent]
    steppers: tuple[Stepper, Stepper]
    streams: Streams
    rival: Rival | None = None
    """The frozen pi_0, where it proposes actions too."""

    @classmethod
    def start(
        cls, agent: Agent, settings: Td3Settings, views: Sequence[Agent], seeds: Sequence[int]
    ) -> Td3:
        """Begin with fresh optimizers, and noise from one seed a member."""
        critic = Stepper(agent, views, {"critic": settings.critic_lr})
        actor = Stepper(agent, views, {"actor": settings.actor_lr})
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
        y = target(self.agent, self.settings, self.streams.only(critic), batch, self.rival)
        metrics = fit_critic(self.agent, self.steppers[0], batch, y, critic)
        if actor is None:
            return metrics
        if any(actor):
            batch = batch if rows is None else rows
            policy = self.agent.actor(batch.observations)
            values = climbed(
                self.agent, batch.observations, policy.mode(), self.settings.actor_value
            )
            loss = -values.mean(-1)
            if extra is not None:
                loss = loss + extra(self.agent.actor, policy, batch)
            self.steppers[1].minimize(loss.sum(), actor)
            metrics["actor_loss"] = loss.detach()
        follow_(self.agent, self.views, self.settings.tau, critic)
        return metrics


@torch.no_grad()
def target(
    agent: Agent,
    settings: Td3Settings,
    streams: Streams,
    batch: Batch,
    rival: Rival | None = None,
) -> Tensor:
    """Compute r + gamma * mask * min_k Q'_k(s', pi'(s') + clipped noise), `[M, B]`.

    A rival's action may stand for the policy's.
    """
    assert agent.target_critic is not None  # noqa: S101 - by build
    actions = smoothed(agent, settings, streams, batch)
    if rival is not None:
        actions, _ = rival.follow(agent, batch.next_observations, actions, streams)
    values = agent.target_critic(batch.next_observations, actions).amin(1)
    return batch.rewards + settings.gamma * batch.masks * values


@torch.no_grad()
def smoothed(agent: Agent, settings: Td3Settings, streams: Streams, batch: Batch) -> Tensor:
    """Give pi'(s') with clipped noise, inside the box, `[M, B, A]`."""
    assert agent.target_actor is not None  # noqa: S101 - by build
    noise = streams.normal(*batch.actions.shape[1:]) * settings.target_noise
    noise = noise.clamp(-settings.target_clip, settings.target_clip)
    return (agent.target_actor(batch.next_observations).mode() + noise).clamp(-1, 1)


def fit_critic(
    agent: Agent, stepper: Stepper, batch: Batch, y: Tensor, active: Active
) -> dict[str, Tensor]:
    """Regress every critic onto `y` `[M, B]`: the mean over rows, summed over the ensemble."""
    assert agent.critic is not None  # noqa: S101 - by build
    values = agent.critic(batch.observations, batch.actions)
    loss = (values - y.unsqueeze(1)).square().mean(-1).sum(-1)
    stepper.minimize(loss.sum(), active)
    return {"critic_loss": loss.detach(), "q": values.detach().mean((1, 2))}


def climbed(agent: Agent, observations: Tensor, actions: Tensor, which: ActorValue) -> Tensor:
    """The value that a policy climbs, `[M, B]`: of the first critic, the smallest, or the mean."""
    assert agent.critic is not None  # noqa: S101 - by build
    if which == "first":
        return agent.critic.first(observations, actions)[:, 0]
    values = agent.critic(observations, actions, frozen=True)
    return values.amin(1) if which == "min" else values.mean(1)
