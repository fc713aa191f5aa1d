"""Can RL on a language model do what a plan asks for? If not, say so instead of doing less."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from posttrain.intervention.capabilities import LLM_LEARNERS, Capabilities
from posttrain.intervention.plan import Plan, Replay
from posttrain.intervention.ramp import ramp


class PlanError(ValueError):
    """A plan asks for something that the learner cannot do."""


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
    anchor, replay, reset = plan.anchor, plan.replay, plan.reset
    if anchor is not None and (anchor.estimator, anchor.place) == ("k1", "loss"):
        missing.append(
            "anchor.estimator: k1 beside the loss has an expected gradient of 0, so it would "
            "anchor nothing (arXiv 2506.09477); use k3 or k2, or anchor.place: reward"
        )
    missing += [] if replay is None else _crowded(replay, generations)
    if reset is not None and reset.every == 0 and set(reset.parts) <= {"adapter", "optimizer"}:
        missing.append(
            f"reset.parts: {list(reset.parts)} are new at step 0 anyway, so the reset would do "
            "nothing; set reset.every"
        )
    if reset is not None and reset.how != "interpolate" and replay is None:
        destroyed = sorted({"policy", "head", "last_layers"} & set(reset.parts))
        if destroyed:
            missing.append(
                f"reset.parts: {destroyed} without replay leaves no way back, since a policy "
                "without successes gets no gradient from RL; add a replay intervention"
            )
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


def check_replay(config: Any, rows: int, world: int) -> None:
    """The demonstrations of a step must be the same however the batch is cut."""
    parts = world * config.gradient_accumulation_steps
    if rows % parts:
        raise PlanError(
            f"rl.replay_rows: {rows} demonstrations a step cannot be dealt out evenly to {world} "
            f"processes x {config.gradient_accumulation_steps} micro-batches; use a multiple of "
            f"{parts}"
        )


def check_cycle(config: Any, until: int | None = None) -> None:
    """A checkpoint inside a generation cycle would not resume to the same run.

    Args:
        config: TRL's.
        until: the step after which the run is to pause.

    Raises:
        PlanError: naming the field.
    """
    cycle = config.steps_per_generation * config.num_iterations
    for name, steps in (("rl.save_every", config.save_steps), ("probe.steps", until or 0)):
        if (steps * config.gradient_accumulation_steps) % cycle:
            raise PlanError(
                f"{name}: {steps} steps end inside a cycle of {cycle} micro-batches that share "
                "rollouts; a resumed run would differ. Choose a multiple"
            )
