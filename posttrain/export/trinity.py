"""Trinity-RFT: KL in the loss, D beside RL by the algorithm mix_chord."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.export import chord, common
from posttrain.export.says import Ask, Cannot, Note, Put, Said
from posttrain.intervention.plan import Anchor, Plan, Replay, Warmup
from posttrain.intervention.ramp import ramp

NAME = "Trinity-RFT"
WORDS = {"k1": "k1", "k2": "k2", "k3": "k3"}
SHARE = 0.2
"""Part of the batch that is read from D, in CHORD's example; the loss has its own normaliser."""


def says(plan: Plan, ask: Ask) -> Iterator[Said]:
    """Say a plan in Trinity-RFT's options."""
    mixed = plan.replay is not None and ramp(plan.replay.weight).peak > 0
    yield Put("algorithm.algorithm_type", "mix_chord" if mixed else ask.algorithm)
    yield Put("buffer.total_steps", ask.steps)
    if mixed and ask.algorithm != "grpo":
        yield from _other_than_grpo(ask)
    yield from _anchor(plan.anchor, ask, mixed=mixed)
    if plan.replay is not None:
        yield from _replay(plan.replay)
    yield from _warmup(plan.warmup, ask, mixed=mixed)
    yield from common.no_reset(NAME, plan.reset)


def _other_than_grpo(ask: Ask) -> Iterator[Said]:
    if ask.algorithm == "rloo":
        yield Note(
            "replay.weight",
            f"{NAME} mixes D with GRPO's advantages, which mix_chord works out before the trainer; "
            "RLOO's are worked out in it, so GRPO stands in",
        )
    else:
        yield Note("replay.weight", f"{NAME} mixes D with GRPO only, so GRPO stands in for PPO")


def _anchor(anchor: Anchor | None, ask: Ask, *, mixed: bool) -> Iterator[Said]:
    if anchor is None:
        yield Put("algorithm.kl_loss_fn", "none")  # its default anchors, by k2 and 0.001
        return
    strength = common.mean(anchor.coefficient, ask.steps)
    in_reward = anchor.place == "reward" and ask.algorithm != "grpo" and not mixed
    if anchor.place == "reward" and not in_reward:
        yield Cannot(
            "anchor.place",
            f"{NAME} subtracts no KL from rewards where advantages are worked out before the "
            "trainer, as in GRPO and mix_chord; the options put it into the loss",
        )
    place = "penalty" if in_reward else "loss"
    other = "loss" if in_reward else "penalty"
    placed = None if anchor.place == "reward" and not in_reward else "anchor.place"
    yield Put(f"algorithm.kl_{other}_fn", "none", placed)
    yield Put(f"algorithm.kl_{place}_fn", common.word(anchor, WORDS), "anchor.estimator")
    yield Put(f"algorithm.kl_{place}_fn_args.kl_coef", strength, "anchor.coefficient")
    yield from common.constant(NAME, "anchor.coefficient", anchor.coefficient, ask)
    yield from common.other_estimator(NAME, anchor, WORDS, anchor.place)
    if anchor.target is not None and in_reward:
        yield Put("algorithm.kl_penalty_fn_args.adaptive", True)
        yield Put("algorithm.kl_penalty_fn_args.target_kl", anchor.target, "anchor.target")
        yield from common.horizon(NAME, anchor, "algorithm.kl_penalty_fn_args.horizon", ask)
    else:
        yield from common.no_target(NAME, anchor, "its controller moves the KL in rewards only")
    yield from common.fixed_reference(NAME, anchor)
    yield common.check_kl("kl_loss" if not in_reward else "kl")


def _replay(replay: Replay) -> Iterator[Said]:
    if ramp(replay.weight).peak > 0:
        yield Put("algorithm.sample_strategy_args.sft_dataset_name", "sft_dataset")
        yield Put("algorithm.sample_strategy_args.expert_data_ratio", SHARE)
        for name, value in chord.schedule(replay.weight).items():
            yield Put(f"algorithm.policy_loss_fn_args.mu_{name}", value, "replay.weight")
        yield from chord.explain(NAME, replay.weight)
        yield Note(
            "replay.weight",
            f"{NAME} takes D's rows from the batch: expert_data_ratio {SHARE:g} of it, as in "
            "CHORD's example, so RL has as many responses fewer; the two losses are normalised "
            "apart",
        )
        phi = replay.token_weight == "chord"
        yield Put(
            "algorithm.policy_loss_fn_args.enable_phi_function",
            phi,
            "replay.token_weight" if phi else None,
        )
        yield Put("buffer.trainer_input.auxiliary_buffers.sft_dataset.path", common.DATA)
    yield from chord.token_weight(NAME, replay)
    if ramp(replay.share).peak > 0:
        yield Cannot(
            "replay.share",
            f"{NAME} gives D's rows of a batch an imitation loss, never an advantage in a group",
        )
    yield from common.no_prefix(NAME, replay)
    yield from common.no_gate(NAME, replay)


def _warmup(warmup: Warmup | None, ask: Ask, *, mixed: bool) -> Iterator[Said]:
    if warmup is not None and ask.algorithm == "ppo" and not mixed:
        # it updates the actor from step critic_warmup on, and counts from 1
        yield Put("trainer.critic_warmup", warmup.steps + 1, "warmup.steps")
        return
    steps = 0 if warmup is None else warmup.steps
    option = "algorithm.optimizer.lr_warmup_steps"
    yield from common.learning_rate_warmup(NAME, warmup, option, steps)
