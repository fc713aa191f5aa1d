import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.intervention.conditions import CONDITIONS
from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup, plan_from_dict
from posttrain.intervention.prescription import (
    CONTROL_SAC,
    LLM_GRPO,
    LLM_GRPO_LORA,
    Capabilities,
    prescribe,
)
from posttrain.intervention.rules import ADVICE, TABLE
from posttrain.regime.diagnosis import Diagnosis, Flag, Interval, Recoverability, Regime

FLAGS = (
    "sft_not_converged",
    "both_near_zero",
    "both_near_ceiling",
    "success_filtered",
    "unscorable",
    "truncated",
    "seen_prompts",
    "decoding_changes_regime",
    "unpaired",
    "few_units",
)


def found(regime, *, flags=(), no_success=None, needed=None, gap=0.0, j_dataset=0.5):
    recoverability = no_success is not None and Recoverability(
        k=8,
        pass_at={1: 0.1, 8: 1 - no_success},
        no_success=no_success,
        sometimes=1 - no_success,
        always=0.0,
        no_signal=None,
    )
    return Diagnosis(
        regime=regime,
        paper_regime=Regime.COMPARABLE,
        gap=gap,
        interval=Interval(gap - 0.1, gap + 0.1),
        j_policy=j_dataset + gap,
        j_dataset=j_dataset,
        j_policy_interval=Interval(0, 1),
        j_dataset_interval=Interval(0, 1),
        margin=0.05,
        alpha=0.05,
        scale=(0.0, 1.0),
        test="paired",
        reason="Both sides have the same units.",
        units=40,
        units_dataset=40,
        episodes_policy=40,
        episodes_dataset=40,
        needed=needed,
        recoverability=recoverability or None,
        decodings=(),
        flags=tuple(Flag(kind, "") for kind in flags),
    )


