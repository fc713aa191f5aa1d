"""How does off-policy RL read a plan? Which policy acts, what moves, what is added, what is reset.

The mechanics are those of `posttrain.intervention`, the very functions that language models use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from control.agent import Agent
from control.bc import misfit
from control.experience import seeds_of
from control.networks import Actor, Policy
from control.stepper import MemberState, Stepper
from control.storage import Batch, Share, Storage, per_update
from control.streams import Streams
from posttrain.intervention.adaptive import steer
from posttrain.intervention.capabilities import CONTROL_SAC, CONTROL_TD3, Capabilities
from posttrain.intervention.kl import estimate
from posttrain.intervention.plan import Anchor, Plan, Reset
from posttrain.intervention.ramp import OFF, Ramp, ramp
from posttrain.intervention.reference import verify_reference
from posttrain.intervention.replay import draw, weighted_nll
from posttrain.intervention.reset import apply_reset


class PlanError(ValueError):
    """A plan asks for something that this learner cannot do."""


def honour(plan: Plan, *, policy: str, critic: bool = True) -> None:
    """Refuse what the learner cannot do.

    Args:
        plan: what is asked for.
        policy: deterministic or gaussian.
        critic: whether the learner has a critic.

    Raises:
        PlanError: one sentence a field.
    """
    learner: Capabilities = CONTROL_TD3 if policy == "deterministic" else CONTROL_SAC
    missing = list(learner.unsupported(plan))
    if plan.reset is not None:
        if not critic and "critic" in plan.reset.parts:
            missing.append("reset.parts: 'critic', but the algorithm has none")
        if plan.reset.every == 0 and set(plan.reset.parts) == {"optimizer"}:
            missing.append(
                "reset.parts: the optimizer is new at step 0 anyway, so the reset would do "
                "nothing; set reset.every"
            )
    if missing:
        raise PlanError("; ".join(missing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """A member's plan as numbers of the environment step."""

    plan: Plan
    warm: int
    """Steps that pi_0 still acts for."""
    anchor: Ramp
    weight: Ramp
    share: Ramp

    @classmethod
    def of(cls, plan: Plan, *, collected: int = 0) -> Strengths:
        """Read a plan; steps of pi_0 that were collected before count as warm-up."""
        steps = 0 if plan.warmup is None else plan.warmup.steps
        return cls(
            plan=plan,
            warm=max(0, steps - collected),
            anchor=OFF if plan.anchor is None else ramp(plan.anchor.coefficient),
            weight=OFF if plan.replay is None else ramp(plan.replay.weight),
            share=OFF if plan.replay is None else ramp(plan.replay.share),
        )

    def on_data_alone(self) -> Strengths:
        """The same for training without RL, where every batch is D's.

        Raises:
            PlanError: the plan is not empty, and nothing would honour it.
        """
        if self.plan != Plan():
            raise PlanError(
                "finetune.supervised: no RL is done, so that the plan must be empty; got "
                f"{[i.kind for i in self.plan.interventions]}"
            )
        return replace(self, share=Ramp(1.0))

    def at(self, strength: Ramp, step: int) -> float:
        """A strength at an environment step: schedules begin when warm-up has ended."""
        return strength(max(0, step - self.warm))

    def mix(self, seed: int, own: np.random.Generator, utd: int) -> Share:
        """Rows of D in every batch. Its schedule counts critic updates, from the first."""
        return Share(per_update(self.share, utd), seeds_of(seed, "replayed rows")[0], own)


