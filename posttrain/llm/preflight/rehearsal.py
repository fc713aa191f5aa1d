"""RL's own trainer, built as the run will build it, and asked for a few rollouts; never trained.

What an audit of settings can only suspect is measured here: which model TRL takes as reference,
which tokens it prompts with, how it samples, what it hands to the reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl import GRPOTrainer, RLOOTrainer

from posttrain.llm.data import Row
from posttrain.llm.preflight.labels import essential
from posttrain.llm.preflight.subject import Start
from posttrain.llm.preflight.trainers import rl_config
from posttrain.llm.prompts import demonstration_ids
from posttrain.llm.reward import Judge
from posttrain.llm.settings import Decoding, LlmRecipe
from posttrain.tuning import compat, training
from posttrain.tuning.callbacks import Recorder
from posttrain.tuning.cloning import peft_config
from posttrain.tuning.model import batch_of, device, token_logps
from posttrain.tuning.seen import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAINT = 1e-3
"""Any coefficient above 0 makes TRL build its reference."""
SHORT = 64
"""Tokens of a rehearsed rollout: enough to compare, few enough for a CPU."""


class _Heard:
    """Keeps the prompts that a trainer generates from."""

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        self.heard = [*getattr(self, "heard", []), *(list(map(int, ids)) for ids in prompt_ids)]
        generate = super()._generate_single_turn  # type: ignore[misc]
        return generate(prompt_ids, images, multimodal_fields, *args, **kwargs)


class _GRPO(_Heard, GRPOTrainer):
    pass


class _RLOO(_Heard, RLOOTrainer):
    pass


TRAINERS: Mapping[str, type] = {"grpo": _GRPO, "rloo": _RLOO}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A rollout as TRL handed it to the reward."""

    unit: str
    text: str
    ids: tuple[int, ...]
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What was seen. Log-probabilities are of the same demonstrations, `[rows, tokens]`."""

    pi0: torch.Tensor
    start: torch.Tensor
    reference: torch.Tensor
    training: torch.Tensor
    """In training mode, where dropout acts."""
    mask: torch.Tensor
    trainable: int
    source: str
    """Where TRL read the reference; empty where it is the policy without its adapter."""
    prompts: tuple[tuple[int, ...], ...]
    rollouts: tuple[Scored, ...]
    sampler: Mapping[str, Any]
    """TRL's generation settings."""
    defaults: Mapping[str, Any]
    """The model's own, which fill what those leave open."""


def rehearse(
    recipe: LlmRecipe, start: Start, rows: Sequence[Row], judge: Judge, folder: Path
) -> Rehearsal:
    """Build RL's trainer and let it answer `rows`.

    Args:
        recipe: whose `rl` has the algorithm grpo or rloo.
        start: pi_0; its model is used up.
        rows: prompts with demonstrations.
        judge: the reward.
        folder: for TRL's outputs.

    Raises:
        RecipeError: `rl.trainer` cannot be read.
    """
    rl = recipe.rl
    if rl is None or rl.algorithm not in TRAINERS:
        raise ValueError("rl.algorithm: wanted grpo or rloo to rehearse")
    compat.check(TRAINERS[rl.algorithm])
    tokenizer = tokenizer_of(start.processing)
    batch = batch_of(
        [demonstration_ids(start.processing, row) for row in rows],
        int(tokenizer.pad_token_id),
        device(),
    )
    mine = start.model.to(device()).eval()
    defaults = mine.generation_config.to_dict() if mine.generation_config is not None else {}
    with torch.no_grad():
        pi0, mask = token_logps(mine, batch)
    found: list[Scored] = []
    trainer = TRAINERS[rl.algorithm](
        model=mine,
        reward_funcs=_listening(judge, found),
        args=_config(recipe, len(rows), folder),
        train_dataset=_prompts(rows),
        eval_dataset=_prompts(rows),
        processing_class=start.processing,
        peft_config=None if recipe.model.lora is None else peft_config(recipe.model.lora),
    )
    training.quiet(trainer)
    policy = trainer.accelerator.unwrap_model(trainer.model)
    logps = _logps(trainer, policy, batch)
    trainer.evaluate()
    return Rehearsal(
        pi0=pi0,
        **logps,
        mask=mask,
        trainable=sum(p.numel() for p in policy.parameters() if p.requires_grad),
        source="" if trainer.ref_model is None else str(trainer.ref_model.config._name_or_path),  # noqa: SLF001
        prompts=tuple(tuple(ids) for ids in trainer.heard),
        rollouts=tuple(found),
        sampler=trainer.generation_config.to_dict(),
        defaults=defaults,
    )


