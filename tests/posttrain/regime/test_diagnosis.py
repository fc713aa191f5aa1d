import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.regime import Diagnosis, Flag, Regime, Scores, diagnose

RETURN_LISTS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=60)
MIRROR = {
    Regime.SUPERIOR: Regime.INFERIOR,
    Regime.INFERIOR: Regime.SUPERIOR,
    Regime.COMPARABLE: Regime.COMPARABLE,
    Regime.UNDECIDED: Regime.UNDECIDED,
}


def scores(returns, *, per_unit=1, **columns):
    units = [f"u{i // per_unit:04d}" for i in range(len(returns))]
    return Scores(np.asarray(returns, dtype=float), unit=units, **columns)


def kinds(diagnosis):
    return [flag.kind for flag in diagnosis.flags]


def text_of(diagnosis, kind):
    (flag,) = [flag for flag in diagnosis.flags if flag.kind == kind]
    return flag.text


@pytest.mark.parametrize(
    ("policy", "dataset", "regime"),
    [
        ([1.0] * 40, [0.0] * 40, Regime.SUPERIOR),
        ([0.0] * 40, [1.0] * 40, Regime.INFERIOR),
        ([1.0] * 100, [1.0] * 100, Regime.COMPARABLE),
        ([1.0] * 5, [1.0] * 5, Regime.UNDECIDED),
        ([1.0, 0.0] * 20, [1.0, 0.0] * 20, Regime.UNDECIDED),
    ],
)
def test_clear_cases_by_hand(policy, dataset, regime):
    assert diagnose(policy, dataset).regime is regime


@settings(max_examples=25)
@given(RETURN_LISTS, RETURN_LISTS)
def test_swapping_the_sides_mirrors_the_diagnosis(policy, dataset):
    one, other = diagnose(policy, dataset), diagnose(dataset, policy)
    assert other.regime is MIRROR[one.regime]
    assert other.gap == pytest.approx(-one.gap)
    assert other.interval == pytest.approx((-one.interval.high, -one.interval.low), abs=1e-6)


@settings(max_examples=25)
@given(RETURN_LISTS, RETURN_LISTS, st.floats(-50, 50), st.floats(0.1, 1000))
def test_the_reward_scale_does_not_matter(policy, dataset, low, width):
    plain = diagnose(policy, dataset)
    stretched = diagnose(
        low + width * np.array(policy),
        low + width * np.array(dataset),
        scale=(low, low + width + 1e-9),
    )
    assert stretched.interval == pytest.approx(plain.interval, abs=1e-5)
    assert stretched.j_policy == pytest.approx(low + width * plain.j_policy, rel=1e-6, abs=1e-6)


@settings(max_examples=25)
@given(RETURN_LISTS, RETURN_LISTS)
def test_a_diagnosis_survives_json(policy, dataset):
    units = [f"u{i}" for i in range(len(policy))]
    found = diagnose(Scores(np.array(policy), unit=units), dataset, deployment=dataset)
    assert Diagnosis.from_json(found.to_json()) == found


def test_a_smaller_alpha_never_decides_more():
    rng = np.random.default_rng(0)
    policy, dataset = rng.random(80) < 0.75, rng.random(80) < 0.5
    wide, narrow = (diagnose(policy * 1.0, dataset * 1.0, alpha=a) for a in (0.01, 0.1))
    assert wide.interval.low < narrow.interval.low
    assert narrow.interval.high < wide.interval.high


def test_matching_units_removes_the_noise_that_they_share():
    rng = np.random.default_rng(1)
    difficulty = rng.random(60)
    policy = (rng.random((60, 4)) < difficulty[:, None] * 0.7).ravel() * 1.0
    dataset = (rng.random((60, 4)) < difficulty[:, None]).ravel() * 1.0
    matched = diagnose(scores(policy, per_unit=4), scores(dataset, per_unit=4))
    alone = diagnose(scores(policy, per_unit=4), replace(scores(dataset, per_unit=4), unit=None))
    assert matched.test == "paired"
    assert alone.test == "welch"
    assert np.ptp(matched.interval) < np.ptp(alone.interval)
    assert (matched.units, matched.episodes_policy) == (60, 240)


