"""What SFT and RL have in common: trainer arguments, checkpoints that resume, progress."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from posttrain import recipe
from posttrain.record import MetricsLog, write_json
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from posttrain.progress import Bar

COMPLETE = "complete.json"
UNREPEATABLE = ("runtime", "per_second", "step_time", "total_flos", "train_loss", "num_tokens")
"""Parts of the names of values that a resumed run cannot give again: clocks and counters."""

C = TypeVar("C")


def trainer_config(
    cls: type[C], section: str, given: Mapping[str, Any], *, ours: Mapping[str, Any]
) -> C:
    """Read a recipe's `trainer` section as TRL's own class, strictly.

    Args:
        cls: TRL's configuration class.
        section: the section's path in the recipe, for messages.
        given: what the recipe says.
        ours: what other parts of the recipe decide; naming those here is refused.

    Raises:
        RecipeError: an unknown field, a wrong type, or a field that is decided elsewhere.
    """
    for name in given:
        if name in ours:
            raise recipe.RecipeError(
                f"{section}.{name}: decided by other parts of the recipe ({ours[name]!r}); "
                "remove it here"
            )
    cpu = not torch.accelerator.is_available()
    bf16 = not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    preset = {
        "use_cpu": cpu,
        "bf16": bf16,
        "activation_checkpointing": not cpu,
        "dataloader_pin_memory": not cpu,
        "report_to": "none",
        "disable_tqdm": True,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": 10,
        "save_strategy": "steps",
    }
    values = {**preset, **given, **ours}
    try:
        return recipe.load(cls, json.dumps(values))
    except recipe.RecipeError as error:
        raise recipe.RecipeError(f"{section}: {error}") from None


def silence() -> None:
    """Leave speaking to our own progress display."""
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # TRL asks models by the older name; nothing that a user could change.
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
    warnings.filterwarnings("ignore", message="You are using 'environment_factory'")


def quiet(trainer: Any) -> None:
    """Keep a trainer from printing what it logs."""
    trainer.remove_callback(PrinterCallback)


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; torn ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    for path in reversed(found):
        if (path / COMPLETE).exists():
            return path
        shutil.rmtree(path)
    return None


def resume_point(folder: Path, logs: Sequence[MetricsLog], world: World) -> Path | None:
    """Where a killed run goes on; its logs forget what came after. None is a fresh start."""
    found = world.broadcast(last_complete(folder) if world.main else None)
    if world.main:
        for log in logs:
            log.truncate_after(step_of(found) if found else -1)
    return found


def step_of(checkpoint: Path | None) -> int:
    """The step that a checkpoint was written at; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.rsplit("-", 1)[1])


def trained_to_the_end(model: Any, checkpoint: Path | None, steps: int, *, lora: bool) -> Any:
    """The policy of a run that was killed after its last checkpoint; None while steps are left.

    A trainer that resumes there would take one step more.

    Args:
        model: what the run started from.
        checkpoint: the newest whole checkpoint.
        steps: how many the run was to take.
        lora: whether the checkpoint holds an adapter for `model` instead of a model.
    """
    if checkpoint is None or step_of(checkpoint) < steps:
        return None
    if lora:
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(checkpoint)).merge_and_unload()
    return type(model).from_pretrained(str(checkpoint), dtype=model.dtype)


class EndAt(TrainerCallback):
    """End or pause a run after a step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        """Count from the run's beginning."""
        self.step = step

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Schedules go on as if the run did: they know its planned length."""
        if state.global_step >= self.step:
            control.should_training_stop = control.should_save = True


class MarkComplete(TrainerCallback):
    """Say that a checkpoint is whole, as the last thing that is written into it."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Called after everything else of the checkpoint is on disk."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / COMPLETE, {"step": state.global_step})


class Keep(TrainerCallback):
    """Keep what the trainer logs, one row a step, and show it on the way."""

    def __init__(self, log: MetricsLog, bar: Bar, show: tuple[str, ...]) -> None:
        """Append to `log`; show the values named in `show` on `bar`."""
        self.log, self.bar, self.show = log, bar, show

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Advance the bar."""
        self.bar.update(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write one row."""
        if not state.is_world_process_zero or not logs:
            return
        row = {k: v for k, v in logs.items() if isinstance(v, int | float) or v is None}
        row = {k: v for k, v in row.items() if not any(part in k for part in UNREPEATABLE)}
        if row.keys() - {"epoch"}:  # at the end of a run, or a pause, only clocks are logged
            self.log.append({"step": state.global_step, **row})
        shown = [
            f"{k.rsplit('/', 1)[-1]} {row[k]:.3f}" for k in self.show if row.get(k) is not None
        ]
        if shown:
            self.bar.note("  ".join(shown))
