"""TD3+BC: TD3 whose policy also stays near the dataset's actions; with penalties in both, ReBRAC.

Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning", 2021 (arXiv 2106.06860),
equation 5, whose weight on the values is divided by their mean size, so that `alpha` means the same
at any scale of rewards. The critic's penalty is ReBRAC's (Tarasov et al. 2023, arXiv 2305.09836).

ReBRAC is `alpha=1`, `td3.actor_value="min"`, critics with LayerNorm, three hidden layers of 256,
and two coefficients a dataset. Its distances are summed over the action's dimensions and ours are
averaged, as TD3+BC's are: multiply its numbers by the action's width to get `actor_bc` and
`critic_bc`. Its numbers (actor, critic; the configurations of CORL):

    halfcheetah  random .001 .1   medium .001 .01  medium-replay .01 .001
                 medium-expert .01 .1   expert .01 .01
    hopper       random .001 .01  medium .01 .01   medium-replay .05 .5
                 medium-expert .1 .01   expert .1 .1
    walker2d     random .01 0     medium .05 .1    medium-replay .05 .01
                 medium-expert .01 .01  expert .01 .5
    antmaze      umaze .003 .002   umaze-diverse .003 .001   medium-play .001 .0005
                 medium-diverse .001 0   large-play .002 .001   large-diverse .002 .002
    human        pen .1 .5    door .1 .1    hammer .01 .5    relocate .1 .01
    cloned       pen .05 .5   door .01 .1   hammer .1 .5     relocate .1 .01
    expert       pen .01 .01  door .05 .01  hammer .01 .01   relocate .05 .01

with learning rates of 1e-3 and batches of 1024 rows in locomotion, and in antmaze 3e-4 (policy) and
5e-5 (critic), gamma .999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from control import td3
from control.agent import Agent
from control.algorithm_settings import NetworkSettings, Td3BcSettings
from control.bc import distance
from control.learner import Extra, Metrics
from control.stepper import Stepper, follow_
from control.storage import Batch
from control.streams import Active, Streams


def build(networks: NetworkSettings, observation: int, action: int, members: int = 1) -> Agent:
    """An agent with the networks of TD3, its weights not drawn yet.

    Raises:
        ValueError: the policy is not deterministic.
    """
    return td3.build(networks, observation, action, members)


@dataclass(slots=True)
class Td3Bc:
    """TD3+BC on M members."""

    agent: Agent
    settings: Td3BcSettings
    views: Sequence[Agent]
    steppers: tuple[Stepper, Stepper]
    streams: Streams

    @classmethod
    def start(
        cls, agent: Agent, settings: Td3BcSettings, views: Sequence[Agent], seeds: Sequence[int]
    ) -> Td3Bc:
        """Begin with fresh optimizers, and noise from one seed a member."""
        critic = Stepper(agent, views, {"critic": settings.td3.critic_lr})
        actor = Stepper(agent, views, {"actor": settings.td3.actor_lr})
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
        y = target(self.agent, self.settings, self.streams.only(critic), batch)
        metrics = td3.fit_critic(self.agent, self.steppers[0], batch, y, critic)
        if actor is None:
            return metrics
        if any(actor):
            metrics |= self._improve(batch if rows is None else rows, actor, extra)
        follow_(self.agent, self.views, self.settings.td3.tau, critic)
        return metrics

    def _improve(self, batch: Batch, active: Active, extra: Extra | None) -> dict[str, Tensor]:
        policy = self.agent.actor(batch.observations)
        actions = policy.mode()
        which = self.settings.td3.actor_value
        values = td3.climbed(self.agent, batch.observations, actions, which)
        far = distance(actions, batch.actions)
        loss = pull(values, far, self.settings)
        if extra is not None:
            loss = loss + extra(self.agent.actor, policy, batch)
        self.steppers[1].minimize(loss.sum(), active)
        return {"actor_loss": loss.detach(), "distance": far.detach().mean(-1)}


def pull(values: Tensor, far: Tensor, settings: Td3BcSettings) -> Tensor:
    """The policy's loss: the mean of actor_bc * distance - alpha * Q / mean |Q|.

    Args:
        values: Q(s, pi(s)), `[M, B]`. Their mean size is a number, not a thing to be climbed.
        far: distance to the dataset's action, `[M, B]`.
        settings: the weights of both.

    Returns:
        `[M]`.
    """
    size = values.detach().abs().mean(-1).clamp(min=1e-6)
    return settings.actor_bc * far.mean(-1) - settings.alpha * values.mean(-1) / size


@torch.no_grad()
def target(agent: Agent, settings: Td3BcSettings, streams: Streams, batch: Batch) -> Tensor:
    """Compute TD3's target, less what the critic's penalty takes from the next value, `[M, B]`.

    That is critic_bc times the distance between the smoothed next action and the one that was
    taken; where that one is not known (NaN), nothing is taken.
    """
    if settings.critic_bc == 0:
        return td3.target(agent, settings.td3, streams, batch)
    assert agent.target_critic is not None  # noqa: S101 - by build
    actions = td3.smoothed(agent, settings.td3, streams, batch)
    values = agent.target_critic(batch.next_observations, actions).amin(1)
    values = values - settings.critic_bc * distance(actions, batch.next_actions).nan_to_num(0.0)
    return batch.rewards + settings.td3.gamma * batch.masks * values
