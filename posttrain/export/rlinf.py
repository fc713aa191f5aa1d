"""RLinf: KL for its language actors, SFT co-training or a demonstration buffer for its robots."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Cannot, Note, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Replay, Warmup
from posttrain.intervention.ramp import ramp

NAME = "RLinf"
WORDS = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
TRAJECTORIES = 200
"""Kept in memory, as in RLinf's own examples."""


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in RLinf's options."""
    yield Put("runner.max_steps", ask.steps)
    if ask.algorithm != "sac":
        yield Put("algorithm.adv_type", "grpo" if ask.algorithm == "grpo" else "gae")
    yield from _anchor(plan.anchor, ask)
    if plan.replay is not None:
        yield from _replay(plan.replay, ask)
    yield from _warmup(plan.warmup, ask)
    yield from common.no_reset(NAME, plan.reset)
    weighted = plan.replay is not None and ramp(plan.replay.weight).peak > 0
    if plan.anchor is not None and weighted and ask.algorithm != "sac":
        yield Warn(
            "No one actor of RLinf has both: kl_beta works in its language actors, SFT co-training "
            "in its embodied OpenPI actor."
        )


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    if anchor is None:
        if ask.algorithm != "sac":
            yield Put("algorithm.kl_beta", 0.0)
        return
    if ask.algorithm == "sac":
        from posttrain.export.fields import live

        for field in live(Plan(anchor=anchor)):
            yield Cannot(field, f"{NAME}'s SAC has no term that pulls the policy to pi_0")
        return
    option = "algorithm.kl_beta"
    yield Put(option, common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield Put("algorithm.kl_penalty_type", common.word(anchor, WORDS), "anchor.estimator")
    yield from common.other_estimator(NAME, anchor, WORDS, anchor.place)
    if anchor.place == "reward":
        yield Cannot(
            "anchor.place",
            f"{NAME} subtracts the KL from rewards in Reinforce++ only; the options put it into "
            "the loss",
        )
    else:
        yield Put(option, common.mean(anchor.coefficient, ask.steps), "anchor.place")
    yield from common.no_target(NAME, anchor, "kl_beta is one number for the whole run")
    yield from common.fixed_reference(NAME, anchor)
    yield from _traps(anchor)


def _traps(anchor: Anchor) -> Iterator[Said]:
    yield Warn(
        "kl_beta is read by RLinf's language actors only. Its embodied PPO and GRPO actor has no "
        "reference and no KL: there the option changes nothing, and nothing says so."
    )
    if anchor.estimator != "k2":
        yield Warn(
            "In the commit that was read, RLinf's FSDP actor hands kl_penalty the reference where "
            "its Megatron actor hands it the policy: with FSDP, k1 has the opposite sign, a reward "
            "for leaving pi_0, and k3 is another estimator. Read, not run: check it, or take k2."
        )
    yield common.check_kl("actor/kl_loss")


def _replay(replay: Replay, ask: Ask) -> Iterator[Said]:
    sac = ask.algorithm == "sac"
    if ramp(replay.weight).peak > 0 and sac:
        yield Cannot("replay.weight", f"{NAME}'s SAC has no cloning loss beside it")
    elif ramp(replay.weight).peak > 0:
        yield from _co_training(replay, ask)
    if ramp(replay.share).peak > 0:
        yield from _demo_buffer(replay) if sac else _no_share()
    if replay.token_weight != "none":
        yield Cannot("replay.token_weight", f"{NAME} weighs no token or action of D")
    yield from common.no_prefix(NAME, replay)
    yield from common.no_gate(NAME, replay)


def _co_training(replay: Replay, ask: Ask) -> Iterator[Said]:
    yield Put("actor.enable_sft_co_train", True)
    yield Put("actor.sft_loss_weight", common.mean(replay.weight, ask.steps), "replay.weight")
    yield Put("actor.sft_data_path", common.DATA)
    yield from common.constant(NAME, "replay.weight", replay.weight, ask)
    yield Warn(
        "RLinf co-trains OpenPI models (pi0, pi0.5) in its embodied actor only; other models raise "
        "an error, and its language actors ignore the options."
    )


def _no_share() -> Iterator[Said]:
    yield Cannot(
        "replay.share",
        f"{NAME} mixes D into batches only in SAC, through algorithm.demo_buffer",
    )


def _demo_buffer(replay: Replay) -> Iterator[Said]:
    yield Put("algorithm.demo_buffer.load_path", common.DATA, "replay.share")
    yield Put("algorithm.demo_buffer.enable_cache", True)
    yield Put("algorithm.demo_buffer.cache_size", TRAJECTORIES)
    yield Put("algorithm.demo_buffer.sample_window_size", TRAJECTORIES)
    yield Put("algorithm.demo_buffer.min_buffer_size", 1)
    if common.moves(replay.share) or ramp(replay.share).start != 0.5:
        yield Note(
            "replay.share",
            f"{NAME} takes half of every batch from the buffer, always; the plan asks for "
            f"{common.spoken(replay.share)}",
        )


def _warmup(warmup: Warmup | None, ask: Ask) -> Iterator[Said]:
    if warmup is None:
        return
    if ask.algorithm == "sac":
        yield Cannot("warmup.steps", f"{NAME}'s SAC updates the policy from its first update on")
    elif ask.algorithm == "ppo":
        yield Put("actor.optim.critic_warmup_steps", warmup.steps, "warmup.steps")
        yield Note(
            "warmup.steps",
            f"{NAME} counts optimizer steps, and makes a new optimizer when they end; only its "
            "FSDP actors with a value head know the option, and its language runner raises on "
            "algorithm.critic_warmup_steps",
        )
    else:
        option = "actor.optim.lr_warmup_steps"
        yield from common.learning_rate_warmup(NAME, warmup, option, warmup.steps)
