"""TRL without Posttrain: what its own options can, and what needs Posttrain on top."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from posttrain.export import common
from posttrain.export.fields import idle, live
from posttrain.export.says import Ask, Cannot, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan
from posttrain.intervention.ramp import Ramp

NAME = "plain TRL"
PLACES = {"grpo": ("loss", "k3"), "rloo": ("reward", "k1")}


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in the fields of GRPOConfig or RLOOConfig."""
    yield Put("max_steps", ask.steps)
    yield from _anchor(plan.anchor, ask)
    yield from common.no_data(NAME, plan.replay, "its online trainers read prompts only")
    steps = 0 if plan.warmup is None else plan.warmup.steps
    yield from common.learning_rate_warmup(NAME, plan.warmup, "warmup_steps", steps)
    yield from common.no_reset(NAME, plan.reset)


def recipe(plan: Plan, ask: Ask) -> str:
    """The same plan, whole, for `posttrain run`."""
    import yaml

    tree = {
        "rl": {"algorithm": ask.algorithm, "steps": ask.steps},
        "interventions": [_entry(plan, intervention) for intervention in plan.interventions],
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _entry(plan: Plan, intervention: Any) -> dict[str, Any]:
    """Kind first; what is left at its default and does nothing is left out."""
    found: dict[str, Any] = {"kind": intervention.kind}
    for field in (*live(plan), *idle(plan)):
        slot, _, name = field.partition(".")
        if slot == intervention.kind:
            found[name] = _plain(getattr(intervention, name))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Ramp):
        given = ((f, getattr(value, f.name)) for f in fields(value))
        changed = {f.name: x for f, x in given if x != f.default}
        return value.start if set(changed) == {"start"} else changed
    return list(value) if isinstance(value, tuple) else value


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    if anchor is None:
        yield Put("beta", 0.0)  # RLOO's default anchors, by 0.05
        return
    place, estimator = PLACES[ask.algorithm]
    yield Put("beta", common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    if anchor.place == place:
        yield Put("beta", common.mean(anchor.coefficient, ask.steps), "anchor.place")
    else:
        yield Cannot(
            "anchor.place",
            f"{NAME} has the KL in the {place} of {ask.algorithm.upper()}, nowhere else",
        )
    if anchor.estimator == estimator:
        yield Put("beta", common.mean(anchor.coefficient, ask.steps), "anchor.estimator")
    else:
        yield Cannot(
            "anchor.estimator",
            f"{NAME} has {estimator} in {ask.algorithm.upper()}, nothing else",
        )
    yield from common.no_target(NAME, anchor, "beta is one number for the whole run")
    yield from common.moving_reference(
        NAME,
        anchor,
        switch="sync_ref_model",
        every="ref_model_sync_steps",
        mix="ref_model_mixup_alpha",
    )
    if anchor.reference != "fixed":
        yield Warn("TRL refuses sync_ref_model with PEFT.")
    yield Warn(
        "TRL's reference is read again from the path that the model was loaded from, and with a "
        "new LoRA adapter it is the base: that path must hold pi_0 with its adapter merged."
    )
    yield common.check_kl("kl")
