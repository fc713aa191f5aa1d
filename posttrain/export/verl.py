"""verl: KL in the loss or the reward, a reference that stays, no data in RL."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Warmup

NAME = "verl"
WORDS = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
ADVANTAGE = {"grpo": "grpo", "rloo": "rloo", "ppo": "gae"}


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in verl's options."""
    yield Put("algorithm.adv_estimator", ADVANTAGE[ask.algorithm])
    yield Put("trainer.total_training_steps", ask.steps)
    yield from _anchor(plan.anchor, ask)
    yield from common.no_data(NAME, plan.replay, "its actor's batches are its own rollouts")
    yield from _warmup(plan.warmup, ask)
    yield from common.no_reset(NAME, plan.reset)


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    in_reward = anchor is not None and anchor.place == "reward"
    yield Put(
        "actor_rollout_ref.actor.use_kl_loss",
        anchor is not None and not in_reward,
        None if anchor is None or in_reward else "anchor.place",
    )
    yield Put("algorithm.use_kl_in_reward", in_reward, "anchor.place" if in_reward else None)
    if anchor is None:
        return
    yield from _in_reward(anchor, ask) if in_reward else _in_loss(anchor, ask)
    yield from common.other_estimator(NAME, anchor, WORDS, anchor.place)
    yield from common.fixed_reference(NAME, anchor)
    yield Warn(
        "With LoRA, verl's reference is the actor without its adapter, also where "
        "lora_adapter_path names the SFT adapter: the anchor is then the base model, not pi_0. "
        "Merge the SFT adapter into the model first."
    )
    yield common.check_kl("actor/kl_loss" if not in_reward else "actor/reward_kl_penalty")


def _in_loss(anchor: Anchor, ask: Ask) -> Iterator[Said]:
    option = "actor_rollout_ref.actor.kl_loss_coef"
    yield Put(option, common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield Put(
        "actor_rollout_ref.actor.kl_loss_type", common.word(anchor, WORDS), "anchor.estimator"
    )
    yield from common.no_target(NAME, anchor, "its controller exists for KL in the reward only")


def _in_reward(anchor: Anchor, ask: Ask) -> Iterator[Said]:
    yield Put(
        "algorithm.kl_ctrl.kl_coef",
        common.mean(anchor.coefficient, ask.steps),
        "anchor.coefficient",
    )
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield Put("algorithm.kl_penalty", common.word(anchor, WORDS), "anchor.estimator")
    yield Put("algorithm.kl_ctrl.type", "fixed" if anchor.target is None else "adaptive")
    if anchor.target is not None:
        yield Put("algorithm.kl_ctrl.target_kl", anchor.target, "anchor.target")
        yield from common.horizon(NAME, anchor, "algorithm.kl_ctrl.horizon", ask)


def _warmup(warmup: Warmup | None, ask: Ask) -> Iterator[Said]:
    if warmup is not None and ask.algorithm == "ppo":
        # it updates the actor from step critic_warmup on, and counts from 1
        yield Put("trainer.critic_warmup", warmup.steps + 1, "warmup.steps")
        return
    yield from common.learning_rate_warmup(
        NAME,
        warmup,
        "actor_rollout_ref.actor.optim.lr_warmup_steps",
        0 if warmup is None else warmup.steps,
    )
