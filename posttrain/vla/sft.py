"""Cloning of demonstrations with TRL's SFTTrainer: before RL, and in place of it (bc_only)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import progress
from posttrain.recipe import RecipeError
from posttrain.record import MetricsLog
from posttrain.tuning import training
from posttrain.tuning.cloning import CHECKS, losses, peft_config
from posttrain.tuning.honour import PlanError
from posttrain.tuning.resume import go_on
from posttrain.tuning.settings import Lora
from posttrain.tuning.world import World
from posttrain.vla.checkpoint import holds_flow, is_flow
from posttrain.vla.cloner import AnswerSFTTrainer, RolledSFTTrainer
from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError
from posttrain.vla.frames import Frames, spread
from posttrain.vla.settings import SftSettings

if TYPE_CHECKING:
    from trl import SFTTrainer

    from posttrain.vla.job import Job
    from posttrain.vla.policy import Policy

FIXED = {
    "remove_unused_columns": False,
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "max_length": None,
}
"""Frames become rows when a batch is made, so that TRL has nothing to prepare or to cut."""


class Collate:
    """Frames by their number, as rows with labels: those of RL and of replay."""

    def __init__(self, frames: Frames, policy: Policy) -> None:
        """Make rows of `frames` for `policy`."""
        self.frames, self.policy = frames, policy

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        """A batch, on the CPU, where a trainer expects it."""
        numbers = [int(example["frame"]) for example in examples]
        found = self.policy.rows(self.frames.seen(numbers), self.frames.tokens[numbers])
        return {name: tensor.cpu() for name, tensor in found.items()}


def trainer_kind(policy: Policy, *, rolled: bool = False) -> type[SFTTrainer]:
    """The trainer of a policy's kind; `rolled` is evaluated by episodes."""
    if not is_flow(policy):
        return RolledSFTTrainer if rolled else AnswerSFTTrainer
    from posttrain.vla.flow.trainer import FlowSFTTrainer, RolledFlowSFTTrainer

    return RolledFlowSFTTrainer if rolled else FlowSFTTrainer


def preset(*, flow: bool) -> Mapping[str, bool]:
    """What the trainer of a flow has to leave off, where others have it on a GPU."""
    if not flow:
        return {}
    from posttrain.vla.flow.trainer import OFF

    return OFF


def to_clone(demonstrations: Demonstrations, settings: SftSettings) -> Demonstrations:
    """The episodes that are cloned: all, the first few, or those that reached the goal.

    Raises:
        DemonstrationsError: none is left, or nobody knows which succeeded.
    """
    places = list(range(len(demonstrations.episodes)))
    if settings.only_success:
        known = [e.success for e in demonstrations.episodes]
        if None in known:
            raise DemonstrationsError(
                f"sft.only_success: whether episode {known.index(None)} of D succeeded is not "
                "known; data.columns.success names the column that says so, or leave it out"
            )
        places = [i for i in places if known[i]]
        if not places:
            raise DemonstrationsError("sft.only_success: no episode of D succeeded")
    return demonstrations.only(places[: settings.episodes])


