"""What of an anchor moves: its coefficient, and its reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from posttrain.intervention.adaptive import steer
from posttrain.intervention.plan import Anchor
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.reference import verify_reference
from posttrain.intervention.reset import reset_optimizer_
from posttrain.tuning import compat
from posttrain.tuning.reference import (
    AdapterReference,
    FullReference,
    has_adapters,
    policy_logps,
    reference_logps,
    refuse_sharded,
)
from posttrain.tuning.sharding import refuse_master_weights

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class AnchorSchedule(TrainerCallback):
    """Set the anchor's coefficient from the plan before every step."""

    def __init__(self, trainer: Any, coefficient: Ramp) -> None:
        """Steer `trainer.coefficient`."""
        self.trainer, self.coefficient = trainer, coefficient

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the rollouts of the step are taken."""
        del args, state, control
        self.trainer.begin_step(self.coefficient(self.trainer.since_warmup()))


class AdaptiveAnchor(TrainerCallback):
    """Steer the anchor's coefficient towards a target KL, once the policy can move."""

    name = "anchor"

    def __init__(self, trainer: Any, coefficient: float, *, target: float, rate: float) -> None:
        """Start from `coefficient`; aim at `target` nats a token."""
        self.trainer, self.coefficient = trainer, coefficient
        self.target, self.rate = target, rate

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the rollouts of the step are taken."""
        del args, state, control
        self.trainer.begin_step(self.coefficient)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Answer to the KL of the step that was taken."""
        del args, state, control
        kl = self.trainer.kl_of_step()
        if kl is not None and self.trainer.since_warmup() > 0:
            self.coefficient = steer(self.coefficient, kl, target=self.target, rate=self.rate)

    def state(self) -> dict[str, Any]:
        """Where the coefficient stands."""
        return {"coefficient": self.coefficient}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.coefficient = float(state["coefficient"])


class MovingReference(TrainerCallback):
    """Move the reference between two optimizer steps, and keep it in every checkpoint.

    Steps are counted from the end of the warm-up, during which there is nothing to follow.
    """

    def __init__(self, trainer: Any, anchor: Anchor, resume: Path | None) -> None:
        """Move `trainer`'s reference as `anchor` says.

        Raises:
            PlanError: the reference cannot be moved, or the checkpoint does not hold it.
        """
        refuse_sharded(trainer)
        self.trainer, self.anchor = trainer, anchor
        self.reference: FullReference | AdapterReference = (
            AdapterReference(trainer) if has_adapters(trainer) else FullReference(trainer)
        )
        if resume is not None:
            self.reference.load(resume)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Refuse where the optimizer cannot be reset with the reference."""
        del state, control
        if self.anchor.reference == "reset":
            refuse_master_weights(args, "anchor.reference")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """After the step, before anything is saved."""
        del args, control
        anchor = self.anchor
        if state.global_step >= state.max_steps or not self._due():
            return
        resets = anchor.reference == "reset"
        lost = self.reference.follow(1.0 if resets else anchor.mix)
        compat.push(self.trainer, "regime/reference_cut", lost)
        if resets:
            reset_optimizer_(optimizer)
            self._verify()
        compat.push(self.trainer, "regime/reference_moved_at", float(state.global_step))

    def _due(self) -> bool:
        done, anchor = self.trainer.since_warmup(), self.anchor
        if done == 0:
            return False
        if anchor.every and done % anchor.every == 0:
            return True
        kl = self.trainer.kl_of_step()
        return anchor.trigger is not None and kl is not None and kl > anchor.trigger

    def _verify(self) -> None:
        """What replaced the reference must be the policy of this moment."""
        rollouts = self.trainer.checked_on
        if rollouts is not None:
            verify_reference(
                policy_logps(self.trainer, rollouts),
                reference_logps(self.trainer, rollouts),
                rollouts["labels"][:, 1:] != -100,
            )

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Beside the policy's weights."""
        del control
        if state.is_world_process_zero:
            self.reference.save(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
