"""OpenRLHF: KL in the loss or the reward, steered if asked for, no data in RL."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Warmup

NAME = "OpenRLHF"
WORDS = {"k1": "k1", "k2": "k2", "k3": "k3"}
ADVANTAGE = {"grpo": "group_norm", "rloo": "rloo", "ppo": "gae"}


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in OpenRLHF's options."""
    yield Put("--algo.advantage.estimator", ADVANTAGE[ask.algorithm])
    yield from _anchor(plan.anchor, ask)
    yield from common.no_data(
        NAME, plan.replay, "its --pretrain_data was removed from RL in v0.7.1"
    )
    yield from _warmup(plan.warmup, ask)
    yield from common.no_reset(NAME, plan.reset)


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    if anchor is None:
        yield Put("--algo.kl.init_coef", 0.0)  # its default anchors, by 0.01
        return
    option = "--algo.kl.init_coef"
    yield Put(option, common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield Put("--algo.kl.use_loss", anchor.place == "loss", "anchor.place")
    yield Put("--algo.kl.estimator", common.word(anchor, WORDS), "anchor.estimator")
    yield from common.other_estimator(NAME, anchor, WORDS, anchor.place)
    if anchor.target is not None:
        yield Put("--algo.kl.target", anchor.target, "anchor.target")
        yield from common.horizon(NAME, anchor, "--algo.kl.horizon", ask)
        yield Warn(
            "A comment in OpenRLHF's ppo_trainer.py calls its adaptive KL controller incompatible "
            "there, although the code calls it: watch the coefficient, or leave out the target."
        )
    yield from common.fixed_reference(NAME, anchor)
    yield Warn(
        "OpenRLHF's reference is read from --actor.model_name_or_path: merge an SFT adapter into "
        "the model first (openrlhf.cli.lora_combiner), or the anchor is the base model, not pi_0."
    )
    yield common.check_kl("kl")


def _warmup(warmup: Warmup | None, ask: Ask) -> Iterator[Said]:
    if warmup is not None and ask.algorithm == "ppo":
        # it trains the actor after step freezing_steps, and counts from 0
        yield Put("--critic.freezing_steps", warmup.steps - 1, "warmup.steps")
        return
    share = 0.0 if warmup is None else common.tidy(min(1.0, warmup.steps / ask.steps))
    yield from common.learning_rate_warmup(NAME, warmup, "--actor.lr_warmup_ratio", share)