def test_shuffled_rows_give_the_same_diagnosis():
    rng = np.random.default_rng(2)
    policy, dataset = scores(rng.random(40), per_unit=2), scores(rng.random(20))
    shuffled = policy.where(np.ones(40, dtype=bool))
    order = rng.permutation(40)
    shuffled = Scores(policy.returns[order], unit=policy.unit[order])
    one, other = diagnose(policy, dataset), diagnose(shuffled, dataset)
    assert other.interval == pytest.approx(one.interval)
    assert other.gap == pytest.approx(one.gap)


def test_partly_shared_units_are_paired_and_the_rest_is_counted():
    policy, dataset = scores([1.0, 0.0] * 15), scores([1.0] * 50)
    found = diagnose(policy, dataset)
    assert (found.units, found.units_dataset) == (30, 30)
    assert "20 units that only one side has" in text_of(found, "partly_paired")


def test_hardly_any_shared_unit_means_independent_samples():
    policy = Scores(np.ones(40), unit=[f"p{i}" for i in range(39)] + ["u0001"])
    found = diagnose(policy, scores([0.0] * 40))
    assert (found.units, found.units_dataset, found.test) == (40, 40, "exact")
    assert "unpaired" in kinds(found)


def test_the_papers_label_calls_too_little_evidence_comparable():
    undecided = diagnose([1.0, 0.0] * 5, [1.0, 0.0] * 5)
    assert undecided.regime is Regime.UNDECIDED
    assert undecided.paper_regime is Regime.COMPARABLE
    assert undecided.needed > 100
    clear = diagnose([1.0] * 40, [0.0] * 40)
    assert clear.paper_regime is clear.regime is Regime.SUPERIOR
    assert clear.needed is None


def test_the_deployment_decoding_is_reported_and_does_not_decide():
    dataset, rollout = scores([1.0] * 60), scores([0.0, 1.0] * 30)
    found = diagnose(rollout, dataset, deployment=scores([1.0] * 60))
    assert found.regime is Regime.INFERIOR
    assert [(gap.name, gap.regime) for gap in found.decodings] == [
        ("rollout", Regime.INFERIOR),
        ("deployment", Regime.COMPARABLE),
    ]
    assert "deployment: comparable at J(pi_0) = 1" in text_of(found, "decoding_changes_regime")
    assert diagnose(rollout, dataset).decodings == ()


def test_flags_say_what_the_returns_cannot():
    rng = np.random.default_rng(3)
    assert "both_near_zero" in kinds(diagnose([0.0] * 99 + [1.0], [0.0] * 100))
    assert "both_near_ceiling" in kinds(diagnose([1.0] * 99 + [0.0], [1.0] * 100))
    assert "few_units" in kinds(diagnose([0.0, 1.0] * 9, [0.0, 1.0] * 50))
    assert "success_filtered" in kinds(diagnose([0.0, 1.0] * 20, [1.0] * 40))
    assert kinds(diagnose(scores(rng.random(40)), scores(rng.random(40)))) == []
    mine = Flag("sft_not_converged", "The loss was still falling.")
    assert diagnose([0.5, 0.6], [0.5, 0.6], extra_flags=[mine]).flags[0] == mine


def test_unscorable_demonstrations_are_left_out_and_counted():
    lost = np.array([False] * 30 + [True] * 10)
    dataset = scores(np.where(lost, np.nan, 1.0), unscorable=lost)
    found = diagnose(scores([1.0, 0.0] * 20), dataset)
    assert found.units == 30
    assert found.j_dataset == 1.0
    text = text_of(found, "unscorable")
    assert "10 of 40 demonstrations" in text
    assert "make J(D) 0.75" in text


def test_truncated_and_seen_rollouts_are_counted():
    cut = np.arange(40) < 7
    policy = scores([1.0, 0.0] * 20, truncated=cut, split=["seen"] * 12 + ["heldout"] * 28)
    found = diagnose(policy, scores([1.0] * 40))
    assert text_of(found, "truncated").startswith("7 of 40 rollouts of pi_0")
    assert text_of(found, "seen_prompts").startswith("12 of 40")


def test_recoverability_by_hand():
    policy = scores([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], per_unit=4)
    found = diagnose(policy, [1.0] * 20).recoverability
    assert (found.k, found.always, found.sometimes, found.no_success) == (4, 1 / 3, 1 / 3, 1 / 3)
    assert found.pass_at[1] == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert found.pass_at[2] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.pass_at[4] == pytest.approx((1 + 1 + 0) / 3)
    assert found.no_signal is None


