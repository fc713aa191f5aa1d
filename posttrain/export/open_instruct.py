"""open-instruct: KL in the loss, a reference that moves, no data in RL."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Cannot, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan

NAME = "open-instruct"
NUMBERS = {"k1": 0, "k2": 1, "k3": 2}


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in open-instruct's options."""
    yield from _anchor(plan.anchor, ask)
    yield from common.no_data(NAME, plan.replay, "grpo_fast reads prompts, never answers")
    share = 0.0 if plan.warmup is None else common.tidy(min(1.0, plan.warmup.steps / ask.steps))
    yield from common.learning_rate_warmup(NAME, plan.warmup, "--warmup_ratio", share)
    yield from common.no_reset(NAME, plan.reset)


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    if anchor is None:
        yield Put("--beta", 0.0)  # its default anchors, by 0.05
        yield Put("--load_ref_policy", False)
        return
    yield Put("--load_ref_policy", True)
    yield Put("--beta", common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    known = {name: str(number) for name, number in NUMBERS.items()}
    yield Put("--kl_estimator", int(common.word(anchor, known)), "anchor.estimator")
    yield from common.other_estimator(NAME, anchor, known, anchor.place)
    if anchor.place == "reward":
        yield Cannot(
            "anchor.place", f"{NAME} has the KL in the loss only; the options put it there"
        )
    else:
        yield Put("--beta", common.mean(anchor.coefficient, ask.steps), "anchor.place")
    yield from common.no_target(NAME, anchor, "--beta is one number for the whole run")
    yield from _reference(anchor)
    yield Warn(
        "--kl_estimator counts from 0: 0 is k1, 1 is k2, 2 is k3; its default 2 is k3, not k2."
    )
    yield common.check_kl("the KL")


def _reference(anchor: Anchor) -> Iterator[Said]:
    if anchor.reference == "fixed":
        return
    if anchor.every == 0:
        for field in ("anchor.reference", "anchor.trigger"):
            yield Cannot(field, f"{NAME} moves the reference by steps only")
        return
    yield Put("--ref_policy_update_freq", anchor.every, "anchor.every")
    synced = anchor.reference == "synced"
    yield Put("--alpha", anchor.mix if synced else 1.0, "anchor.mix" if synced else None)
    yield Put("--ref_policy_update_freq", anchor.every, "anchor.reference")
    yield from common.kept_optimizer(NAME, anchor)