diagnoses = st.builds(
    found,
    st.sampled_from(Regime),
    flags=st.sets(st.sampled_from(FLAGS)),
    no_success=st.none() | st.floats(0, 1),
    needed=st.none() | st.integers(1, 10_000),
    gap=st.floats(-0.5, 0.5),
    j_dataset=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
parts = st.sampled_from(["policy", "critic", "head", "last_layers", "adapter", "optimizer"])
learners = st.sampled_from([LLM_GRPO, LLM_GRPO_LORA, CONTROL_SAC, Capabilities()]) | st.builds(
    Capabilities,
    anchor=st.booleans(),
    estimators=st.sampled_from([("k3",), ("exact", "k3"), ("k1",)]),
    replay_weight=st.booleans(),
    replay_share=st.booleans(),
    token_weights=st.booleans(),
    warmup=st.booleans(),
    reset=st.frozensets(parts),
    critic=st.booleans(),
)
steps = st.integers(1, 100_000)


@given(diagnoses, learners, steps)
def test_every_case_gets_a_plan_that_the_learner_honours(diagnosis, learner, planned):
    prescriptions = prescribe(diagnosis, learner, steps=planned)
    assert prescriptions
    for prescription in prescriptions:
        assert learner.supports(prescription.plan)
        assert learner.supports(prescription.fallback)
        assert prescription.reason
        assert prescription.refuted_by
        assert prescription.fallback_reason


def is_constant_sft_sum(plan):
    return (
        plan.replay is not None
        and plan.replay.weight.peak > 0
        and plan.replay.weight.final >= plan.replay.weight.start
    )


@given(diagnoses, learners, steps)
def test_a_constant_weight_sft_sum_is_never_prescribed(diagnosis, learner, planned):
    for prescription in prescribe(diagnosis, learner, steps=planned):
        assert not is_constant_sft_sum(prescription.plan)
        assert not is_constant_sft_sum(prescription.fallback)


@given(diagnoses, learners, steps)
def test_no_plan_comes_twice_and_plain_rl_is_always_among_them(diagnosis, learner, planned):
    found = prescribe(diagnosis, learner, steps=planned)
    plans = [prescription.plan for prescription in found if prescription.trains == "rl"]
    assert len(set(plans)) == len(plans)
    assert Plan() in plans


@given(diagnoses, learners, steps)
def test_a_fallback_is_another_plan_wherever_the_learner_has_one(diagnosis, learner, planned):
    for prescription in prescribe(diagnosis, learner, steps=planned):
        if prescription.fallback == prescription.plan:
            assert prescription.plan == Plan()
            assert not learner.anchor


@given(diagnoses, learners, steps)
def test_a_reset_never_comes_without_replay(diagnosis, learner, planned):
    for prescription in prescribe(diagnosis, learner, steps=planned):
        for plan in (prescription.plan, prescription.fallback):
            assert plan.reset is None or plan.replay is not None


@given(diagnoses, learners, steps)
def test_a_prescription_survives_json(diagnosis, learner, planned):
    for prescription in prescribe(diagnosis, learner, steps=planned):
        stored = json.loads(json.dumps(prescription.to_dict()))
        assert plan_from_dict(stored["plan"]) == prescription.plan
        assert plan_from_dict(stored["fallback"]) == prescription.fallback


def first(diagnosis, learner=LLM_GRPO):
    return prescribe(diagnosis, learner, steps=100)[0]


@pytest.mark.parametrize("learner", [LLM_GRPO, LLM_GRPO_LORA, CONTROL_SAC])
@pytest.mark.parametrize(
    ("regime", "families"),
    [
        (Regime.SUPERIOR, {"pi0-centric"}),
        (Regime.INFERIOR, {"D-centric"}),
        (Regime.COMPARABLE, {"pi0-centric", "mixed"}),
    ],
)
def test_the_stronger_prior_is_kept(regime, families, learner):
    assert first(found(regime), learner).plan.family in families


def test_strengths_change_over_the_planned_steps():
    for planned in (10, 1000):
        superior = prescribe(found(Regime.SUPERIOR), steps=planned)[0].plan
        assert superior.anchor.coefficient.steps == planned
        assert superior.warmup.steps == max(1, planned // 20)
        inferior = prescribe(found(Regime.INFERIOR), steps=planned)[0].plan
        assert inferior.replay.weight.steps == planned


def test_a_policy_that_never_succeeds_sees_demonstrations_in_the_group():
    lost, able = found(Regime.INFERIOR, no_success=0.8), found(Regime.INFERIOR, no_success=0.1)
    assert first(lost).plan.replay.share.peak > 0
    assert first(lost).plan.replay.weight.peak > first(able).plan.replay.weight.peak
    assert first(lost).plan.replay.token_weight == "none"
    assert first(lost).fallback.reset is not None
    assert first(able).plan.replay.token_weight == "chord"
    assert first(able).fallback == Plan()
    assert "plain RL" in first(able).refuted_by


def test_the_reset_is_one_that_the_learner_survives():
    lost = found(Regime.INFERIOR, no_success=0.8)
    assert first(lost, LLM_GRPO).fallback.reset == Reset(parts=("last_layers",))
    assert first(lost, LLM_GRPO_LORA).fallback.reset == Reset(parts=("adapter",), every=50)
    assert first(lost, CONTROL_SAC).fallback.reset.parts == ("policy", "critic", "optimizer")


@pytest.mark.parametrize(
    ("diagnosis", "advice"),
    [
        (found(Regime.INFERIOR), "run"),
        (found(Regime.INFERIOR, flags=["sft_not_converged"]), "sft_more"),
        (found(Regime.SUPERIOR, flags=["sft_not_converged"]), "run"),
        (found(Regime.UNDECIDED, flags=["sft_not_converged"], gap=-0.1), "sft_more"),
        (found(Regime.UNDECIDED, needed=40), "measure_more"),
        (found(Regime.UNDECIDED), "run"),
        (found(Regime.COMPARABLE, flags=["both_near_zero"]), "check_reward"),
        (found(Regime.COMPARABLE, flags=["both_near_ceiling"]), "skip_rl"),
        (found(Regime.COMPARABLE, flags=["truncated", "unpaired"]), "run"),
    ],
)
def test_what_to_do_before_rl_comes_first(diagnosis, advice):
    assert {p.first for p in prescribe(diagnosis)} == {advice}


def test_more_sft_is_a_prescription_like_any_other():
    """First where pi_0 was not trained to the end, a rival of the plans that keep D elsewhere."""
    unfinished = prescribe(found(Regime.INFERIOR, flags=["sft_not_converged"]))
    assert unfinished[0].trains == "sft"
    assert any(p.trains == "rl" and p.plan.replay is not None for p in unfinished[1:])
    finished = prescribe(found(Regime.INFERIOR))
    assert finished[0].trains == "rl"
    assert [p.trains for p in finished].count("sft") == 1
    for regime in (Regime.SUPERIOR, Regime.COMPARABLE):
        assert all(p.trains == "rl" for p in prescribe(found(regime)))
    assert all(p.trains == "rl" for p in prescribe(found(Regime.INFERIOR), CONTROL_SAC))


def test_an_undecided_case_says_how_much_is_missing():
    assert "about 1,234" in first(found(Regime.UNDECIDED, needed=1234)).reason


def test_where_both_are_near_zero_the_successes_of_d_are_used_if_there_are_any():
    flags = ["both_near_zero"]
    assert first(found(Regime.UNDECIDED, flags=flags, j_dataset=0.03)).plan.replay.share.peak > 0
    assert first(found(Regime.UNDECIDED, flags=flags, j_dataset=0.0)).plan == Plan()


def test_every_condition_is_used_and_every_used_one_exists():
    used = {name for row in (*TABLE, *ADVICE) for name in row.when}
    assert used == set(CONDITIONS)


def test_every_row_can_be_reached():
    """A row below another that always holds first, with the same plan, would be dead."""
    reached = set()
    cases = [
        found(regime, flags=flags, no_success=no_success, needed=9, gap=gap, j_dataset=j)
        for regime in Regime
        for flags in ((), ("both_near_zero",), ("both_near_ceiling",), ("sft_not_converged",))
        for no_success in (None, 0.1, 0.9)
        for gap in (-0.5, -0.1, 0.1)
        for j in (0.0, 0.5)
    ]
    for case in cases:
        for learner in (LLM_GRPO, LLM_GRPO_LORA, CONTROL_SAC):
            for prescription in prescribe(case, learner):
                reached |= {row.reason for row in TABLE if row.reason in prescription.reason}
    assert reached == {row.reason for row in TABLE}


def test_no_steps_is_no_plan():
    with pytest.raises(ValueError, match="steps must be >= 1"):
        prescribe(found(Regime.SUPERIOR), steps=0)


@pytest.mark.parametrize(
    ("learner", "intervention", "sentence"),
    [
        (Capabilities(learner="X"), Anchor(), "X has no anchor"),
        (LLM_GRPO, Anchor(estimator="exact"), "GRPO cannot anchor with the estimator 'exact'"),
        (LLM_GRPO, Anchor(term="bc"), "'bc'"),
        (CONTROL_SAC, Anchor(reference="synced", every=5), "'synced'"),
        (Capabilities(), Replay(weight=1.0), "imitation loss"),
        (Capabilities(), Replay(share=0.5), "mix data"),
        (CONTROL_SAC, Replay(weight=1.0, token_weight="dft"), "'dft'"),
        (CONTROL_SAC, Replay(share=0.5, gate="map"), "gate"),
        (Capabilities(), Warmup(), "no warm-up"),
        (LLM_GRPO, Reset(parts=("critic",)), "cannot reset 'critic'"),
        (
            dataclasses.replace(LLM_GRPO, reset_during=False),
            Reset(parts=("head",), every=9),
            "only before RL",
        ),
    ],
)
def test_what_a_learner_cannot_honour_is_refused_in_a_sentence(learner, intervention, sentence):
    (said,) = learner.unsupported(intervention(Plan()))
    assert sentence in said


def test_the_default_plan_asks_nothing_of_a_learner():
    assert Capabilities().supports(Plan())


def test_prescribing_needs_no_torch():
    code = "import posttrain.intervention.prescription, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
