"""Which plans fit which diagnosis? Two tables, and nothing else.

Rows are tried from top to bottom. A row holds where its regime and all its conditions do. Of the
advice the first row that holds counts; of the plans all do, and the first that the learner
supports is the one to run. Evidence is named by arXiv number; "the paper" is 2510.01460.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from posttrain.intervention import strength
from posttrain.regime.diagnosis import Regime

if TYPE_CHECKING:
    from collections.abc import Callable

    from posttrain.intervention.capabilities import Capabilities
    from posttrain.intervention.plan import Plan

First: TypeAlias = Literal["run", "sft_more", "measure_more", "check_reward", "skip_rl"]
Trains: TypeAlias = Literal["rl", "sft"]
Build: TypeAlias = "Callable[[int, Capabilities], Plan]"

ANY = tuple(Regime)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do before any plan is run."""

    regimes: tuple[Regime, ...]
    when: tuple[str, ...]
    """Names of conditions; all must hold."""
    first: First
    reason: str
    """May name `needed`, the further units that an undecided case lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A plan for some diagnoses."""

    regimes: tuple[Regime, ...]
    when: tuple[str, ...] = ()
    """Names of conditions; all must hold."""
    plan: Build
    reason: str
    refuted_by: str
    fallback: Build
    fallback_reason: str
    trains: Trains = "rl"
    """`sft`: no RL, the dataset is cloned further."""


SAME_AS_PLAIN = "plain RL, same seeds and steps, ends as high without dropping lower on the way"

ADVICE: tuple[Advice, ...] = (
    Advice(
        regimes=ANY,
        when=("near ceiling",),
        first="skip_rl",
        reason="Both priors are near the highest return: there is no room to gain, only to lose. "
        "Look for harder units or a finer reward first.",
    ),
    Advice(
        regimes=ANY,
        when=("near zero",),
        first="check_reward",
        reason="Both priors are near the lowest return, so the regime says little. Check the "
        "reward, the length limit and the prompt format first.",
    ),
    Advice(
        regimes=(Regime.INFERIOR,),
        when=("sft not converged",),
        first="sft_more",
        reason="pi_0's training had not converged: do more SFT first and diagnose again, since "
        "with sound SFT plain RL after it beat every mixed method tested (2604.23747).",
    ),
    Advice(
        regimes=(Regime.UNDECIDED,),
        when=("sft not converged", "leans inferior"),
        first="sft_more",
        reason="The evidence does not decide and pi_0's training had not converged: do more SFT "
        "first, then diagnose again.",
    ),
    Advice(
        regimes=(Regime.UNDECIDED,),
        when=("can be decided",),
        first="measure_more",
        reason="The evidence does not decide: measure more units first, about {needed:,}.",
    ),
)

