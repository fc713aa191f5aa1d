"""Which fields of a plan ask for something, so that an export can account for each of them?"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset
from posttrain.intervention.ramp import ramp


def live(plan: Plan) -> tuple[str, ...]:
    """The fields that change what a learner does, as `slot.field`.

    >>> from posttrain.intervention.plan import Warmup
    >>> live(Plan(warmup=Warmup(steps=3)))
    ('warmup.steps',)
    """
    found: list[str] = []
    if plan.anchor is not None:
        found += [f"anchor.{name}" for name in _of_anchor(plan.anchor)]
    if plan.replay is not None:
        found += [f"replay.{name}" for name in _of_replay(plan.replay)]
    if plan.warmup is not None:
        found.append("warmup.steps")
    if plan.reset is not None:
        found += [f"reset.{name}" for name in _of_reset(plan.reset)]
    return tuple(found)


def idle(plan: Plan) -> tuple[str, ...]:
    """Fields that differ from their default and change nothing: a rate without a target."""
    awake = set(live(plan))
    found = []
    for intervention in plan.interventions:
        for f in fields(intervention):
            name = f"{intervention.kind}.{f.name}"
            if f.name != "kind" and name not in awake and not _same(intervention, f):
                found.append(name)
    return tuple(found)


def _same(intervention: Any, field: Any) -> bool:
    value, default = getattr(intervention, field.name), field.default
    if default is MISSING:
        return False
    return bool(value == default or (isinstance(default, float) and value == ramp(default)))


def _of_anchor(anchor: Anchor) -> list[str]:
    found = ["coefficient", "term", "reference"]
    if anchor.term == "kl":
        found += ["estimator", "place"]
    if anchor.target is not None:
        found += ["target", "rate"]
    if anchor.every:
        found.append("every")
    if anchor.reference == "synced":
        found.append("mix")
    if anchor.trigger is not None:
        found.append("trigger")
    return found


def _of_replay(replay: Replay) -> list[str]:
    found = [
        name for name in ("weight", "share", "prefix_share") if ramp(getattr(replay, name)).peak > 0
    ]
    if "prefix_share" in found:
        found.append("prefix")
    if replay.token_weight != "none":
        found.append("token_weight")
    if replay.gate != "none":
        found.append("gate")
    return found


def _of_reset(reset: Reset) -> list[str]:
    found = ["parts", "how"]
    if reset.how != "fresh":
        found.append("keep")
    if reset.how == "shrink_perturb":
        found.append("noise")
    if "last_layers" in reset.parts:
        found.append("layers")
    if reset.every:
        found.append("every")
    return found