@torch.no_grad()
def _logps(
    trainer: Any, policy: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Of the policy at step 0, at rest and in training mode, and of the reference."""
    policy.eval()
    at_rest = token_logps(policy, batch)[0]
    if trainer.ref_model is not None:
        reference = token_logps(trainer.ref_model.eval(), batch)[0]
    else:
        with policy.disable_adapter():
            reference = token_logps(policy, batch)[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        training_mode = token_logps(policy.train(), batch)[0]
    policy.eval()
    return {"start": at_rest, "reference": reference, "training": training_mode}


def _config(recipe: LlmRecipe, rows: int, folder: Path) -> Any:
    """RL's own, in small: neither sizes nor the cluster change what is looked at here."""
    if recipe.rl is None:
        raise ValueError("rl: wanted a section, got null")
    cut = ("num_gen", "steps_per_generation", "generation_batch", "num_iter", "log_comp")
    small = replace(recipe.rl, trainer=essential(recipe.rl.trainer, without=cut))
    return rl_config(
        recipe,
        small,
        folder,
        max_steps=1,
        save_steps=1,
        eval_strategy="no",
        eval_steps=None,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=rows,
        num_generations=2,
        num_generations_eval=1,
        beta=FAINT,
        max_completion_length=min(SHORT, recipe.rollout.max_new_tokens),
    )


def _prompts(rows: Sequence[Row]) -> Any:
    """Rows as `posttrain.llm.rl` hands them to TRL: through a table, which may change types."""
    from datasets import Dataset

    return Dataset.from_list([{**row.reward_columns(), "stage": "rehearsal"} for row in rows])


def table_columns(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What a reward gets of each row after the way through TRL's table."""
    return [dict(row) for row in _prompts(rows)]


def _listening(judge: Judge, found: list[Scored]) -> Any:
    """RL's reward function, and what it was asked and said."""
    from posttrain.llm.rl import reward_function

    inner = reward_function(judge, Recorder())

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        values = inner(prompts=prompts, completions=completions, **columns)
        for i, (completion, value) in enumerate(zip(completions, values, strict=True)):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            ids = tuple(int(t) for t in columns["completion_ids"][i])
            found.append(Scored(unit=columns["unit"][i], text=str(text), ids=ids, value=value))
        return values

    return reward


def diagnosis_sampler(start: Start, row: Row, decoding: Decoding) -> dict[str, Any]:
    """The settings with which the diagnosis' sampler calls transformers, or its own.

    The sampler is let draw one token, and what it passes to `generate` is kept. One that does not
    call `generate` obeys the recipe alone.
    """
    from posttrain.llm.sampling import transformers_generator

    heard: dict[str, Any] = {}
    original = start.model.generate

    def listening(*args: Any, **kwargs: Any) -> Any:
        heard.update(kwargs)
        return original(*args, **kwargs)

    start.model.generate = listening
    try:
        generate = transformers_generator(start.model, start.processing)
        generate([row], replace(decoding, max_new_tokens=1), samples=1, seed=0)
    finally:
        del start.model.generate
    said = {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k,
        "max_new_tokens": decoding.max_new_tokens,
    }
    return {"own_loop": not heard, **heard, **said}
