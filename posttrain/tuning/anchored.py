"""The anchor of a plan, in TRL's online trainers: where its KL stands, how strong it is, its check.

TRL's own KL does the work wherever it can (k3 in GRPO's loss, k1 in RLOO's reward). Elsewhere TRL
only computes the reference's log-probabilities, and the term is added here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.intervention.plan import Anchor, Estimator
from posttrain.intervention.ramp import ramp
from posttrain.intervention.reference import (
    WrongReferenceError,
    check_reference,
    verify_reference,
)
from posttrain.tuning import compat
from posttrain.tuning.dials import Dials
from posttrain.tuning.honour import PlanError
from posttrain.tuning.kl_term import (
    Heard,
    completion_logps,
    listening,
    rollout_kl,
    rollout_tokens,
    speaks_as_reference,
    token_kl,
)
from posttrain.tuning.moving import AdaptiveAnchor, AnchorSchedule, MovingReference
from posttrain.tuning.reference import has_adapters, policy_logps, policy_of, reference_logps

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from posttrain.tuning.callbacks import ProbeBatch

FLOOR = 1e-6
"""TRL leaves the reference out at exactly 0, and cannot take it in again on the way."""

KL_COLUMN = "kl"
"""Name of the anchor among the rewards, where it is one."""


def first_beta(anchor: Anchor | None) -> float:
    """TRL's `beta` at step 0."""
    return 0.0 if anchor is None else max(FLOOR, ramp(anchor.coefficient)(0))


class Anchored:
    """Anchors an online trainer of TRL, whose methods it extends."""

    state: Any
    model: Any
    args: Any
    accelerator: Any
    ref_model: Any
    beta: float
    loss_is_scaled_for_ga: bool
    current_gradient_accumulation_steps: int
    dials: Dials

    native = ("k3", "loss")
    """The KL that TRL's trainer has of its own: its estimator and its place."""

    def __init__(self, *args: Any, anchor: Anchor | None = None, **kwargs: Any) -> None:
        """Take the trainer's arguments and the plan's anchor.

        Raises:
            PlanError: TRL would leave the reference out, or cannot have its KL as a reward.
        """
        own = anchor is not None and (anchor.estimator, anchor.place) != self.native
        if own and not self.loss_is_scaled_for_ga:
            raise PlanError(f"{type(self).__name__} has only the KL {self.native}, got {anchor}")
        self.in_loss = own and anchor is not None and anchor.place == "loss"
        self.in_reward = own and anchor is not None and anchor.place == "reward"
        if self.in_reward:
            kwargs = _with_kl_as_reward(kwargs)
        self.dials = Dials()
        super().__init__(*args, **kwargs)
        if anchor is not None and self.beta == 0:
            raise PlanError("rl.trainer.beta: 0 leaves out the reference that the plan anchors to")
        if self.in_reward and getattr(self, "tools", None):
            raise PlanError("anchor.place: tools answer inside rollouts, so use 'loss'")
        self.anchor, self.coefficient = anchor, self.beta
        self.checked_on: dict[str, torch.Tensor] | None = None
        self._heard: Sequence[Heard] = ()
        self._kl_before = 0
        self._kl_reward = 0.0

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Add the KL that TRL does not have to its loss."""
        given = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        if not (self.in_loss or self.in_reward):
            return super().compute_loss(model, inputs, **given)  # type: ignore[misc]
        with self._without_beta(), listening(model) as heard:
            loss: torch.Tensor = super().compute_loss(model, inputs, **given)  # type: ignore[misc]
        if self.in_reward or self.anchor is None or not self.model.training:
            return loss
        mask = inputs["completion_mask"]
        mask = mask * inputs.get("tool_mask", torch.ones_like(mask))
        kl = self._kl_beside(self.anchor.estimator, heard, inputs, mask).sum()
        self._push_kl(kl.detach(), mask.sum())
        # The optimizer sees the sum over micro-batches (GRPO's loss is scaled for accumulation)
        # and the mean over processes.
        share = self.accelerator.num_processes / compat.window_tokens(self, inputs)
        return loss + self.coefficient * kl * share

    def _kl_beside(
        self, estimator: Estimator, heard: Sequence[Heard], inputs: Any, mask: torch.Tensor
    ) -> torch.Tensor:
        """The KL at every completion token, `[n, T]`, 0 where the mask is."""
        return token_kl(
            estimator,
            completion_logps(heard, mask.shape[1]),
            inputs["ref_per_token_logps"],
            mask,
            inputs.get("old_per_token_logps"),
        )

    @contextmanager
    def _without_beta(self) -> Iterator[None]:
        beta, self.beta = self.beta, 0.0
        try:
            yield
        finally:
            self.beta = beta

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if not (self.in_reward and self.model.training):
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if self.ref_model is not None:
            hearing = listening(self.ref_model)
        else:
            policy = policy_of(self)
            hearing = listening(self.model, when=lambda: speaks_as_reference(policy))
        with hearing as self._heard:
            output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self._heard = ()
        compat.amend(self, "reward", -self._kl_reward)  # as RLOO logs it: without its KL
        return output

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(  # type: ignore[misc]
            inputs, prompts, completions, completion_ids_list
        )
        if self.in_reward and self.model.training and self.anchor is not None:
            kl = self._rollout_kl(self.anchor)
            scored = ~rewards[:, :-1].isnan().all(dim=1)
            rewards[:, -1] = torch.where(scored, -self.coefficient * kl, torch.nan)
            self._kl_reward = float(rewards[:, -1].nanmean())
        return rewards

    @torch.no_grad()
    def _rollout_kl(self, anchor: Anchor) -> torch.Tensor:
        """KL of every rollout of all processes to the reference, by one pass of the policy."""
        heard = list(self._heard)
        with self.accelerator.autocast():
            policy = [self.model(**one.inputs).log_probs for one in heard]
        kl = rollout_kl(anchor.estimator, policy, heard)
        self._push_kl(kl.sum(), rollout_tokens(heard).sum())
        gathered: torch.Tensor = self.accelerator.gather(kl)
        return gathered

    def _push_kl(self, kl: torch.Tensor, tokens: torch.Tensor) -> None:
        """Log the mean a token over all processes, under the name that TRL's own KL has."""
        both = self.accelerator.reduce(torch.stack([kl.float(), tokens.float()]), reduction="sum")
        compat.push(self, KL_COLUMN, float(both[0] / both[1].clamp(min=1)))

    def begin_step(self, coefficient: float) -> None:
        """Take a step's coefficient; from here on its KL is measured."""
        coefficient *= self.dials.anchor
        self.coefficient, self.beta = coefficient, max(FLOOR, coefficient)
        self._kl_before = len(compat.pushed(self, KL_COLUMN))
        compat.push(self, "regime/anchor", coefficient)

    def kl_of_step(self) -> float | None:
        """Mean KL to the reference in this step, nats a token; None without new rollouts."""
        found = compat.pushed(self, KL_COLUMN)[self._kl_before :]
        return sum(found) / len(found) if found else None


