"""Is the anchor of RL pi_0, and does the policy start there?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from posttrain.intervention.reference import ReferenceCheck, check_reference
from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.preflight.rehearsal import Rehearsal
from posttrain.llm.preflight.subject import Start
from posttrain.llm.prompts import demonstration_ids
from posttrain.tuning.model import batch_of, device, token_logps
from posttrain.tuning.seen import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOISE = 1e-2
"""Nats a token of rounding that a KL coefficient or a target would feel."""
DROPPED = 1e-3
"""Nats at a single token by which a policy without dropout never differs from itself."""


def reference_checks(
    seen: Rehearsal, start: Start, *, anchored: bool, lora: bool
) -> tuple[Finding, ...]:
    """Judge what the rehearsal measured.

    Args:
        seen: the rehearsal.
        start: pi_0, or what stands for it.
        anchored: whether the recipe's plan has an anchor, or leaves it to the diagnosis.
        lora: whether RL trains an adapter.
    """
    return (
        _reference(seen, start, anchored=anchored, lora=lora),
        _begin(seen, start),
        _dropout(seen),
        _trainable(seen, start),
    )


def _numbers(found: ReferenceCheck) -> dict[str, Any]:
    return {"kl": found.kl, "max_abs": found.max_abs, "tokens": found.count}


def _reference(seen: Rehearsal, start: Start, *, anchored: bool, lora: bool) -> Finding:
    found = check_reference(seen.pi0, seen.reference, seen.mask)
    again = "the folder that RL starts from" if seen.source == start.path else seen.source
    kind = "RL's own adapter taken off" if lora else f"read again from {again}"
    text = (
        f"KL of {start.words} to the reference that TRL builds ({kind}): {found.kl:.2g} nats a "
        f"token over {found.count} tokens"
    )
    value = {**_numbers(found), "source": seen.source, "lora": lora, "made": start.made}
    if found.ok:
        return Finding(check="reference.pi0", severity="ok", text=text, value=value)
    because = (
        ": pi_0 is an adapter, and the reference is the base model without it"
        if start.adapter
        else ""
    )
    return Finding(
        check="reference.pi0",
        severity="stop" if anchored else "warn",
        text=f"{text}: the anchor is another model{because}",
        change="merge the adapter into its base (peft's merge_and_unload, then save_pretrained) "
        "and name that folder in model.path"
        if start.adapter
        else "name pi_0's own folder in model.path, and leave rl.trainer.model_init_kwargs out",
        value=value,
    )


def _begin(seen: Rehearsal, start: Start) -> Finding:
    found = check_reference(seen.pi0, seen.start, seen.mask)
    text = f"KL of {start.words} to RL's policy before its first step: {found.kl:.2g} nats a token"
    if found.ok:
        return Finding(check="reference.start", severity="ok", text=text, value=_numbers(found))
    return Finding(
        check="reference.start",
        severity="stop",
        text=f"{text}: RL starts from another policy than the one that is diagnosed",
        change="compare rl.trainer (dtype, quantization, model_init_kwargs) with model.dtype, and "
        "model.lora with a fresh adapter's initialisation",
        value=_numbers(found),
    )


def _dropout(seen: Rehearsal) -> Finding:
    found = check_reference(seen.start, seen.training, seen.mask)
    text = (
        f"the policy in training mode differs from itself at rest by a KL of {found.kl:.2g} nats a "
        f"token, at one token by {found.max_abs:.2g}"
    )
    if found.max_abs <= DROPPED:
        return Finding(check="reference.dropout", severity="ok", text=text, value=_numbers(found))
    return Finding(
        check="reference.dropout",
        severity="warn",
        text=f"{text}: dropout is active, and every KL and importance ratio will carry that noise",
        change="set rl.trainer.disable_dropout=true (and model.lora.dropout=0)",
        value=_numbers(found),
    )


def _trainable(seen: Rehearsal, start: Start) -> Finding:
    value = {"parameters": seen.trainable}
    if seen.trainable:
        text = f"{seen.trainable:,} parameters are trainable"
        return Finding(check="reference.trainable", severity="ok", text=text, value=value)
    return Finding(
        check="reference.trainable",
        severity="stop",
        text="no parameter is trainable"
        + (": the adapter was loaded for inference (is_trainable=False)" if start.adapter else "")
        + "; RL would run to its end and change nothing",
        change="merge the adapter into its base and name that folder in model.path; with "
        "model.lora RL then trains a new one",
        value=value,
    )


@torch.no_grad()
def precision_check(
    rows: Sequence[Row], model: PreTrainedModel, processing: Any, *, used: bool
) -> Finding:
    """How far rounding alone moves log-probabilities when the model computes in bfloat16.

    Args:
        rows: demonstrations to measure on.
        model: pi_0; a copy is made in the other precision.
        processing: its tokenizer.
        used: whether the recipe computes in bfloat16.
    """
    if not used:
        text = "the recipe computes in float32"
        return Finding(check="reference.precision", severity="ok", text=text)
    pad = int(tokenizer_of(processing).pad_token_id)
    batch = batch_of([demonstration_ids(processing, row) for row in rows], pad, device())
    exact = copy.deepcopy(model).to(device()).float().eval()
    high, mask = token_logps(exact, batch)
    low, _ = token_logps(exact.to(torch.bfloat16), batch)
    found = check_reference(high, low, mask, tolerance=NOISE)
    text = (
        f"bfloat16 moves log-probabilities by up to {found.max_abs:.2g}, a KL of {found.kl:.2g} "
        "nats a token that is rounding"
    )
    if found.ok:
        return Finding(check="reference.precision", severity="ok", text=text, value=_numbers(found))
    return Finding(
        check="reference.precision",
        severity="warn",
        text=text,
        change="set model.dtype=float32, or rl.trainer.cast_lm_head_to_fp32=true, or keep the "
        "anchor's target and trigger well above that",
        value=_numbers(found),
    )
