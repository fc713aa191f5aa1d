"""Settings that a trainer takes without a word, and that mean something else than was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.intervention.plan import Plan
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.preflight.trainers import (
    cycle_check,
    freshness,
    plan_checks,
    readable,
    rl_config,
    sft_config,
)
from posttrain.llm.settings import LlmRecipe, RlSettings

FULL, ADAPTER = 1e-4, 5e-6
"""Learning rates above which a pretrained model forgets, and below which an adapter stays."""
ROLLED_OUT = ("grpo", "rloo")


def settings_checks(
    recipe: LlmRecipe,
    *,
    plan: Plan | None,
    accelerator: bool,
    world: int,
    heldout: int,
    folder: Path,
) -> tuple[Finding, ...]:
    """Everything that the recipe alone says.

    Args:
        recipe: what is to be run.
        plan: of RL; None while the diagnosis has yet to prescribe it.
        accelerator: whether there is a GPU or another accelerator.
        world: processes.
        heldout: held-out prompts.
        folder: for TRL's configurations, which want one.
    """
    found = [_precision(recipe, accelerator=accelerator), _lora(recipe)]
    if recipe.sft is not None:
        found.append(readable("sft.trainer", lambda: sft_config(recipe, folder))[1])
    rl = recipe.rl
    if rl is None:
        return tuple(found)
    found += [_learning_rate(recipe, rl), _evaluation(rl, heldout)]
    if rl.algorithm not in ROLLED_OUT:
        return tuple(found)
    found.append(_sampler(recipe))
    config, read = readable("rl.trainer", lambda: rl_config(recipe, rl, folder))
    found.append(read)
    if config is not None:
        found += [
            cycle_check(config),
            freshness(config),
            *plan_checks(plan, recipe, rl, config, world),
        ]
    return tuple(found)


def _precision(recipe: LlmRecipe, *, accelerator: bool) -> Finding:
    check = "settings.precision"
    sections: Mapping[str, Mapping[str, Any]] = {
        "sft.trainer": recipe.sft.trainer if recipe.sft is not None else {},
        "rl.trainer": recipe.rl.trainer if recipe.rl is not None else {},
    }
    half = [f"{n}.{k}" for n, s in sections.items() for k in ("bf16", "fp16") if s.get(k)]
    if recipe.model.dtype == "bfloat16":
        half.append("model.dtype")
    if half and not accelerator:
        return Finding(
            check=check,
            severity="warn",
            text=f"{', '.join(half)}: half precision on a CPU is slow, and coarse for nothing",
            change=f"leave {', '.join(half)} out on a machine without an accelerator",
            value={"fields": half},
        )
    if recipe.model.dtype == "bfloat16" and recipe.model.lora is None:
        return Finding(
            check=check,
            severity="warn",
            text="model.dtype is bfloat16 and every weight is trained: updates smaller than a "
            "weight's 256th part are rounded away, and RL's are",
            change="set model.dtype=float32 with rl.trainer.bf16=true (float32 weights, bfloat16 "
            "arithmetic), or train an adapter with model.lora",
            value={"fields": half},
        )
    return Finding(check=check, severity="ok", text="the precision suits the machine")


def _lora(recipe: LlmRecipe) -> Finding:
    check, lora = "settings.lora", recipe.model.lora
    if lora is None:
        return Finding(check=check, severity="ok", text="every weight is trained, no adapter")
    touched = [name for name in ("lm_head", "embed") if name in lora.target]
    if touched:
        return Finding(
            check=check,
            severity="warn",
            text=f"model.lora.target={lora.target} adapts {' and '.join(touched)}: where input and "
            "output embeddings are tied, merging pi_0 changes both",
            change="set model.lora.target=all-linear, which leaves them out",
            value={"target": lora.target},
        )
    return Finding(check=check, severity="ok", text=f"the adapter's target is {lora.target}")


def _learning_rate(recipe: LlmRecipe, rl: RlSettings) -> Finding:
    check = "settings.learning_rate"
    default = {"dpo": 1e-6, "sft": 2e-5}.get(rl.algorithm, 1e-6)
    rate = float(rl.trainer.get("learning_rate", default))
    cloned = recipe.sft.trainer.get("learning_rate") if recipe.sft is not None else None
    value = {"rl": rate, "sft": cloned}
    text = f"RL's learning rate is {rate:g}"
    if cloned is not None and rate > float(cloned):
        return Finding(
            check=check,
            severity="warn",
            text=f"{text}, above SFT's {float(cloned):g}: with a cold optimizer the first steps "
            "undo pi_0",
            change="lower rl.trainer.learning_rate, or add a warmup intervention and "
            "rl.trainer.warmup_steps",
            value=value,
        )
    pretrained = not recipe.model.path.startswith("tiny")
    if recipe.model.lora is None and pretrained and rate > FULL:
        return Finding(
            check=check,
            severity="warn",
            text=f"{text}: pretrained weights forget at more than {FULL:g}",
            change="set rl.trainer.learning_rate=1e-6 to 2e-5, or train an adapter",
            value=value,
        )
    if recipe.model.lora is not None and rate <= ADAPTER:
        return Finding(
            check=check,
            severity="warn",
            text=f"{text}{'' if 'learning_rate' in rl.trainer else ' (TRL own default)'}: an "
            "adapter that starts at zero hardly moves",
            change="set rl.trainer.learning_rate to 1e-5 to 1e-4 with model.lora",
            value=value,
        )
    return Finding(check=check, severity="ok", text=text, value=value)


def _evaluation(rl: RlSettings, heldout: int) -> Finding:
    check = "settings.evaluation"
    if rl.eval_units > heldout:
        return Finding(
            check=check,
            severity="warn",
            text=f"rl.eval_units asks for {rl.eval_units} held-out prompts, there are {heldout}",
            change="raise data.heldout or lower rl.eval_units",
            value={"wanted": rl.eval_units, "heldout": heldout},
        )
    text = f"{rl.eval_units} of {heldout} held-out prompts gauge RL"
    return Finding(check=check, severity="ok", text=text)


def _sampler(recipe: LlmRecipe) -> Finding:
    check, rollout = "settings.sampler", recipe.rollout
    if rollout.temperature == 0:
        return Finding(
            check=check,
            severity="stop",
            text="rollout.temperature is 0: all rollouts of a group are the same",
            change="set rollout.temperature=1; greedy decoding belongs to deployment",
        )
    if rollout.top_p < 1 or rollout.top_k > 0:
        return Finding(
            check=check,
            severity="warn",
            text=f"rollouts are cut to top_p {rollout.top_p:g}, top_k {rollout.top_k}: their "
            "log-probabilities are taken without that cut, so importance ratios are off",
            change="set rollout.top_p=1 and rollout.top_k=0; cut in deployment only",
        )
    text = f"rollouts are drawn at temperature {rollout.temperature:g}, uncut"
    return Finding(check=check, severity="ok", text=text)