def _with_kl_as_reward(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Reserve a column for the KL among the rewards: logged by name, weighed 1."""
    args, given = kwargs["args"], kwargs["reward_funcs"]
    if getattr(args, "multi_objective_aggregation", "") == "normalize_then_sum":
        raise PlanError(
            "rl.trainer.multi_objective_aggregation: 'normalize_then_sum' would take the scale of "
            "the anchor's KL; use 'sum_then_normalize', or anchor.place: loss"
        )
    functions = list(given) if isinstance(given, list) else [given]
    args = copy.copy(args)
    if args.reward_weights is not None:
        args.reward_weights = [*args.reward_weights, 1.0]

    def kl(completions: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    return {**kwargs, "args": args, "reward_funcs": [*functions, kl]}


def callbacks_of(trainer: Any, resume: Path | None = None) -> list[TrainerCallback]:
    """What has to be added to an anchored trainer, `resume` being the checkpoint it goes on from.

    Raises:
        PlanError: the reference cannot be moved, or was lost.
    """
    anchor: Anchor | None = trainer.anchor
    if anchor is None:
        return []
    coefficient = ramp(anchor.coefficient)
    schedule = (
        AnchorSchedule(trainer, coefficient)
        if anchor.target is None
        else AdaptiveAnchor(trainer, coefficient(0), target=anchor.target, rate=anchor.rate)
    )
    if anchor.reference == "fixed":
        return [schedule]
    return [schedule, MovingReference(trainer, anchor, resume)]


def verify(trainer: Any, probe: ProbeBatch) -> None:
    """The anchor must be pi_0: compare TRL's reference with pi_0 on pi_0's own rollouts.

    Also with dropout on, as the policy trains: otherwise the anchor would feel a KL that is not
    there.

    Raises:
        WrongReferenceError: it is another model, or the policy is not itself while it trains.
    """
    if trainer.anchor is None:
        return
    trainer.checked_on = probe.rollouts
    mask = probe.rollouts["labels"][:, 1:] != -100
    base = None
    if has_adapters(trainer):
        with policy_of(trainer).disable_adapter():
            base = policy_logps(trainer, probe.rollouts)
    reference = reference_logps(trainer, probe.rollouts)
    verify_reference(probe.pi0_logps, reference, mask, base_logp=base)
    with torch.random.fork_rng():
        training = policy_logps(trainer, probe.rollouts, training=True)
    found = check_reference(policy_logps(trainer, probe.rollouts), training, mask)
    if not found.ok:
        raise WrongReferenceError(
            f"KL of the untrained policy to itself in training should be 0, got {found.kl:.4g}: "
            "dropout is active, and the anchor would pull against it; set rl.trainer."
            "disable_dropout to true, or the dropout in the model's configuration to 0"
        )
