"""The anchor of a plan, in TRL's online trainers: its strength, its reference, its check.

TRL's own KL does the work wherever it can (k3 in GRPO's loss, k1 in RLOO's reward).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from posttrain.intervention.plan import Anchor
from posttrain.intervention.ramp import Ramp, ramp
from posttrain.intervention.reference import verify_reference
from posttrain.llm import compat
from posttrain.llm.model import token_logps

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from posttrain.llm.callbacks import ProbeBatch

FLOOR = 1e-6
"""TRL leaves the reference out at exactly 0, and cannot take it in again on the way."""


def first_beta(anchor: Anchor | None) -> float:
    """TRL's `beta` at step 0."""
    return 0.0 if anchor is None else max(FLOOR, ramp(anchor.coefficient)(0))


class Anchored:
    """Anchors an online trainer of TRL, whose methods it extends."""

    def __init__(self, *args: Any, anchor: Anchor | None = None, **kwargs: Any) -> None:
        """Take the trainer's arguments and the plan's anchor."""
        super().__init__(*args, **kwargs)
        self.anchor = anchor


def callbacks_of(trainer: Any) -> list[TrainerCallback]:
    """What has to be added to an anchored trainer."""
    if trainer.anchor is None:
        return []
    return [AnchorSchedule(trainer, ramp(trainer.anchor.coefficient))]


class AnchorSchedule(TrainerCallback):
    """Set TRL's beta from the plan's anchor before every step."""

    def __init__(self, trainer: Any, coefficient: Ramp) -> None:
        """Steer `trainer.beta`."""
        self.trainer, self.coefficient = trainer, coefficient

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the rollouts of the step are taken."""
        del args, state, control
        self.trainer.beta = max(FLOOR, self.coefficient(self.trainer.since_warmup()))
        compat.push(self.trainer, "regime/anchor", self.trainer.beta)


@torch.no_grad()
def verify(trainer: Any, probe: ProbeBatch) -> None:
    """The anchor must be pi_0: compare TRL's reference with pi_0 on pi_0's own rollouts.

    Raises:
        WrongReferenceError: it is another model.
    """
    if trainer.anchor is None:
        return
    labels = probe.rollouts["labels"][:, 1:]
    if trainer.ref_model is not None:
        reference, _ = token_logps(trainer.ref_model.eval(), probe.rollouts)
    else:
        adapted = trainer.accelerator.unwrap_model(trainer.model)
        with adapted.disable_adapter():
            reference, _ = token_logps(adapted.eval(), probe.rollouts)
    verify_reference(probe.pi0_logps, reference, labels != -100)
