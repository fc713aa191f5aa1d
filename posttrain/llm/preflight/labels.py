"""Which tokens does TRL's SFT really learn? Asked of its own trainer and collator, not guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.prompts import demonstration_ids
from posttrain.tuning import training
from posttrain.tuning.turns import spoken

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.tuning.seen import Processing

SHAPES = ("per_device", "gradient_acc", "max_steps", "num_train", "save_", "eval_", "logging_")
ELSEWHERE = (
    "deepspeed",
    "fsdp",
    "report_to",
    "push_to_hub",
    "hub_",
    "dataloader_",
    "vllm",
    "use_vllm",
)
"""Fields that neither change what is learnt from a row, nor how a rollout is drawn."""


def essential(trainer: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A recipe's `trainer` section without sizes, clusters and logs."""
    left_out = (*SHAPES, *ELSEWHERE, *without)
    return {k: v for k, v in trainer.items() if not k.startswith(left_out)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """One demonstration as SFT sees it: all tokens, and those that carry loss."""

    ids: tuple[int, ...]
    learnt: tuple[int, ...]


def taught(
    rows: Sequence[Row],
    model: PreTrainedModel,
    processing: Processing,
    trainer: Mapping[str, Any],
    folder: Path,
) -> list[Taught | None]:
    """Pass rows through TRL's SFTTrainer and its collator, in one padded batch.

    Args:
        rows: demonstrations.
        model: any model with this tokenizer; it is not trained.
        processing: its tokenizer.
        trainer: the recipe's `sft.trainer`. Packing is left out: it moves rows, not labels.
        folder: for TRL's outputs.

    Returns:
        one entry a row; None where TRL dropped the row, since nothing of it would carry loss.
    """
    from trl import SFTConfig, SFTTrainer

    from posttrain.llm.sft import pairs_dataset

    given = essential(trainer, without=("packing", "padding_free", "eval_packing", "shuffle_data"))
    if any(row.images for row in rows):
        given = {"max_length": None, **given}  # as the run does
    config = training.trainer_config(
        SFTConfig,
        "sft.trainer",
        given,
        ours={"output_dir": str(folder), "max_steps": 1, "save_steps": 1},
    )
    dataset = pairs_dataset(rows, processing).add_column("row", list(range(len(rows))))
    sft = SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=processing)
    kept = [dict(row) for row in sft.train_dataset]
    if not kept:
        return [None] * len(rows)
    numbers = [row.pop("row") for row in kept]
    batch = sft.data_collator(kept)  # which reads pictures and their texts only here
    found: list[Taught | None] = [None] * len(rows)
    for i, number in enumerate(numbers):
        ids, labels = batch["input_ids"][i], batch["labels"][i]
        real = batch["attention_mask"][i].bool()
        learnt = tuple(labels[labels != -100].tolist())
        found[number] = Taught(ids=tuple(ids[real].tolist()), learnt=learnt) if learnt else None
    return found


def label_checks(
    rows: Sequence[Row],
    seen: Sequence[Taught | None],
    processing: Processing,
    *,
    ends: Sequence[int],
    pad_is_end: bool,
) -> tuple[Finding, ...]:
    """Is the end learnt, is the answer learnt, is the prompt left out?

    Args:
        rows: demonstrations.
        seen: what `taught` found for each.
        processing: pi_0's tokenizer.
        ends: tokens at which generation stops.
        pad_is_end: whether padding is the end token, which some collators take out of the loss.
    """
    without = sum(t is None or not any(token in ends for token in t.learnt) for t in seen)
    text = (
        f"TRL's SFT puts the end token into the loss in {len(rows) - without} of {len(rows)} rows"
    )
    if pad_is_end:
        text += " (the padding token is the end token, which some collators would mask)"
    value = {"rows": len(rows), "without_end": without, "pad_is_end": pad_is_end}
    if without:
        end = Finding(
            check="sft.end",
            severity="stop",
            text=f"{text}: elsewhere pi_0 never learns to stop",
            change="raise sft.trainer.max_length (TRL's default is 1024 tokens, and cuts the end), "
            "leave sft.trainer.assistant_only_loss out, or let the chat template write eos_token",
            value=value,
        )
    else:
        end = Finding(check="sft.end", severity="ok", text=text, value=value)
    return end, _answer(rows, seen, processing)


def _answer(rows: Sequence[Row], seen: Sequence[Taught | None], processing: Processing) -> Finding:
    """What SFT learns must be what replay and the diagnosis call the demonstration."""
    other, prompts = 0, 0
    for row, one in zip(rows, seen, strict=True):
        said = demonstration_ids(processing, row)[1]
        completion = [t for t, own in zip(said, spoken(said), strict=True) if own]
        learnt = () if one is None else one.learnt
        if len(learnt) > len(completion) and one is not None and len(learnt) == len(one.ids):
            prompts += 1
        elif list(learnt[: len(completion)]) != completion:
            other += 1
    value = {"rows": len(rows), "other": other, "with_prompt": prompts}
    check = "sft.answer"
    if other:
        return Finding(
            check=check,
            severity="warn",
            text=f"in {other} of {len(rows)} rows SFT learns other tokens than the demonstration's "
            "own, as replay and the diagnosis see it",
            change="compare sft.trainer (max_length, truncation_mode, chat_template_path) with the "
            "length of the rows",
            value=value,
        )
    if prompts:
        return Finding(
            check=check,
            severity="warn",
            text=f"in {prompts} of {len(rows)} rows SFT learns the prompt as well as the answer",
            change="leave sft.trainer.completion_only_loss out, unless pi_0 is to write prompts",
            value=value,
        )
    text = f"SFT learns the answers, and nothing else, in {len(rows)} rows"
    return Finding(check=check, severity="ok", text=text, value=value)


def length_check(lengths: Sequence[int], *, limit: int | None, packing: bool = False) -> Finding:
    """The share of rows that SFT's own length limit cuts.

    Args:
        lengths: tokens of prompt and completion together.
        limit: `sft.trainer.max_length`; None cuts nothing.
        packing: rows are packed into blocks of that length.
    """
    cut = 0.0 if limit is None else sum(n > limit for n in lengths) / len(lengths)
    value = {"cut": cut, "limit": limit, "longest": max(lengths), "packing": packing}
    text = (
        f"{cut:.1%} of {len(lengths)} rows are longer than sft.trainer.max_length = {limit}; "
        f"the longest has {max(lengths)} tokens"
    )
    if cut == 0:
        return Finding(check="sft.length", severity="ok", text=text, value=value)
    return Finding(
        check="sft.length",
        severity="stop" if cut > 0.5 else "warn",
        text=f"{text}: their end is cut off, and the end token with it",
        change=f"set sft.trainer.max_length={max(lengths)}, or leave the longest rows out",
        value=value,
    )