def train(
    policy: Policy,
    demonstrations: Demonstrations,
    heldout: Demonstrations,
    settings: SftSettings,
    *,
    lora: Lora | None,
    seed: int,
    folder: Path,
    log: MetricsLog,
    world: World,
) -> tuple[Any, list[tuple[int, float]]]:
    """Clone `demonstrations`; return the model (adapters merged) and its held-out losses by step.

    A killed run resumes from its last whole checkpoint in `folder`.
    """
    from trl import SFTConfig

    frames, watched = Frames(demonstrations, policy.tokenizer), Frames(heldout, policy.tokenizer)
    steps = _steps(settings.trainer, len(frames), world.size)
    config = training.trainer_config(
        SFTConfig,
        "sft.trainer",
        {
            "logging_steps": max(1, steps // 40),
            "save_steps": max(1, steps // 4),
            "per_device_eval_batch_size": 64,
            **preset(flow=is_flow(policy)),
            **settings.trainer,
        },
        ours={
            **FIXED,
            "output_dir": str(folder),
            "seed": seed,
            "eval_strategy": "steps",
            "eval_steps": max(1, steps // CHECKS),
        },
    )
    resume = world.broadcast(training.last_complete(folder) if world.main else None)
    ended = training.trained_to_the_end(policy.model, resume, steps, lora=lora is not None)
    if ended is not None:
        return ended, losses(log)
    if world.main:
        log.truncate_after(training.step_of(resume))
    check = spread(len(watched), settings.check_rows)
    both = Both(Collate(frames, policy), Collate(watched, policy))
    with progress.bar("SFT on D", steps, speak=world.main) as bar:
        trainer = _trainer(
            trainer_kind(policy),
            policy,
            config,
            train=numbers(range(len(frames))),
            evaluate=numbers([-1 - i for i in check]),
            collate=both,
            lora=lora,
            callbacks=[training.Keep(log, bar, ("loss", "eval_loss")), training.MarkComplete()],
        )
        training.quiet(trainer)
        go_on(trainer, resume)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return (trained if lora is None else trained.merge_and_unload()), losses(log)


class Both:
    """Training frames count from 0, held-out ones from -1 downwards: TRL takes one collator."""

    def __init__(self, training_frames: Collate, heldout: Collate) -> None:
        """Collate with whom a batch' first number belongs to."""
        self.training, self.heldout = training_frames, heldout

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        """A batch of either."""
        if int(examples[0]["frame"]) >= 0:
            return self.training(examples)
        return self.heldout([{"frame": -1 - int(example["frame"])} for example in examples])


def numbers(frames: Sequence[int]) -> Any:
    """A dataset of frames' numbers."""
    from datasets import Dataset

    return Dataset.from_dict({"frame": list(frames)})


def _trainer(
    kind: type,
    policy: Policy,
    config: Any,
    *,
    train: Any,
    evaluate: Any,
    collate: Any,
    lora: Lora | None,
    callbacks: list[Any] | None = None,
) -> Any:
    try:
        return kind(
            model=policy.model,
            args=config,
            train_dataset=train,
            eval_dataset=evaluate,
            data_collator=collate,
            processing_class=policy.processor,
            peft_config=None if lora is None else peft_config(lora),
            callbacks=callbacks,
        )
    except ValueError as error:  # TRL refuses a combination of its fields in its constructor
        raise RecipeError(f"sft.trainer: {error}") from error


def _steps(given: Mapping[str, Any], rows: int, world: int) -> int:
    if given.get("max_steps", -1) > 0:
        return int(given["max_steps"])
    batch = (
        given.get("per_device_train_batch_size", 8)
        * given.get("gradient_accumulation_steps", 1)
        * world
    )
    return math.ceil(math.ceil(rows / batch) * given.get("num_train_epochs", 3))


def further_config(job: Job, *, start: bool = True) -> Any:
    """Read `rl.trainer` for cloning: what only RL has (group size, clipping) does nothing here.

    So that the rival differs from the arms beside it by one key, `rl.algorithm`. As many frames a
    step are cloned as a plan would replay.

    Raises:
        PlanError: frames that cannot be dealt out evenly.
    """
    from trl import GRPOConfig, SFTConfig

    mine = {f.name for f in fields(SFTConfig)}
    ignored = {f.name for f in fields(GRPOConfig)} - mine
    ignored |= {"per_device_train_batch_size", "per_device_eval_batch_size", *FIXED}
    given = {k: v for k, v in job.settings.trainer.items() if k not in ignored}
    parts = job.world.size * given.get("gradient_accumulation_steps", 1)
    if job.settings.replay_rows % parts:
        raise PlanError(
            f"rl.replay_rows: {job.settings.replay_rows} frames a step cannot be dealt out evenly "
            f"to {parts} parts (processes x micro-batches); use a multiple"
        )
    return training.trainer_config(
        SFTConfig,
        "rl.trainer",
        {"logging_steps": 5, **preset(flow=holds_flow(job.pi0)), **given},
        ours={
            **FIXED,
            "output_dir": str(job.folder),
            "seed": job.seed,
            "max_steps": job.settings.steps,
            "eval_strategy": "steps",
            "eval_steps": job.settings.eval_every,
            "eval_on_start": start,
            "save_steps": job.settings.save_every,
            "per_device_train_batch_size": job.settings.replay_rows // parts,
        },
    )


def further_trainer(job: Job, config: Any, policy: Policy) -> Any:
    """The trainer of a rival: D is cloned further, with as many updates and no RL."""
    frames = Frames(job.experience.demonstrations, policy.tokenizer)
    return _trainer(
        trainer_kind(policy, rolled=True),
        policy,
        config,
        train=numbers(range(len(frames))),
        evaluate=numbers([0]),
        collate=Collate(frames, policy),
        lora=job.lora,
    )
