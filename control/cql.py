"""CQL: SAC with values pushed down where the data has no actions; calibrated, Cal-QL.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", 2020 (arXiv 2006.04779),
equation 4 with the importance sampling of its appendix F. Nakamoto et al., "Cal-QL: Calibrated
Offline RL Pre-Training for Efficient Online Fine-Tuning", 2023 (arXiv 2303.05479), equation 5.1: a
value of the policy is not pushed below the return that the data had from there. Options (largest
next value, a learnt weight, values without importance sampling) are those of WSRL's pretraining.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from control import sac
from control.agent import Agent
from control.algorithm_settings import CqlSettings, NetworkSettings
from control.learner import Extra, Metrics
from control.networks import Critic, Policy, Scalar
from control.stepper import Stepper, follow_
from control.storage import Batch
from control.streams import Active, Streams

LARGEST = 1e6
"""Bound of a learnt weight, which would grow for ever where the gap cannot be reached."""


def build(
    settings: CqlSettings,
    networks: NetworkSettings,
    observation: int,
    action: int,
    members: int = 1,
) -> Agent:
    """An agent with the networks that CQL trains, its weights not drawn yet.

    Raises:
        ValueError: the policy is not Gaussian.
    """
    temperature = settings.sac.temperature
    agent = sac.build(networks, observation, action, members, temperature=temperature)
    if settings.gap is not None:
        agent.penalty = Scalar(members, settings.alpha)
    return agent


@dataclass(slots=True)
class Cql:
    """CQL or Cal-QL on M members."""

    agent: Agent
    settings: CqlSettings
    views: Sequence[Agent]
    steppers: tuple[Stepper, Stepper]
    streams: Streams

    @classmethod
    def start(
        cls, agent: Agent, settings: CqlSettings, views: Sequence[Agent], seeds: Sequence[int]
    ) -> Cql:
        """Begin with fresh optimizers, and noise from one seed a member.

        Raises:
            ValueError: the target wants more critics than there are, or no action is proposed.
        """
        sac.check_subset(settings.sac, agent.networks)
        if settings.actions < 1:
            raise ValueError(f"algorithm.actions: wanted a number >= 1, got {settings.actions}")
        rates = {"critic": settings.sac.critic_lr}
        if agent.penalty is not None:
            rates["penalty"] = settings.alpha_lr
        steppers = (Stepper(agent, views, rates), sac.actor_stepper(agent, settings.sac, views))
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
        agent, settings = self.agent, self.settings
        streams = self.streams.only(critic)
        proposals = propose(agent, streams, batch, settings.actions)
        y = target(agent, settings, streams, batch, proposals)
        metrics = self._fit(batch, proposals, y, critic)
        follow_(agent, self.views, settings.sac.tau, critic)
        if actor is not None and any(actor):
            metrics |= sac.improve(
                agent,
                settings.sac,
                stepper=self.steppers[1],
                streams=self.streams.only(actor),
                batch=batch if rows is None else rows,
                active=actor,
                extra=extra,
            )
        return metrics

    def _fit(
        self, batch: Batch, proposals: Proposals, y: Tensor, active: Active
    ) -> dict[str, Tensor]:
        """Regress every critic onto `y` and press its values of proposed actions down."""
        agent, settings = self.agent, self.settings
        assert agent.critic is not None  # noqa: S101 - by build
        actions = torch.cat([proposals.actions, batch.actions.unsqueeze(1)], 1)
        values = grid(agent.critic, batch.observations, actions)
        proposed, held = values[:, :, :-1], values[:, :, -1]
        metrics = {"q": held.detach().mean((1, 2))}
        if settings.calibrate:
            metrics["bounded"] = bounded(proposed.detach(), batch.returns, proposals.n)
            proposed = calibrate(proposed, batch.returns, proposals.n)
        log_density = proposals.log_density if settings.importance else None
        pressed = excess(proposed, held, log_density).mean(-1)
        regression = (held - y.unsqueeze(1)).square().mean(-1).sum(-1)
        metrics |= {"critic_loss": regression.detach(), "penalty": pressed.detach().mean(-1)}
        if agent.penalty is None or settings.gap is None:
            loss = regression + settings.alpha * pressed.sum(-1)
        else:
            weight = agent.penalty()[:, 0].clamp(max=LARGEST)
            loss = regression + weight.detach() * pressed.sum(-1)
            loss = loss - weight * (metrics["penalty"] - settings.gap)
            metrics["penalty_weight"] = weight.detach()
        self.steppers[0].minimize(loss.sum(), active)
        return metrics


@dataclass(frozen=True, slots=True)
class Proposals:
    """Actions that are no data: n uniform ones, n of the policy at s, n of the policy at s'."""

    actions: Tensor
    """`[M, 3n, B, A]`."""
    log_density: Tensor
    """`[M, 3n, B]`, of what each was drawn from."""
    n: int


