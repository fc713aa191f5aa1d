"""Cloning of D with TRL's SFTTrainer, and whether it had converged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import progress
from posttrain.llm.data import Row
from posttrain.llm.environment import Factory
from posttrain.llm.prompts import check_sight, demonstration_ids
from posttrain.llm.reward import Judge
from posttrain.llm.score import score_demonstrations
from posttrain.llm.settings import Lora, SftSettings
from posttrain.recipe import RecipeError
from posttrain.record import MetricsLog
from posttrain.tuning import training
from posttrain.tuning.cloning import CHECKS, losses, peft_config
from posttrain.tuning.resume import go_on
from posttrain.tuning.turns import spoken
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain.tuning.seen import Processing

"""Held-out losses taken during SFT."""

"""Relative fall of the held-out loss over the last fifth of SFT that means: not converged."""

"""Falls below so many nats a token change no completion."""


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    heldout: Sequence[Row],
    settings: SftSettings,
    *,
    lora: Lora | None,
    seed: int,
    folder: Path,
    log: MetricsLog,
    world: World,
) -> tuple[PreTrainedModel, list[tuple[int, float]]]:
    """Clone `rows`; return pi_0 (adapters merged) and its held-out losses by step.

    A killed run resumes from its last whole checkpoint in `folder`.
    """
    from trl import SFTConfig, SFTTrainer

    steps = _steps(settings, len(rows), world.size)
    shown = any(row.images for row in rows)
    check_sight(tokenizer, shown=shown)
    config = training.trainer_config(
        SFTConfig,
        "sft.trainer",
        {
            "logging_steps": max(1, steps // 40),
            "save_steps": max(1, steps // 4),
            **({"max_length": None} if shown else {}),  # a picture's place-holders are not cut
            **settings.trainer,
        },
        ours={
            "output_dir": str(folder),
            "seed": seed,
            "eval_strategy": "steps",
            "eval_steps": max(1, steps // CHECKS),
        },
    )
    resume = world.broadcast(training.last_complete(folder) if world.main else None)
    ended = training.trained_to_the_end(model, resume, steps, lora=lora is not None)
    if ended is not None:
        return ended, losses(log)
    if world.main:
        log.truncate_after(training.step_of(resume))
    with progress.bar("SFT on D", steps, speak=world.main) as bar:
        try:
            trainer = SFTTrainer(
                model=model,
                args=config,
                train_dataset=pairs_dataset(rows, tokenizer),
                eval_dataset=pairs_dataset(heldout[: settings.check_rows], tokenizer),
                processing_class=tokenizer,
                peft_config=None if lora is None else peft_config(lora),
                callbacks=[training.Keep(log, bar, ("loss", "eval_loss")), training.MarkComplete()],
            )
        except ValueError as error:  # TRL refuses a combination of its fields in its constructor
            raise RecipeError(f"sft.trainer: {error}") from error
        training.quiet(trainer)
        go_on(trainer, resume)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return (trained if lora is None else trained.merge_and_unload()), losses(log)


def rows_to_clone(
    settings: SftSettings,
    rows: Sequence[Row],
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    best: float,
    factory: Factory | None = None,
) -> list[Row]:
    """The demonstrations that SFT sees: all, the first few, or those with the best return.

    Args:
        settings: which.
        rows: D without its held-out units.
        judge: the reward.
        tokenizer: counts tokens.
        limit: most tokens a rollout may have.
        best: the highest return.
        factory: makes the environments in which demonstrations are replayed.

    Raises:
        ValueError: none is left.
    """
    kept = list(rows)
    if settings.only_correct:
        scored = score_demonstrations(
            rows, judge, tokenizer, limit=limit, split="seen", factory=factory
        )
        kept = [row for row, s in zip(rows, scored, strict=True) if s["return"] == best]
        if not kept:
            raise ValueError(f"sft.only_correct: no demonstration has the return {best:g}")
    return kept if settings.rows is None else kept[: settings.rows]


def pairs_dataset(rows: Sequence[Row], tokenizer: Processing | None = None) -> Any:
    """Prompts and completions, as TRL's SFT takes them.

    Demonstrations in an environment come as token ids with labels, those of a rollout that says
    the same: only what the model says is learned.
    """
    from datasets import Dataset

    if any(row.tools or row.turns for row in rows):
        if tokenizer is None:
            raise ValueError("demonstrations that call tools need a tokenizer")
        pairs = [demonstration_ids(tokenizer, row) for row in rows]
        return Dataset.from_list(
            [
                {
                    "input_ids": [*prompt, *said],
                    "labels": [-100] * len(prompt)
                    + [i if own else -100 for i, own in zip(said, spoken(said), strict=True)],
                }
                for prompt, said in pairs
            ]
        )
    return Dataset.from_list(
        [
            {
                "prompt": list(row.prompt),
                "completion": [{"role": "assistant", "content": row.completion}],
                **row.shown(),
            }
            for row in rows
        ]
    )


def _steps(settings: SftSettings, rows: int, world: int) -> int:
    given = settings.trainer
    if given.get("max_steps", -1) > 0:
        return int(given["max_steps"])
    if given.get("packing"):
        raise RecipeError(
            "sft.trainer.packing: how many steps an epoch of packed rows takes is known only once "
            "they are packed; set sft.trainer.max_steps"
        )
    batch = (
        given.get("per_device_train_batch_size", 8)
        * given.get("gradient_accumulation_steps", 1)
        * world
    )
    return math.ceil(math.ceil(rows / batch) * given.get("num_train_epochs", 3))
