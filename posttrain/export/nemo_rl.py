"""NeMo RL: KL in the loss, a reference that stays, no data in RL."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import common
from posttrain.export.says import Ask, Cannot, Put, Said, Warn
from posttrain.intervention.plan import Anchor, Plan, Replay, Warmup
from posttrain.intervention.ramp import ramp

NAME = "NeMo RL"
WORDS = {"k1": "k1", "k2": "k2", "k3": "k3"}


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in NeMo RL's options."""
    if ask.algorithm == "ppo":
        yield Put("ppo.max_num_steps", ask.steps)
    else:
        leave_one_out = ask.algorithm == "rloo"
        yield Put("grpo.max_num_steps", ask.steps)
        yield Put("grpo.adv_estimator.name", "grpo")
        yield Put("grpo.adv_estimator.use_leave_one_out_baseline", leave_one_out)
        yield Put("grpo.adv_estimator.normalize_rewards", not leave_one_out)
        yield Put("loss_fn.disable_ppo_ratio", leave_one_out)
    yield from _anchor(plan.anchor, ask)
    yield from common.no_data(NAME, plan.replay, "GRPO and PPO read rollouts only")
    yield from _trap(plan.replay)
    yield from _warmup(plan.warmup, ask)
    yield from common.no_reset(NAME, plan.reset)


def _anchor(anchor: Anchor | None, ask: Ask) -> Iterator[Said]:
    option = "loss_fn.reference_policy_kl_penalty"
    if anchor is None:
        yield Put(option, 0.0)  # its default anchors, by 0.01
        return
    yield Put(option, common.mean(anchor.coefficient, ask.steps), "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield Put("loss_fn.reference_policy_kl_type", common.word(anchor, WORDS), "anchor.estimator")
    yield from common.other_estimator(NAME, anchor, WORDS, anchor.place)
    can = anchor.place == "loss" or ask.algorithm == "ppo"
    yield Put(
        "loss_fn.use_kl_in_reward",
        can and anchor.place == "reward",
        "anchor.place" if can else None,
    )
    if not can:
        yield Cannot(
            "anchor.place",
            f"{NAME} subtracts the KL from rewards in Reinforce++ and GAE only; the options put it "
            "into the loss",
        )
    if ask.algorithm == "ppo":
        yield Put("ppo.skip_reference_policy_logprobs_calculation", False)
    yield from common.no_target(NAME, anchor, "the penalty is one number for the whole run")
    yield from common.fixed_reference(NAME, anchor)
    yield common.check_kl("kl_penalty")


def _trap(replay: Replay | None) -> Iterator[Said]:
    if replay is not None and ramp(replay.weight).peak > 0:
        yield Warn(
            "loss_fn.positive_example_nll_weight of NeMo RL looks like an imitation loss on D and "
            "is not: it imitates the policy's own correct rollouts."
        )


def _warmup(warmup: Warmup | None, ask: Ask) -> Iterator[Said]:
    if warmup is None:
        return
    if ask.algorithm == "ppo":
        yield Put("ppo.policy_training_start_step", warmup.steps, "warmup.steps")
        return
    said = list(common.learning_rate_warmup(NAME, warmup, "policy.scheduler", 0))
    climb = {"start_factor": 1e-06, "end_factor": 1.0, "total_iters": warmup.steps}
    stay = {"factor": 1.0, "total_iters": 10_000_000_000}
    schedule: list[dict[str, object]] = [
        {"name": "torch.optim.lr_scheduler.LinearLR", "kwargs": climb},
        {"name": "torch.optim.lr_scheduler.ConstantLR", "kwargs": stay},
        {"milestones": [warmup.steps]},
    ]
    yield Put("policy.scheduler", schedule, "warmup.steps")
    yield from said[1:]
