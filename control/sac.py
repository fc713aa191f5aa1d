"""SAC: a policy paid for its entropy, on an ensemble of critics, with a learnt temperature.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018 (arXiv 1812.05905), with the
pessimism of REDQ (Chen et al. 2021, arXiv 2101.05982, algorithm 1): each target takes the smallest
of a few critics drawn at random. With ten normalised critics, several updates a step and rows of D
in each batch this is RLPD (arXiv 2302.02948); after a warm-up without D, WSRL (arXiv 2412.07762).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from control.agent import Agent
from control.algorithm_settings import NetworkSettings, SacSettings
from control.learner import Extra, Metrics
from control.networks import Critic
from control.proposal import Rival
from control.stepper import Stepper, follow_
from control.storage import Batch
from control.streams import Active, Streams
from control.td3 import climbed, fit_critic


def build(
    networks: NetworkSettings,
    observation: int,
    action: int,
    members: int = 1,
    *,
    temperature: float = 1.0,
) -> Agent:
    """An agent with the networks that SAC trains, its weights not drawn yet.

    Raises:
        ValueError: the policy is not Gaussian.
    """
    if networks.policy != "gaussian":
        raise ValueError(
            f"networks.policy: SAC needs 'gaussian', got {networks.policy!r}; TD3 takes "
            "'deterministic'"
        )
    return Agent(networks, observation, action, members=members, temperature=temperature)


@dataclass(slots=True)
class Sac:
    """SAC on M members."""

    agent: Agent
    settings: SacSettings
    views: Sequence[Agent]
    steppers: tuple[Stepper, Stepper]
    streams: Streams
    rival: Rival | None = None
    """The frozen pi_0, where it proposes actions too."""

    @classmethod
    def start(
        cls, agent: Agent, settings: SacSettings, views: Sequence[Agent], seeds: Sequence[int]
    ) -> Sac:
        """Begin with fresh optimizers, and noise from one seed a member.

        Raises:
            ValueError: the target wants more critics than there are.
        """
        check_subset(settings, agent.networks)
        steppers = (critic_stepper(agent, settings, views), actor_stepper(agent, settings, views))
        return cls(agent, settings, views, steppers, Streams(seeds, agent.center.device))

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
        follow_(self.agent, self.views, self.settings.tau, critic)
        if actor is not None and any(actor):
            batch = batch if rows is None else rows
            metrics |= improve(
                self.agent,
                self.settings,
                stepper=self.steppers[1],
                streams=self.streams.only(actor),
                batch=batch,
                active=actor,
                extra=extra,
            )
        return metrics


def critic_stepper(agent: Agent, settings: SacSettings, views: Sequence[Agent]) -> Stepper:
    """Adam over the critics."""
    return Stepper(agent, views, {"critic": settings.critic_lr})


def actor_stepper(agent: Agent, settings: SacSettings, views: Sequence[Agent]) -> Stepper:
    """Adam over the policy and the temperature, which always move together."""
    return Stepper(
        agent, views, {"actor": settings.actor_lr, "temperature": settings.temperature_lr}
    )


def check_subset(settings: SacSettings, networks: NetworkSettings) -> None:
    """Refuse a subset that the ensemble does not have.

    Raises:
        ValueError: naming the setting.
    """
    if settings.subset is not None and not 1 <= settings.subset <= networks.critics:
        raise ValueError(
            f"algorithm.subset: wanted a number from 1 to networks.critics ({networks.critics}), "
            f"got {settings.subset}"
        )


@torch.no_grad()
def target(
    agent: Agent,
    settings: SacSettings,
    streams: Streams,
    batch: Batch,
    rival: Rival | None = None,
) -> Tensor:
    """Give r + gamma * mask * (min_k Q'_k(s', a') [- alpha log pi(a' | s')]), `[M, B]`.

    a' ~ pi(s'), or a rival's action, which earns no entropy. The entropy's part counts where
    `backup_entropy` says so.
    """
    assert agent.target_critic is not None and agent.temperature is not None  # noqa: PT018, S101
    policy = agent.actor(batch.next_observations)
    actions, log_prob = policy.sample(streams.normal(*batch.actions.shape[1:]))
    if rival is not None:
        actions, theirs = rival.follow(agent, batch.next_observations, actions, streams)
        log_prob = torch.where(theirs, 0, log_prob)
    critics = some(agent.target_critic, settings.subset, streams)
    following = critics(batch.next_observations, actions).amin(1)
    if settings.backup_entropy:
        following = following - agent.temperature() * log_prob
    return batch.rewards + settings.gamma * batch.masks * following


def some(critic: Critic, subset: int | None, streams: Streams) -> Callable[..., Tensor]:
    """Some of each member's critics, drawn without replacement, one draw a member and call.

    Only these are computed: two of ten cost a fifth of what all do.

    Args:
        critic: K critics of each of M members.
        subset: how many; None for all.
        streams: the members' noise, drawn from only where there is a choice.

    Returns:
        From observations and actions to values `[M, subset, B]`.
    """
    if subset is None or subset == critic.k:
        return critic
    chosen = _chosen(critic.k, subset, streams)
    first = torch.arange(0, len(chosen) * critic.k, critic.k, device=chosen.device)
    rows = (first.unsqueeze(1) + chosen).flatten()
    weights = {name: p.index_select(0, rows) for name, p in critic.named_parameters()}
    smaller = copy.copy(critic)
    smaller.k = subset
    return lambda *inputs: functional_call(smaller, weights, inputs)


def smallest(values: Tensor, subset: int | None, streams: Streams) -> Tensor:
    """The smallest of some critics' values `[M, K, ...]`, drawn as `some` draws, `[M, ...]`."""
    k = values.shape[1]
    if subset is None or subset == k:
        return values.amin(1)
    chosen = _chosen(k, subset, streams)
    members = torch.arange(len(values), device=values.device).unsqueeze(1)
    return values[members, chosen].amin(1)


def _chosen(k: int, subset: int, streams: Streams) -> Tensor:
    """Numbers of `subset` different critics of k for each member, `[M, subset]`."""
    return streams.uniform(k).topk(subset, dim=1).indices


def improve(
    agent: Agent,
    settings: SacSettings,
    *,
    stepper: Stepper,
    streams: Streams,
    batch: Batch,
    active: Active,
    extra: Extra | None = None,
) -> dict[str, Tensor]:
    """Train the policy on alpha log pi(a | s) - Q(s, a), a ~ pi, and then the temperature.

    The temperature descends alpha (-log pi - target entropy): it rises where the policy has become
    more certain than wanted (arXiv 1812.05905, equation 18).
    """
    assert agent.temperature is not None  # noqa: S101 - by build
    policy = agent.actor(batch.observations)
    actions, log_prob = policy.sample(streams.normal(*batch.actions.shape[1:]))
    values = climbed(agent, batch.observations, actions, settings.actor_value)
    alpha = agent.temperature()
    loss = (alpha.detach() * log_prob - values).mean(-1)
    if extra is not None:
        loss = loss + extra(agent.actor, policy, batch)
    entropy = -log_prob.detach().mean(-1)
    wanted = -float(agent.action) if settings.target_entropy is None else settings.target_entropy
    stepper.minimize(loss.sum() + (alpha[:, 0] * (entropy - wanted)).sum(), active)
    return {
        "actor_loss": loss.detach(),
        "entropy": entropy,
        "temperature": alpha.detach()[:, 0],
    }
