"""Can RL on a language model do what a plan asks for? If not, say so instead of doing less."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from posttrain.intervention.capabilities import LLM_LEARNERS, Capabilities
from posttrain.intervention.plan import Plan, Replay
from posttrain.intervention.ramp import ramp
from posttrain.tuning.honour import PlanError, undone


def learner(algorithm: str, *, lora: bool, acting: bool = False) -> Capabilities:
    """What an algorithm of `rl.algorithm` honours, perhaps `acting` in an environment.

    There a demonstration cannot stand in a group, since TRL draws rollouts turn by turn; and a KL
    in the reward would charge the policy for what tools answer.
    """
    able = LLM_LEARNERS[algorithm, lora]
    if not acting:
        return able
    return replace(
        able,
        learner=f"{able.learner} in an environment",
        places=frozenset({"loss"}),
        replay_share=False,
        prefixes=False,
        gates=frozenset({"none"}),
    )


def honour(
    plan: Plan, *, generations: int, lora: bool, algorithm: str = "grpo", acting: bool = False
) -> None:
    """Refuse what online RL of a language model cannot do.

    Raises:
        PlanError: one sentence a field, with what it says and what can be done.
    """
    missing = list(learner(algorithm, lora=lora, acting=acting).unsupported(plan))
    missing += [] if plan.replay is None else _crowded(plan.replay, generations)
    missing += undone(plan)
    if missing:
        raise PlanError("; ".join(missing))


def _crowded(replay: Replay, generations: int) -> list[str]:
    """Whole demonstrations and beginnings must leave room for a rollout of the policy."""
    shares = {"replay.share": replay.share, "replay.prefix_share": replay.prefix_share}
    taken = {
        name: math.ceil(ramp(share).peak * generations - 1e-9) for name, share in shares.items()
    }
    if sum(taken.values()) < generations:
        return []
    said = " and ".join(f"{name} up to {count}" for name, count in taken.items() if count)
    return [
        f"{said} of a group of {generations} leave no rollout of the policy's own; lower them or "
        "raise rl.trainer.num_generations"
    ]


def check_group(config: Any, replay: Replay) -> None:
    """Refuse options of TRL under which a demonstration in a group would not be what it says.

    Raises:
        PlanError: with the option.
    """
    shown = max(ramp(replay.share).peak, ramp(replay.prefix_share).peak) > 0
    begun = ramp(replay.prefix_share).peak > 0
    if begun and config.use_vllm and config.vllm_mode == "server":
        raise PlanError(
            "rl.trainer.vllm_mode: a server samples all rollouts of a group from one prompt, so "
            "none can start from a part of the demonstration (replay.prefix_share); use 'colocate'"
        )
    level = getattr(config, "importance_sampling_level", "token")
    if shown and replay.token_weight != "none" and level != "token":
        raise PlanError(
            f"rl.trainer.importance_sampling_level: with {level!r} a group's tokens share one "
            f"ratio, and replay.token_weight {replay.token_weight!r} needs one each; use 'token'"
        )
