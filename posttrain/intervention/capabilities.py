"""What can a learner be told to do?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from posttrain.intervention.ramp import ramp

if TYPE_CHECKING:
    from posttrain.intervention.plan import (
        Anchor,
        Estimator,
        Gate,
        Part,
        Place,
        Plan,
        Reference,
        Replay,
        Reset,
        Term,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The fields of a plan that a learner honours. The default honours none.

    A learner calls `unsupported` on its plan and refuses what comes back: a field that is passed
    over in silence would turn an experiment into a no-op.
    """

    learner: str = "this learner"
    """Name for messages."""
    anchor: bool = False
    estimators: tuple[Estimator, ...] = ("k3",)
    """Of the anchor's KL; prescriptions use the first."""
    terms: frozenset[Term] = frozenset({"kl"})
    places: frozenset[Place] = frozenset({"loss"})
    targets: bool = False
    """Whether the anchor's coefficient can follow a target KL."""
    references: frozenset[Reference] = frozenset({"fixed"})
    replay_weight: bool = False
    """An imitation loss on the dataset beside the RL loss."""
    replay_share: bool = False
    """Dataset rows inside RL's own batches or groups."""
    prefixes: bool = False
    """Rollouts that start from a part of their demonstration."""
    token_weights: bool = False
    gates: frozenset[Gate] = frozenset({"none"})
    warmup: bool = False
    warmup_fraction: float = 0.05
    """Share of the planned steps that a prescribed warm-up takes."""
    reset: frozenset[Part] = frozenset()
    reset_during: bool = False
    """Whether resets can be repeated during RL, not only made before it."""
    clones: bool = False
    """Whether further cloning of the dataset can be run in place of RL."""
    critic: bool = False
    """Learns off-policy from dataset transitions through a critic."""

    def unsupported(self, plan: Plan) -> tuple[str, ...]:
        """Say, one sentence a field, what the learner cannot honour. Empty when it can do all."""
        missing: list[str] = []
        if plan.anchor is not None:
            missing += self._of_anchor(plan.anchor)
        if plan.replay is not None:
            missing += self._of_replay(plan.replay)
        if plan.warmup is not None and not self.warmup:
            missing.append("has no warm-up")
        if plan.reset is not None:
            missing += self._of_reset(plan.reset)
        return tuple(f"{self.learner} {what}" for what in missing)

    def supports(self, plan: Plan) -> bool:
        """Whether the learner honours every field of the plan."""
        return not self.unsupported(plan)

    def _of_anchor(self, anchor: Anchor) -> list[str]:
        if not self.anchor:
            return ["has no anchor"]
        missing = []
        if anchor.term not in self.terms:
            missing.append(f"cannot anchor by {anchor.term!r}, only by {sorted(self.terms)}")
        if anchor.term == "kl" and anchor.estimator not in self.estimators:
            missing.append(
                f"cannot anchor with the estimator {anchor.estimator!r}, only with "
                f"{sorted(self.estimators)}"
            )
        if anchor.term == "kl" and anchor.place not in self.places:
            missing.append(
                f"cannot put the anchor's KL into the {anchor.place} (anchor.place), only into "
                f"{sorted(self.places)}"
            )
        if anchor.target is not None and not self.targets:
            missing.append("cannot steer the anchor towards a target KL (anchor.target)")
        if anchor.reference not in self.references:
            missing.append(
                f"cannot move the anchor's reference ({anchor.reference!r}), only keep it "
                f"{sorted(self.references)}"
            )
        return missing

    def _of_replay(self, replay: Replay) -> list[str]:
        weighs = replay.token_weight != "none"
        wanted = (
            (ramp(replay.weight).peak > 0, self.replay_weight, "has no imitation loss on data"),
            (ramp(replay.share).peak > 0, self.replay_share, "cannot mix data into its batches"),
            (
                ramp(replay.prefix_share).peak > 0,
                self.prefixes,
                "cannot start rollouts from a part of their demonstration (replay.prefix_share)",
            ),
            (weighs, self.token_weights, f"cannot weigh tokens by {replay.token_weight!r}"),
            (True, replay.gate in self.gates, f"has no per-unit gate {replay.gate!r}"),
        )
        return [what for needed, can, what in wanted if needed and not can]

    def _of_reset(self, reset: Reset) -> list[str]:
        missing = [f"cannot reset {part!r}" for part in reset.parts if part not in self.reset]
        if reset.every > 0 and not self.reset_during:
            missing.append("can reset only before RL, not every few steps (reset.every)")
        return missing


