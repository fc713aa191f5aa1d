"""The trainers of robot policies, for one whose decisions are chains of numbers.

PPO's ratio and clipping, the KL to pi_0, replay, gate, warm-up and monitor are those of every
policy: only what a decision's tokens are worth is asked of the flow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import SFTTrainer

from posttrain.tuning.honour import PlanError
from posttrain.tuning.reference import policy_of
from posttrain.tuning.rolled import Rolled
from posttrain.vla.flow.chain import step_kl
from posttrain.vla.flow.model import speak
from posttrain.vla.trainer import PlanVLATrainer

if TYPE_CHECKING:
    from posttrain.intervention.plan import Estimator
    from posttrain.tuning.keep import Kept
    from posttrain.tuning.kl_term import Heard
    from posttrain.vla.flow.policy import FlowPolicy

OFF = {"activation_checkpointing": False, "gradient_checkpointing": False}
"""What a recipe's trainer has to leave off: PI0 hands over what it sees through the cache."""


def refuse(kept: Kept | None) -> None:
    """Refuse what a plan asks of demonstrations that a flow cannot tell.

    Raises:
        PlanError: a weight by likelihood, or demonstrations among the episodes of a group.
    """
    replay = None if kept is None else kept.replay
    if replay is not None and replay.token_weight != "none":
        raise PlanError(
            f"replay.token_weight: {replay.token_weight!r} weighs by likelihood, which a "
            "demonstration has none of under a flow; use 'none', its flow-matching loss"
        )
    if kept is not None and kept.group is not None:
        raise PlanError(
            "replay.share: the ratio of a demonstration in a group needs its likelihood, which a "
            "flow does not have; use replay.weight"
        )


class FlowVLATrainer(PlanVLATrainer):
    """GRPO over chains from noise to action (flow-SDE: arXiv 2505.05470, 2510.25889)."""

    policy: FlowPolicy  # type: ignore[assignment]

    def __init__(self, *args: Any, policy: FlowPolicy, **kwargs: Any) -> None:
        """Take what `PlanVLATrainer` takes, with a flow for a policy.

        Raises:
            PlanError: something that a flow cannot do.
        """
        refuse(kwargs.get("kept"))
        policy.scored_at(float(kwargs["args"].temperature))
        super().__init__(*args, policy=policy, **kwargs)
        model = policy_of(self)
        speak(model.get_base_model() if hasattr(model, "peft_config") else model)

    def _read_again(self, reference: Any) -> None:
        plain = speak(self.accelerator.unwrap_model(reference))
        plain.config.flow = dict(self.policy.model.config.flow)

    def _says(self, model: Any, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chains `[n, T]`, and each number's mean and deviation."""
        if self.seen is None:
            raise RuntimeError("no episode has been played yet")
        batch = self.policy.rows(self.seen.take(rows.tolist()), tokens.cpu().numpy())
        with self.accelerator.autocast():
            out = model(**batch)
        count = tokens.shape[1]
        means = out.means[:, -count:]
        whole = torch.stack([means, self._deviations(means).expand_as(means)], dim=-1)
        return out.log_probs[:, -count:], whole

    def _deviations(self, like: Tensor) -> Tensor:
        """Of every number of a chain; 1 for the noise that it starts from, which nobody chose."""
        model = self.policy.model
        steps = torch.tensor(model.chain.deviations(), device=like.device, dtype=like.dtype)
        start = steps.new_ones(model.start_tokens)
        return torch.cat([start, steps.repeat_interleave(model.action_tokens)])

    def _get_per_token_logps_and_entropies(
        self, model: Any, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, None]:
        taken, whole = self._says(model, *self._looking)
        self._said = taken, whole
        entropy = whole[..., 1].log() + 0.5 * math.log(2 * math.pi * math.e)
        entropy[:, : self.policy.model.start_tokens] = 0
        return taken, entropy, None

    def _label_logp(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The flow-matching loss of demonstrations, negated; no temperature has a part in it."""
        labels = batch.pop("labels")
        with self.accelerator.autocast():
            out = model(**batch, labels=labels)
        return out.log_probs, labels[:, 1:] != -100

    def _kl_beside(
        self, estimator: Estimator, heard: Sequence[Heard], inputs: Any, mask: Tensor
    ) -> Tensor:
        if estimator != "exact" or self._said is None:
            return super()._kl_beside(estimator, heard, inputs, mask)
        means, deviations = self._said[1].unbind(-1)
        found = step_kl(means, inputs["ref_action_logps"][..., 0], deviations)
        return torch.where(mask.bool(), found, 0)


class FlowSFTTrainer(SFTTrainer):
    """Cloning by the flow-matching loss, which the model reports as a log-probability."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what TRL's takes."""
        super().__init__(*args, **kwargs)
        model = policy_of(self)
        speak(model.get_base_model() if hasattr(model, "peft_config") else model)


class RolledFlowSFTTrainer(Rolled, FlowSFTTrainer):
    """The same, evaluated by episodes."""