TABLE: tuple[Rule, ...] = (
    Rule(
        regimes=ANY,
        when=("near ceiling",),
        plan=strength.light_anchor,
        reason="If RL must run, hold pi_0 lightly: what it can do is all there is to lose.",
        refuted_by="harder units, or a reward that also counts time or length, show a gap",
        fallback=strength.nothing,
        fallback_reason="Where nothing can be gained, no intervention can be told from another.",
    ),
    Rule(
        regimes=ANY,
        when=("near zero", "D succeeds", "critic"),
        plan=strength.half_data,
        reason="The few successes in D are the only reward that the critic can learn from.",
        refuted_by="the values of D's successes stay at the lowest return",
        fallback=strength.nothing,
        fallback_reason="Neither prior is worth keeping; the most plasticity is the best bet.",
    ),
    Rule(
        regimes=ANY,
        when=("near zero", "D succeeds", "no critic"),
        plan=strength.group,
        reason="The few successes in D are the only signal: inside the group the reward itself "
        "picks them, while an imitation loss would copy the failures too.",
        refuted_by="groups with a demonstration still all score the same",
        fallback=strength.nothing,
        fallback_reason="Neither prior is worth keeping; the most plasticity is the best bet.",
    ),
    Rule(
        regimes=ANY,
        when=("near zero",),
        plan=strength.nothing,
        reason="Neither prior is worth keeping; the most plasticity is the best bet.",
        refuted_by="nothing moves, since all returns are equal",
        fallback=strength.light_anchor,
        fallback_reason="pi_0 may explore usefully though it is never rewarded; do not lose that.",
    ),
    # Superior: keep pi_0.
    # pi_0 was not trained to the end: then it only looks inferior.
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("sft not converged", "can clone"),
        trains="sft",
        plan=strength.nothing,
        reason="So further SFT on D is run in place of RL; the result is to be diagnosed again.",
        refuted_by="a plan with RL that keeps D ends higher at as many updates",
        fallback=strength.strong_replay,
        fallback_reason="If the loss on held-out demonstrations stops falling and pi_0 is still "
        "below D, keep D in RL.",
    ),
    Rule(
        regimes=(Regime.UNDECIDED,),
        when=("sft not converged", "leans inferior", "can clone"),
        trains="sft",
        plan=strength.nothing,
        reason="So further SFT on D is run in place of RL; then the evidence is taken anew.",
        refuted_by="further SFT does not raise the return",
        fallback=strength.light_mix,
        fallback_reason="A little of both priors costs little in any regime.",
    ),
    Rule(
        regimes=(Regime.SUPERIOR,),
        plan=strength.anchor_after_warmup,
        reason="pi_0 is the better prior, so it is kept (the paper). Degradation comes early: pi_0 "
        "acts before it moves (2412.07762), and the pull is firm first, loose later.",
        refuted_by=SAME_AS_PLAIN,
        fallback=strength.nothing,
        fallback_reason="If the KL stays small and the return flat, the anchor is what holds it.",
    ),
    Rule(
        regimes=(Regime.SUPERIOR,),
        plan=strength.anchor,
        reason="pi_0 is the better prior; the anchor alone keeps it.",
        refuted_by=SAME_AS_PLAIN,
        fallback=strength.warmup,
        fallback_reason="A warm-up protects the start and leaves the rest free.",
    ),
    Rule(
        regimes=(Regime.SUPERIOR,),
        plan=strength.warmup,
        reason="pi_0 is the better prior; a warm-up protects it while the estimates are cold.",
        refuted_by=SAME_AS_PLAIN,
        fallback=strength.nothing,
        fallback_reason="If no early drop shows without it, the warm-up only costs steps.",
    ),
    # Inferior: keep D.
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("critic",),
        plan=strength.half_data,
        reason="D is the better prior, so half of every batch stays D (2302.02948).",
        refuted_by=SAME_AS_PLAIN,
        fallback=strength.half_data_reset,
        fallback_reason="If the curve stays flat, pi_0 has lost its plasticity. Adding a reset to "
        "the replay helped in 13 of the 23 inferior settings of the paper.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("critic",),
        plan=strength.half_data_reset,
        reason="D is the better prior, and new networks learn from it without pi_0's habits.",
        refuted_by="replay without the reset is as good in the end and better on the way",
        fallback=strength.half_data,
        fallback_reason="pi_0 helps exploration where rewards are sparse and far; keep it then.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("no success", "no critic"),
        plan=strength.strong_replay_and_group,
        reason="D is the better prior, and on most units pi_0 never succeeds: there RL alone "
        "learns nothing. Demonstrations in the group make those units teach (2504.14945), and a "
        "decaying imitation loss on all tokens moves pi_0 towards them (2508.11408).",
        refuted_by="further SFT on D with as many updates ends as high: RL then adds nothing",
        fallback=strength.strong_replay_reset,
        fallback_reason="If units stay without success while the loss on D falls, pi_0 itself is "
        "in the way. Reset part of it, and refill that from D.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("no success", "no critic"),
        plan=strength.strong_replay,
        reason="D is the better prior and pi_0 cannot find success alone: a decaying imitation "
        "loss on all tokens shows it what success is.",
        refuted_by="further SFT on D with as many updates ends as high: RL then adds nothing",
        fallback=strength.group,
        fallback_reason="If imitation pulls the return down, let the reward judge demonstrations.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("wide gap", "no critic"),
        plan=strength.strong_replay,
        reason="D is the better prior by far: most of what it holds pi_0 hardly ever says, and "
        "there a weight p(1-p) is next to nothing. So the imitation loss counts all tokens, firm "
        "at first and then fading.",
        refuted_by="further SFT on D with as many updates ends as high: RL then adds nothing",
        fallback=strength.strong_replay_and_group,
        fallback_reason="If the return stays flat while the loss on D falls, show demonstrations "
        "to the reward as well.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("no critic",),
        plan=strength.replay,
        reason="D is the better prior, so it is kept as an imitation loss that decays and weighs "
        "undecided tokens most (2508.11408). A constant sum of both losses did worse than SFT "
        "alone (2504.14945).",
        refuted_by="plain RL, same seeds and steps, ends as high. It may where pi_0 sometimes "
        "succeeds: a robot policy went from 17 to 92 % without D (2509.09674)",
        fallback=strength.nothing,
        fallback_reason="Where pi_0 sometimes succeeds, RL alone may close the gap.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("no critic",),
        plan=strength.group,
        reason="D is the better prior: one demonstration in each group, judged by the reward, "
        "keeps what D does right (2504.14945).",
        refuted_by=SAME_AS_PLAIN,
        fallback=strength.replay,
        fallback_reason="One row in eight is a weak signal; an imitation loss is stronger.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("can clone",),
        trains="sft",
        plan=strength.nothing,
        reason="The rival of every plan that keeps D: further SFT on it, with as many updates and "
        "no RL. What it reaches, RL has not earned.",
        refuted_by="a plan with RL that keeps D ends higher at as many updates",
        fallback=strength.strong_replay,
        fallback_reason="Cloning cannot pass its demonstrator for long; RL that keeps D can.",
    ),
    Rule(
        regimes=(Regime.INFERIOR,),
        when=("some success",),
        plan=strength.nothing,
        reason="pi_0 succeeds now and then on most units, so RL alone may recover.",
        refuted_by="a run that keeps D ends higher at the same budget",
        fallback=strength.light_anchor,
        fallback_reason="If the return collapses early, hold pi_0 lightly to keep its successes.",
    ),
    # Comparable: either, or a little of both.
    Rule(
        regimes=(Regime.COMPARABLE,),
        when=("critic",),
        plan=strength.quarter_data_after_warmup,
        reason="Neither prior is better; a little of both costs little (the paper).",
        refuted_by=SAME_AS_PLAIN,
        fallback=strength.warmup,
        fallback_reason="If old data slows learning down, keep only the protected start.",
    ),
    Rule(
        regimes=(Regime.COMPARABLE,),
        plan=strength.light_anchor,
        reason="Neither prior is better, and pi_0 already does as well as D: RL has the room. A "
        "light anchor guards against drift; keeping D is not expected to pay (2604.23747).",
        refuted_by="a run that also keeps D ends higher at the same budget",
        fallback=strength.light_mix,
        fallback_reason="If units that D solves are lost on the way, keep a little of D as well.",
    ),
    Rule(
        regimes=(Regime.COMPARABLE,),
        plan=strength.light_mix,
        reason="Neither prior is better; a little of both, and D's part fades.",
        refuted_by="the light anchor alone ends as high",
        fallback=strength.light_anchor,
        fallback_reason="If keeping D slows learning down, drop it first.",
    ),
    # Undecided: what costs little in every regime.
    Rule(
        regimes=(Regime.UNDECIDED,),
        when=("leans inferior",),
        plan=strength.light_mix,
        reason="A little of both priors costs little in any regime; the gap so far speaks for D.",
        refuted_by="further units show that pi_0 is not below D",
        fallback=strength.light_anchor,
        fallback_reason="If keeping D slows learning down, drop it first.",
    ),
    Rule(
        regimes=(Regime.UNDECIDED,),
        plan=strength.light_anchor,
        reason="A light anchor costs little in any regime.",
        refuted_by="further units show that pi_0 is below D",
        fallback=strength.nothing,
        fallback_reason="If the KL to pi_0 stays small by itself, the anchor does nothing.",
    ),
    # Always the last: the arm that all others are compared with.
    Rule(
        regimes=ANY,
        plan=strength.nothing,
        reason="Plain RL from pi_0: the arm that every other is compared with, and the only one "
        "for a learner that cannot keep the stronger prior.",
        refuted_by="any intervention that the learner supports ends higher at the same budget",
        fallback=strength.light_anchor,
        fallback_reason="If the return drops early and does not come back, hold pi_0 lightly.",
    ),
)