@torch.no_grad()
def propose(agent: Agent, streams: Streams, batch: Batch, n: int) -> Proposals:
    """Draw the actions whose values are pushed down; the policy looks once at each state."""
    members, rows, width = batch.actions.shape
    uniform = streams.uniform(n, rows, width) * 2 - 1
    noise = streams.normal(2, n, rows, width)
    actions, log_density = [uniform], [uniform.new_full((members, n, rows), -width * math.log(2))]
    for i, observations in enumerate((batch.observations, batch.next_observations)):
        policy = agent.actor(observations)
        many = Policy(policy.mean.unsqueeze(1), policy.std.unsqueeze(1), policy.squashed)
        drawn, log_prob = many.sample(noise[:, i])
        actions.append(drawn)
        log_density.append(log_prob)
    return Proposals(torch.cat(actions, 1), torch.cat(log_density, 1), n)


@torch.no_grad()
def target(
    agent: Agent, settings: CqlSettings, streams: Streams, batch: Batch, proposals: Proposals
) -> Tensor:
    """Compute SAC's target at one proposed next action, or at the best of all, `[M, B]`."""
    assert agent.target_critic is not None and agent.temperature is not None  # noqa: PT018, S101
    first, count = 2 * proposals.n, proposals.n if settings.max_target else 1
    actions = proposals.actions[:, first : first + count]
    values = grid(agent.target_critic, batch.next_observations, actions)
    following, best = sac.smallest(values, settings.sac.subset, streams).max(1)
    if settings.sac.backup_entropy:
        log_prob = proposals.log_density[:, first:].gather(1, best.unsqueeze(1)).squeeze(1)
        following = following - agent.temperature() * log_prob
    return batch.rewards + settings.sac.gamma * batch.masks * following


def grid(critic: Critic, observations: Tensor, actions: Tensor) -> Tensor:
    """Value many actions at each state.

    Args:
        critic: of M members with K critics.
        observations: `[M, B, do]`.
        actions: `[M, C, B, A]`.

    Returns:
        `[M, K, C, B]`.
    """
    members, count, rows, _ = actions.shape
    wide = observations.unsqueeze(1).expand(-1, count, -1, -1)
    x = torch.cat([wide, actions], dim=-1).view(members, count * rows, -1)
    return critic.of(x).view(members, -1, count, rows)


def excess(proposed: Tensor, held: Tensor, log_density: Tensor | None) -> Tensor:
    """How far the soft maximum over proposed actions lies above the data's: CQL's penalty.

    Args:
        proposed: values of C proposed actions, `[M, K, C, B]`.
        held: values of the data's actions, `[M, K, B]`.
        log_density: of what the proposals were drawn from, `[M, C, B]`. Then the soft maximum is
            log sum exp(Q - log density). With None it is log mean exp(Q), the data's action
            being one more proposal.

    Returns:
        `[M, K, B]`.
    """
    if log_density is not None:
        return torch.logsumexp(proposed - log_density.unsqueeze(1), 2) - held
    every = torch.cat([proposed, held.unsqueeze(2)], 2)
    return torch.logsumexp(every, 2) - math.log(every.shape[2]) - held


def calibrate(proposed: Tensor, returns: Tensor, n: int) -> Tensor:
    """Raise the values of the policy's actions, all but the first n, to the data's return.

    A value below it gets no gradient: it has been pressed far enough.
    """
    bound = returns[:, None, None].expand_as(proposed[:, :, n:])
    return torch.cat([proposed[:, :, :n], torch.maximum(proposed[:, :, n:], bound)], 2)


def bounded(proposed: Tensor, returns: Tensor, n: int) -> Tensor:
    """The share of the policy's values that the data's return holds up, `[M]`."""
    return (proposed[:, :, n:] < returns[:, None, None]).float().mean((1, 2, 3))
