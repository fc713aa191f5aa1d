"""A recipe's `trainer` sections, read by TRL itself before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.intervention.plan import Plan
from posttrain.intervention.ramp import ramp
from posttrain.llm.honour import check_group, honour
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.settings import LlmRecipe, RlSettings
from posttrain.recipe import RecipeError
from posttrain.tuning import training
from posttrain.tuning.honour import PlanError, check_cycle, check_replay
from posttrain.tuning.monitor import check_monitor

CLUSTER = ("deepspeed", "fsdp", "fsdp_config")
"""Reading these as TRL does switches DeepSpeed or FSDP on, for the whole process."""


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


def sft_config(recipe: LlmRecipe, folder: Path) -> Any:
    """The recipe's `sft.trainer` as TRL reads it; raises as `rl_config`."""
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


def readable(section: str, read: Callable[[], Any]) -> tuple[Any, Finding]:
    """A configuration, or None, and whether TRL takes it."""
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


def cycle_check(config: Any) -> Finding:
    """A checkpoint inside a generation cycle would not resume to the same run."""
    fine = "checkpoints end whole generation cycles"
    return _refusal("settings.cycle", fine, check_cycle, config)


def plan_checks(
    plan: Plan | None, recipe: LlmRecipe, rl: RlSettings, config: Any, world: int
) -> list[Finding]:
    """Whether the learner can do what the plan asks for.

    Args:
        plan: None while the diagnosis has yet to prescribe it.
        recipe: what is to be run.
        rl: its RL.
        config: RL's, as TRL reads it.
        world: processes.
    """
    if plan is None:
        return [
            Finding(
                check="settings.plan",
                severity="unknown",
                text="the plan is the diagnosis' to prescribe, so it cannot be checked yet",
                change="`posttrain run RECIPE --stop-after diagnose`, then preflight again",
            )
        ]
    fine = "the learner can do all that the plan asks for"
    found = [
        _refusal(
            "settings.plan",
            fine,
            honour,
            plan,
            generations=config.num_generations,
            lora=recipe.model.lora is not None,
            algorithm=rl.algorithm,
            acting=recipe.environment is not None,
        ),
        _refusal(
            "settings.monitor",
            "the monitor has what it may adapt",
            check_monitor,
            rl.monitor,
            plan,
            rl.algorithm,
        ),
    ]
    replay = plan.replay
    if replay is not None:
        fine = "demonstrations stand in groups as whole ones"
        found.append(_refusal("settings.group", fine, check_group, config, replay))
    if replay is not None and ramp(replay.weight).peak > 0:
        fine = "the replayed rows of a step are dealt out evenly"
        found.append(_refusal("settings.replay", fine, check_replay, config, rl.replay_rows, world))
    return found


def freshness(config: Any) -> Finding:
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
