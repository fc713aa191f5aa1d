"""Settings that a trainer takes without a word, and that mean something else than was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.intervention.plan import Plan
from posttrain.intervention.ramp import ramp
from posttrain.llm import training
from posttrain.llm.honour import PlanError, check_cycle, check_replay, honour
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.settings import LlmRecipe, RlSettings
from posttrain.recipe import RecipeError

FULL, ADAPTER = 1e-4, 5e-6
"""Learning rates above which a pretrained model forgets, and below which an adapter stays."""
ROLLED_OUT = ("grpo", "rloo")
CLUSTER = ("deepspeed", "fsdp", "fsdp_config")
"""Reading these as TRL does switches DeepSpeed or FSDP on, for the whole process."""


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
        found.append(_readable("sft.trainer", lambda: _sft_config(recipe, folder))[1])
    rl = recipe.rl
    if rl is None:
        return tuple(found)
    found += [_learning_rate(recipe, rl), _evaluation(rl, heldout)]
    if rl.algorithm not in ROLLED_OUT:
        return tuple(found)
    found.append(_sampler(recipe))
    config, readable = _readable("rl.trainer", lambda: rl_config(recipe, rl, folder))
    found.append(readable)
    if config is not None:
        found += [
            _refusal(
                "settings.cycle", "checkpoints end whole generation cycles", check_cycle, config
            ),
            _fresh(config),
            *_plan(plan, recipe, rl, config, world),
        ]
    return tuple(found)


def rl_config(recipe: LlmRecipe, rl: RlSettings, folder: Path, **sizes: Any) -> Any:
    """The recipe's `rl.trainer` as TRL reads it.

    Raises:
        RecipeError: an unknown field, a wrong type, or one that another part decides.
        ValueError: TRL refuses the combination.
    """
    from trl import GRPOConfig, RLOOConfig

    return training.trainer_config(
        GRPOConfig if rl.algorithm == "grpo" else RLOOConfig,
        "rl.trainer",
        _alone(rl.trainer),
        ours={
            "output_dir": str(folder),
            "seed": recipe.seed,
            "max_steps": rl.steps,
            "beta": 0.0,
            "temperature": recipe.rollout.temperature or 1.0,
            "top_p": recipe.rollout.top_p,
            "top_k": recipe.rollout.top_k,
            "max_completion_length": recipe.rollout.max_new_tokens,
            "eval_strategy": "steps",
            "eval_steps": rl.eval_every,
            "num_generations_eval": rl.eval_samples,
            "save_steps": rl.save_every,
            "sync_ref_model": False,
            **sizes,
        },
    )


def _sft_config(recipe: LlmRecipe, folder: Path) -> Any:
    from trl import SFTConfig

    if recipe.sft is None:
        raise ValueError("sft: wanted a section, got null")
    return training.trainer_config(
        SFTConfig,
        "sft.trainer",
        _alone(recipe.sft.trainer),
        ours={
            "output_dir": str(folder),
            "seed": recipe.seed,
            "eval_strategy": "steps",
            "eval_steps": 1,
        },
    )


def _alone(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in trainer.items() if k not in CLUSTER}


def _readable(section: str, read: Callable[[], Any]) -> tuple[Any, Finding]:
    check = f"settings.{section.replace('.', '_')}"
    try:
        config = read()
    except (RecipeError, ValueError, TypeError) as error:
        return None, Finding(
            check=check,
            severity="stop",
            text=str(error).strip(),
            change=f"correct {section}: its fields are those of TRL's own configuration",
        )
    text = f"TRL takes every field of {section}"
    return config, Finding(check=check, severity="ok", text=text)


def _refusal(check: str, fine: str, ask: Callable[..., None], *given: Any, **named: Any) -> Finding:
    """What the run itself would refuse, before it is started."""
    try:
        ask(*given, **named)
    except PlanError as error:
        fields = str(error).partition(":")[0]
        return Finding(
            check=check, severity="stop", text=str(error), change=f"change {fields} as it says"
        )
    return Finding(check=check, severity="ok", text=fine)


def _plan(
    plan: Plan | None, recipe: LlmRecipe, rl: RlSettings, config: Any, world: int
) -> list[Finding]:
    if plan is None:
        return [
            Finding(
                check="settings.plan",
                severity="unknown",
                text="the plan is the diagnosis' to prescribe, so it cannot be checked yet",
                change="`posttrain run RECIPE --stop-after diagnose`, then preflight again",
            )
        ]
    lora = recipe.model.lora is not None
    found = [
        _refusal(
            "settings.plan",
            "the learner can do all that the plan asks for",
            honour,
            plan,
            generations=config.num_generations,
            lora=lora,
            algorithm=rl.algorithm,
        )
    ]
    if plan.replay is not None and ramp(plan.replay.weight).peak > 0:
        fine = "the replayed rows of a step are dealt out evenly"
        found.append(_refusal("settings.replay", fine, check_replay, config, rl.replay_rows, world))
    return found


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


def _fresh(config: Any) -> Finding:
    """How many updates one batch of rollouts serves."""
    check = "settings.freshness"
    steps = config.steps_per_generation / config.gradient_accumulation_steps
    updates = steps * config.num_iterations
    value = {"updates": updates}
    if updates <= 1:
        text = "every update has rollouts of its own"
        return Finding(check=check, severity="ok", text=text, value=value)
    return Finding(
        check=check,
        severity="warn" if updates > 4 else "ok",
        text=f"one batch of rollouts serves {updates:g} updates: the last are off-policy",
        change="set rl.trainer.steps_per_generation to gradient_accumulation_steps and "
        "num_iterations=1",
        value=value,
    )
