"""ms-swift: KL, a reference that moves, and D beside RL by CHORD's schedule."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import chord, common
from posttrain.export.says import Ask, Cannot, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Replay, Warmup
from posttrain.intervention.ramp import ramp

NAME = "ms-swift"
WORDS = {"loss": {"k3": "k3"}, "reward": {"k1": "k1"}}


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in ms-swift's options."""
    yield Put("--rlhf_type", "grpo")
    yield Put("--advantage_estimator", ask.algorithm)
    yield from _anchor(plan.anchor, ask)
    if plan.replay is not None:
        yield from _replay(plan.replay)
    yield from _warmup(plan.warmup)
    yield from common.no_reset(NAME, plan.reset)


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    if anchor is None:
        yield Put("--beta", 0.0)  # its default anchors, by 0.04
        return
    yield Put("--beta", common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield Put("--kl_in_reward", anchor.place == "reward", "anchor.place")
    if anchor.estimator in WORDS[anchor.place]:
        yield Put("--kl_in_reward", anchor.place == "reward", "anchor.estimator")
    yield from common.other_estimator(NAME, anchor, WORDS[anchor.place], anchor.place)
    yield from common.no_target(NAME, anchor, "--beta is one number for the whole run")
    yield from common.moving_reference(
        NAME,
        anchor,
        switch="--sync_ref_model",
        every="--ref_model_sync_steps",
        mix="--ref_model_mixup_alpha",
    )
    if anchor.reference != "fixed":
        yield Warn(
            "ms-swift syncs the reference of full fine-tuning only; with LoRA there is no "
            "reference model to sync, and nothing says so."
        )
    yield Warn(
        "With LoRA, give the SFT adapter both as --adapters and as --ref_adapters: without the "
        "second, the reference is the base model, not pi_0."
    )
    yield common.check_kl("kl")


def _replay(replay: Replay) -> Iterator[Said]:
    if ramp(replay.weight).peak > 0:
        yield Put("--chord_sft_dataset", common.DATA)
        yield Put("--chord_sft_per_device_train_batch_size", 1)
        for name, value in chord.schedule(replay.weight).items():
            yield Put(f"--chord_mu_{name}", value, "replay.weight")
        yield from chord.explain(NAME, replay.weight)
        phi = replay.token_weight == "chord"
        yield Put("--chord_enable_phi_function", phi, "replay.token_weight" if phi else None)
    yield from chord.token_weight(NAME, replay)
    if ramp(replay.share).peak > 0:
        yield Cannot("replay.share", f"{NAME} puts no demonstration into a group")
    yield from common.no_prefix(NAME, replay)
    yield from common.no_gate(NAME, replay)


def _warmup(warmup: Warmup | None) -> Iterator[Said]:
    steps = 0 if warmup is None else warmup.steps
    yield from common.learning_rate_warmup(NAME, warmup, "--warmup_steps", steps)