@dataclass(slots=True)
class Pull:
    """What plans add to the policy's loss: the anchor to pi_0 and the imitation of D."""

    strengths: Sequence[Strengths]
    reference: Agent
    storage: Storage
    streams: Streams
    seeds: Sequence[int]
    batch: int
    step: int = 0
    updates: int = 0
    steered: list[float] = field(default_factory=list)
    """Each member's anchor, where the plan steers it towards a target KL."""

    def __post_init__(self) -> None:
        self.steered = [s.anchor(0) for s in self.strengths]

    @property
    def idle(self) -> bool:
        """Whether nothing is added at this step."""
        return not any(
            self.anchor(m, self.step) > 0 or s.at(s.weight, self.step) > 0
            for m, s in enumerate(self.strengths)
        )

    def anchor(self, m: int, step: int) -> float:
        """The coefficient of member m's anchor at an environment step."""
        s = self.strengths[m]
        return s.at(s.anchor, step) if _target(s) is None else self.steered[m]

    def __call__(self, actor: Actor, policy: Policy, batch: Batch) -> Tensor:
        """The added loss, `[M]`."""
        added = torch.zeros(len(self.strengths), device=policy.mean.device)
        anchors = [self.anchor(m, self.step) for m in range(len(self.strengths))]
        if any(anchors):
            with torch.no_grad():
                reference = self.reference.actor(batch.observations)
            weights = torch.tensor(anchors, device=added.device)
            distances = self._distances(policy, reference)
            added = added + weights * distances
            self._steer(distances.detach())
        weights_of_data = [s.at(s.weight, self.step) for s in self.strengths]
        if any(weights_of_data):
            weights = torch.tensor(weights_of_data, device=added.device)
            added = added + weights * self._imitation(actor)
        return added

    def _steer(self, distances: Tensor) -> None:
        """Answer to the KL of this update, in the members whose policy moves by it."""
        for m, (s, active) in enumerate(zip(self.strengths, self.streams.active, strict=True)):
            anchor, target = s.plan.anchor, _target(s)
            if anchor is not None and target is not None and active:
                kl = float(distances[m])
                self.steered[m] = steer(self.steered[m], kl, target=target, rate=anchor.rate)

    def _distances(self, policy: Policy, reference: Policy) -> Tensor:
        """Distance to pi_0 in each member's own terms, `[M]`."""
        kinds = [s.plan.anchor for s in self.strengths]
        found = torch.zeros(len(kinds), device=policy.mean.device)
        active = self.streams.active
        for anchor in dict.fromkeys(k for k in kinds if k is not None):
            mine = [k == anchor for k in kinds]
            self.streams.only([a and b for a, b in zip(active, mine, strict=True)])
            distance = self._distance(anchor, policy, reference)
            found = torch.where(torch.tensor(mine, device=found.device), distance, found)
        self.streams.only(active)
        return found

    def _distance(self, anchor: Anchor, policy: Policy, reference: Policy) -> Tensor:
        if anchor.term == "bc":
            return misfit(policy, reference.mode()).mean(-1)
        if anchor.estimator == "exact":
            return policy.kl(reference).mean(-1)
        noise = self.streams.normal(*policy.mean.shape[1:])
        actions, logp = policy.sample(noise)
        return estimate(anchor.estimator, logp, reference.log_prob(actions)).mean(-1)

    def _imitation(self, actor: Actor) -> Tensor:
        """Negative log-likelihood of D's actions in nats, `[M]`."""
        size, start = self.storage.data_size, self.updates * self.batch
        index = np.stack([draw(start, self.batch, size=size, seed=s) for s in self.seeds])
        rows = self.storage.gather(index)
        logp = actor(rows.observations).log_prob(rows.actions)
        return torch.stack([weighted_nll(one) for one in logp])


def _target(s: Strengths) -> float | None:
    return None if s.plan.anchor is None else s.plan.anchor.target


@torch.no_grad()
def check_reference(agent: Agent, reference: Agent, observations: Tensor, noise: Tensor) -> None:
    """Refuse an anchor that is not pi_0: the untrained policy must agree with its reference.

    Args:
        agent: before any reset and any update.
        reference: the frozen pi_0.
        observations: normalised, `[M, n, do]`.
        noise: standard normal, `[M, n, A]`.

    Raises:
        WrongReferenceError: they disagree.
    """
    policy = agent.actor(observations)
    actions, logp = policy.sample(noise)
    if not policy.squashed:
        logp = policy.log_prob(actions)
    verify_reference(logp, reference.actor(observations).log_prob(actions))


def reset_(
    reset: Reset,
    view: Agent,
    *,
    steppers: Sequence[Stepper],
    m: int,
    seed: int,
    base: Agent | None,
) -> tuple[str, ...]:
    """Carry out a member's reset, and let its targets follow at once.

    Args:
        reset: what to give up.
        view: the member.
        steppers: whose memory of the changed weights goes too.
        m: the member's place in the steppers.
        seed: of the draws.
        base: the member before pretraining, to interpolate towards.

    Returns:
        Names of what changed.
    """
    changed = apply_reset(
        reset,
        view,
        seed=seed,
        optimizer=MemberState(steppers, m),
        base_state=None if base is None else base.state_dict(),
    )
    view.sync_targets_()
    return changed