LLM_GRPO = Capabilities(
    learner="GRPO",
    clones=True,
    anchor=True,
    estimators=("k3", "k2", "k1"),
    places=frozenset({"loss", "reward"}),
    targets=True,
    references=frozenset({"fixed", "synced", "reset"}),
    replay_weight=True,
    replay_share=True,
    prefixes=True,
    token_weights=True,
    gates=frozenset({"none", "map", "live"}),
    warmup=True,
    reset=frozenset({"policy", "head", "last_layers", "optimizer"}),
    reset_during=True,
)
"""Group-relative RL of a language model, all weights trained."""

LLM_GRPO_LORA = replace(
    LLM_GRPO, learner="GRPO on a LoRA adapter", reset=frozenset({"adapter", "optimizer"})
)
"""The same with a LoRA adapter: what is frozen cannot be reset."""

LLM_RLOO = replace(LLM_GRPO, learner="RLOO", estimators=("k1",), places=frozenset({"reward"}))
"""RLOO subtracts its KL, the sum of k1 over a rollout, from the rollout's return."""

LLM_RLOO_LORA = replace(
    LLM_RLOO, learner="RLOO on a LoRA adapter", reset=frozenset({"adapter", "optimizer"})
)
"""The same with a LoRA adapter."""

LLM_DPO = Capabilities(
    learner="DPO",
    clones=True,
    anchor=True,
    estimators=("exact",),
    replay_weight=True,
    token_weights=True,
    warmup=True,
    reset=LLM_GRPO.reset,
    reset_during=True,
)
"""DPO on preferences: its `beta` is the anchor, whose KL is exact in the closed form it solves."""

LLM_DPO_LORA = replace(LLM_DPO, learner="DPO on a LoRA adapter", reset=LLM_GRPO_LORA.reset)
"""The same with a LoRA adapter."""

LLM_SFT = Capabilities(learner="further SFT", clones=True)
"""No RL: D is cloned further. The rival of every plan that keeps D, so it takes no plan."""

LLM_LEARNERS: dict[tuple[str, bool], Capabilities] = {
    ("grpo", False): LLM_GRPO,
    ("grpo", True): LLM_GRPO_LORA,
    ("rloo", False): LLM_RLOO,
    ("rloo", True): LLM_RLOO_LORA,
    ("dpo", False): LLM_DPO,
    ("dpo", True): LLM_DPO_LORA,
    ("sft", False): LLM_SFT,
    ("sft", True): LLM_SFT,
}
"""By algorithm, and whether an adapter is trained."""

VLA_GRPO = Capabilities(
    learner="GRPO of a robot policy",
    clones=True,
    anchor=True,
    estimators=("exact", "k3", "k2"),
    targets=True,
    references=frozenset({"fixed", "synced", "reset"}),
    replay_weight=True,
    token_weights=True,
    gates=frozenset({"none", "map", "live"}),
    warmup=True,
    reset=frozenset({"policy", "head", "last_layers", "optimizer"}),
    reset_during=True,
)
"""Group-relative RL of a robot policy in an environment; its KL is over all action tokens."""

VLA_GRPO_LORA = replace(
    VLA_GRPO,
    learner="GRPO of a robot policy's LoRA adapter",
    reset=frozenset({"adapter", "optimizer"}),
)
"""The same with a LoRA adapter."""

VLA_SFT = replace(LLM_SFT, learner="further cloning")
"""No RL: D is cloned further (bc_only)."""

VLA_LEARNERS: dict[tuple[str, bool], Capabilities] = {
    ("grpo", False): VLA_GRPO,
    ("grpo", True): VLA_GRPO_LORA,
    ("sft", False): VLA_SFT,
    ("sft", True): VLA_SFT,
}
"""By algorithm, and whether an adapter is trained."""

CONTROL_SAC = Capabilities(
    learner="SAC",
    anchor=True,
    estimators=("exact", "k1", "k2", "k3"),
    targets=True,
    terms=frozenset({"kl", "bc"}),
    replay_weight=True,
    replay_share=True,
    warmup=True,
    warmup_fraction=0.01,
    reset=frozenset({"policy", "critic", "head", "last_layers", "optimizer"}),
    reset_during=True,
    critic=True,
)
"""Off-policy actor-critic on a control task."""

CONTROL_TD3 = replace(CONTROL_SAC, learner="TD3", estimators=("exact",))
"""The same with a deterministic policy, whose KL is that of its exploration noise around it."""
