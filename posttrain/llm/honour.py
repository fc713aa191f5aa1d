"""Can RL on a language model do what a plan asks for? If not, say so instead of doing less."""

from __future__ import annotations

from typing import Any

from posttrain.intervention.capabilities import LLM_LEARNERS, Capabilities
from posttrain.intervention.plan import Plan
from posttrain.intervention.ramp import ramp


class PlanError(ValueError):
    """A plan asks for something that the learner cannot do."""


def learner(algorithm: str, *, lora: bool) -> Capabilities:
    """What an algorithm of `rl.algorithm` honours."""
    return LLM_LEARNERS[algorithm, lora]


def honour(plan: Plan, *, generations: int, lora: bool, algorithm: str = "grpo") -> None:
    """Refuse what online RL of a language model cannot do.

    Raises:
        PlanError: one sentence a field, with what it says and what can be done.
    """
    missing = list(learner(algorithm, lora=lora).unsupported(plan))
    replay, reset = plan.replay, plan.reset
    shown = 0.0 if replay is None else ramp(replay.share).peak
    if shown * generations > generations - 1:
        missing.append(
            f"replay.share: {shown:g} of a group of {generations} leaves no "
            "rollout of the policy; lower it or raise rl.trainer.num_generations"
        )
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


def check_replay(config: Any, rows: int, world: int) -> None:
    """The demonstrations of a step must be the same however the batch is cut."""
    parts = world * config.gradient_accumulation_steps
    if rows % parts:
        raise PlanError(
            f"rl.replay_rows: {rows} demonstrations a step cannot be dealt out evenly to {world} "
            f"processes x {config.gradient_accumulation_steps} micro-batches; use a multiple of "
            f"{parts}"
        )


def check_cycle(config: Any) -> None:
    """A checkpoint inside a generation cycle would not resume to the same run."""
    cycle = config.steps_per_generation * config.num_iterations
    if (config.save_steps * config.gradient_accumulation_steps) % cycle:
        raise PlanError(
            f"rl.save_every: {config.save_steps} steps end inside a cycle of {cycle} micro-batches "
            "that share rollouts; a resumed run would differ. Save at a multiple"
        )
