"""slime: KL in the loss, a reference that is replaced by the policy, no data in RL."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Cannot, Note, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Warmup

NAME = "slime"
WORDS = {"k1": "k1", "k2": "k2", "k3": "k3"}
PI0 = "PATH/TO/PI_0"


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in slime's options."""
    yield Put("--advantage-estimator", ask.algorithm)
    yield Put("--num-rollout", ask.steps)
    yield from _anchor(plan.anchor, ask)
    yield from common.no_data(
        NAME, plan.replay, "its sft_loss is another kind of run, not a term beside RL's loss"
    )
    yield from _warmup(plan.warmup, ask)
    yield from common.no_reset(NAME, plan.reset)


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    if anchor is None:
        return
    in_reward = anchor.place == "reward" and ask.algorithm == "ppo"
    if anchor.place == "reward" and not in_reward:
        yield Cannot(
            "anchor.place",
            f"{NAME} takes --kl-coef and does not use it in GRPO's returns; the options put the KL "
            "into the loss",
        )
    strength = common.mean(anchor.coefficient, ask.steps)
    yield Put("--ref-load", PI0, "anchor.reference")
    if in_reward:
        yield Put("--kl-coef", strength, "anchor.coefficient")
    else:
        yield Put("--use-kl-loss", True)
        yield Put("--kl-loss-coef", strength, "anchor.coefficient")
    if anchor.place == "loss" or in_reward:
        option = "--kl-coef" if in_reward else "--kl-loss-coef"
        yield Put(option, strength, "anchor.place")
    yield Put("--kl-loss-type", common.word(anchor, WORDS), "anchor.estimator")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield from common.other_estimator(NAME, anchor, WORDS, anchor.place)
    yield from common.no_target(NAME, anchor, "the coefficient is one number for the whole run")
    yield from _reference(anchor)
    yield Warn("--ref-load must name pi_0: slime reads the reference from there, not from --load.")
    yield common.check_kl("train/kl_loss")


def _reference(anchor: Anchor) -> Iterator[Said]:
    if anchor.reference == "fixed":
        return
    if anchor.every == 0:
        yield Cannot("anchor.trigger", f"{NAME} replaces the reference by steps only")
        yield Cannot("anchor.reference", f"{NAME} replaces the reference by steps only")
        return
    yield Put("--ref-update-interval", anchor.every, "anchor.every")
    if anchor.reference == "synced" and anchor.mix < 1:
        yield Cannot(
            "anchor.mix", f"{NAME} cannot mix {anchor.mix:g} of the policy into the reference"
        )
        yield Note(
            "anchor.reference",
            f"{NAME} replaces the reference whole, as often as the plan moves it",
        )
    elif anchor.reference == "synced":
        yield Put("--ref-update-interval", anchor.every, "anchor.mix")
    yield from common.kept_optimizer(NAME, anchor)


def _warmup(warmup: Warmup | None, ask: Ask) -> Iterator[Said]:
    if warmup is not None and ask.algorithm == "ppo":
        yield Put("--num-critic-only-steps", warmup.steps, "warmup.steps")
        return
    steps = 0 if warmup is None else warmup.steps
    yield from common.learning_rate_warmup(NAME, warmup, "--lr-warmup-iters", steps)
    if warmup is not None:
        yield Note(
            "warmup.steps", f"{NAME}: --lr-warmup-iters is Megatron's; it counts optimizer steps"
        )