def test_groups_without_signal_are_counted_without_bias():
    rng = np.random.default_rng(4)
    p = rng.beta(0.5, 0.5, 3000)
    returns = (rng.random((3000, 12)) < p[:, None]).ravel() * 1.0
    found = diagnose(scores(returns, per_unit=12), [1.0] * 20).recoverability
    assert found.no_signal == pytest.approx(np.mean(p**8 + (1 - p) ** 8), abs=0.02)


def test_continuous_returns_have_no_success_to_count():
    rng = np.random.default_rng(5)
    policy = scores(rng.random(40), per_unit=2)
    assert diagnose(policy, rng.random(40)).recoverability is None
    told = replace(policy, success=policy.returns > 0.5)
    assert diagnose(told, rng.random(40)).recoverability is not None


@pytest.mark.parametrize(
    ("policy", "settings", "sentence"),
    [
        ([1.0], {}, "policy: a diagnosis needs at least 2 independent units, got 1"),
        ([], {}, "policy: there are no returns"),
        ([0.0, math.nan], {}, "policy: return 2 of 2 is nan"),
        ([0.0, math.inf], {}, "policy: return 2 of 2 is inf"),
        ([0.0, 3.0], {}, r"return 2 of 2 is 3, outside \[0, 1\]; state the reward's range"),
        ([0.0, 3.0], {"scale": (0, 2)}, r"outside \[0, 2\]; widen the scale"),
        ([[0.0, 1.0]], {}, r"must be a flat array \[n\], got shape \(1, 2\)"),
        ([0.0, 1.0], {"margin": 0.0}, r"margin must lie in \(0, 1\), got 0.0"),
        ([0.0, 1.0], {"margin": math.nan}, r"margin must lie in \(0, 1\), got nan"),
        ([0.0, 1.0], {"alpha": 0.5}, r"alpha must lie in \(0, 0.5\), got 0.5"),
        ([0.0, 1.0], {"scale": (1, 1)}, r"scale must be \(low, high\)"),
        (scores([1.0] * 4, per_unit=4), {}, r"got 1 \(4 episodes\)"),
        (scores([1.0] * 4, source=["dataset"] * 4), {}, "check that the two sides are not swapped"),
    ],
)
def test_what_makes_no_diagnosis_is_refused_with_a_sentence(policy, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        diagnose(policy, [0.0, 1.0], **settings)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"surplus": 1}, "unknown key 'surplus'"),
        ({"regime": "sublime"}, "diagnosis.regime must be one of"),
        ({"units": 2.5}, "diagnosis.units must be a whole number, got 2.5"),
        ({"gap": "0.1"}, "diagnosis.gap must be a finite number, got '0.1'"),
        ({"gap": None}, "diagnosis.gap must be a finite number, got None"),
        ({"interval": [0.0]}, "diagnosis.interval must be a list of 2"),
        ({"flags": [{"kind": "x"}]}, r"diagnosis.flags\[0\] lacks the key 'text'"),
        ({"test": True}, "diagnosis.test must be one of"),
    ],
)
def test_a_damaged_record_is_refused_by_the_path_of_the_damage(change, sentence):
    plain = json.loads(diagnose([1.0] * 9, [0.0] * 9).to_json())
    with pytest.raises(ValueError, match=sentence):
        Diagnosis.from_dict(plain | change)
    with pytest.raises(ValueError, match="lacks the key 'regime'"):
        Diagnosis.from_dict({key: value for key, value in plain.items() if key != "regime"})


def test_the_sentence_names_the_verdict_and_its_numbers():
    assert str(diagnose([0.0, 1.0] * 40, [1.0] * 80)) == (
        "Inferior: the pretrained policy is worse than its dataset by more than 0.05; "
        "J(pi_0) = 0.5, J(D) = 1, gap -0.500 (90 % interval -0.597 to -0.396) over 80 units."
    )
    assert "further units would decide" in diagnose([0.0, 1.0] * 5, [0.0, 1.0] * 5).sentence


def test_what_the_caller_knows_is_not_said_twice():
    known = Flag("success_filtered", "Of 40 episodes 12 that succeed were kept.")
    found = diagnose([0.0, 1.0] * 20, [1.0] * 12, extra_flags=[known])
    assert text_of(found, "success_filtered") == known.text
    assert "success_filtered" in kinds(diagnose([0.0, 1.0] * 20, [1.0] * 12))
