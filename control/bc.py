"""Behavioural cloning: the policy under which the dataset's actions are most likely.

There is no critic, so what follows it online begins with a critic that knows nothing. The loss is
the mean negative log-likelihood of the actions, tanh-squashed where the policy is, and for a
deterministic policy its squared distance to them (Pomerleau, "Efficient Training of Artificial
Neural Networks for Autonomous Navigation", 1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from control.agent import Agent
from control.algorithm_settings import BcSettings, NetworkSettings
from control.learner import Extra, Metrics
from control.networks import Policy
from control.stepper import Stepper
from control.storage import Batch
from control.streams import Active, Streams


def build(networks: NetworkSettings, observation: int, action: int, members: int = 1) -> Agent:
    """An agent that is a policy alone, its weights not drawn yet."""
    return Agent(networks, observation, action, members=members, critic=False)


@dataclass(slots=True)
class Bc:
    """Behavioural cloning on M members."""

    agent: Agent
    settings: BcSettings
    views: Sequence[Agent]
    steppers: tuple[Stepper]
    streams: Streams

    @classmethod
    def start(
        cls, agent: Agent, settings: BcSettings, views: Sequence[Agent], seeds: Sequence[int]
    ) -> Bc:
        """Begin with fresh optimizers. The seeds change nothing: cloning draws no noise."""
        actor = Stepper(agent, views, {"actor": settings.actor_lr})
        return cls(agent, settings, views, (actor,), Streams(seeds, agent.center.device))

    def update(
        self,
        batch: Batch,
        *,
        critic: Active,  # noqa: ARG002 - there is none
        actor: Active | None = None,
        rows: Batch | None = None,
        extra: Extra | None = None,
    ) -> Metrics:
        """See `control.learner.Learner`; where no policy moves, nothing does."""
        if actor is None or not any(actor):
            return {}
        batch = batch if rows is None else rows
        policy = self.agent.actor(batch.observations)
        loss = misfit(policy, batch.actions).mean(-1)
        if extra is not None:
            loss = loss + extra(self.agent.actor, policy, batch)
        self.steppers[0].minimize(loss.sum(), actor)
        return {"actor_loss": loss.detach()}


def misfit(policy: Policy, actions: Tensor) -> Tensor:
    """How badly a policy explains actions `[M, B, A]`: `[M, B]`, the smaller the better.

    Nats for a Gaussian policy, `distance` for a deterministic one.
    """
    return -policy.log_prob(actions) if policy.squashed else distance(policy.mode(), actions)


def distance(actions: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference over the action's dimensions, `[M, B, A]` to `[M, B]`."""
    return (actions - others).square().mean(-1)
