"""What no trainer here can do for a plan, said instead of doing less."""

from __future__ import annotations

from typing import Any

from posttrain.intervention.plan import Plan


class PlanError(ValueError):
    """A plan asks for something that the learner cannot do."""


def undone(plan: Plan) -> list[str]:
    """Say what of a plan would do nothing, or leave no way back: one sentence a field."""
    missing = []
    anchor, replay, reset = plan.anchor, plan.replay, plan.reset
    if anchor is not None and (anchor.estimator, anchor.place) == ("k1", "loss"):
        missing.append(
            "anchor.estimator: k1 beside the loss has an expected gradient of 0, so it would "
            "anchor nothing (arXiv 2506.09477); use k3 or k2, or anchor.place: reward"
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
    return missing


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
