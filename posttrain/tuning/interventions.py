"""The callbacks of a job: what its plan asks for between steps, and its curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from posttrain.intervention.plan import Reset
from posttrain.intervention.reset import apply_reset
from posttrain.tuning import anchored, callbacks, monitor
from posttrain.tuning.job import Job
from posttrain.tuning.state import KeepState, Stateful, restore_state


def reset_first(
    reset: Reset, model: Any, base: Mapping[str, torch.Tensor] | None, seed: int
) -> None:
    """Reset what exists before RL starts; adapters and optimizer are new then."""
    parts = tuple(part for part in reset.parts if part not in {"adapter", "optimizer"})
    if parts:
        apply_reset(replace(reset, parts=parts), model, base_state=base, seed=seed)


def interventions(
    job: Job, trainer: Any, base: Mapping[str, torch.Tensor] | None, resume: Path | None
) -> list[Any]:
    """The callbacks that a plan asks for, with what they remembered at a checkpoint."""
    plan = job.plan
    found: list[Any] = [] if job.settings.monitor is None else [monitor.monitor_of(job, trainer)]
    found += anchored.callbacks_of(trainer, resume)
    if plan.warmup is not None:
        found.append(callbacks.MomentWarmup(plan.warmup.steps))
    if plan.reset is not None and plan.reset.every:
        found.append(callbacks.ScheduledReset(plan.reset, seed=job.seed, base=base))
    memories = [part for part in (*found, *trainer.memories()) if isinstance(part, Stateful)]
    restore_state(resume, memories)
    return [*found, KeepState(memories)]


def curve_of(job: Job, trainer: Any, recorder: callbacks.Recorder, samples: int) -> callbacks.Curve:
    """The curve J(pi_n) of a job, from what `recorder` hears."""
    return callbacks.Curve(
        trainer,
        recorder,
        job.curve,
        prior=job.experience.prior,
        world=job.world,
        alpha=job.experience.alpha,
        scale=job.experience.scale,
        samples=samples,
    )
