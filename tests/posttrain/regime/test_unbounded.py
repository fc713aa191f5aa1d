"""Returns that nothing bounds: scaled by two references, they fall outside."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posttrain.regime import Diagnosis, Regime, Scores, diagnose, diagnose_sequential

D4RL = (-20.272305, 3234.3)


def kinds(diagnosis):
    return [flag.kind for flag in diagnosis.flags]


def unbounded(policy, dataset, **settings):
    return diagnose(policy, dataset, bounded=False, **settings)


def test_returns_beyond_the_expert_are_diagnosed_where_bounds_refuse_them():
    rng = np.random.default_rng(0)
    policy, dataset = rng.normal(3500, 100, 40), rng.normal(1400, 200, 60)
    with pytest.raises(ValueError, match="outside"):
        diagnose(policy, dataset, scale=D4RL)
    found = unbounded(policy, dataset, scale=D4RL)
    assert found.regime is Regime.SUPERIOR
    assert found.j_policy == pytest.approx(policy.mean())
    assert found.j_policy_interval.high > D4RL[1]
    assert found.gap == pytest.approx((policy.mean() - dataset.mean()) / (D4RL[1] - D4RL[0]))


def test_the_interval_is_welchs():
    rng = np.random.default_rng(1)
    policy, dataset = rng.normal(2.0, 0.5, 30), rng.normal(-1.0, 1.5, 50)
    ends = stats.ttest_ind(policy, dataset, equal_var=False).confidence_interval(0.9)
    found = unbounded(policy, dataset)
    assert found.interval == pytest.approx((ends.low, ends.high))
    assert found.test == "welch"
    own = stats.t.interval(0.95, 29, policy.mean(), stats.sem(policy))
    assert found.j_policy_interval == pytest.approx(own)


def test_paired_returns_are_compared_by_their_differences():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 100, 25)
    units = [f"u{i}" for i in range(25)]
    policy = Scores(hard + 3 + rng.normal(0, 0.5, 25), unit=units)
    found = unbounded(policy, Scores(hard, unit=units))
    ends = stats.ttest_1samp(policy.returns - hard, 0).confidence_interval(0.9)
    assert found.interval == pytest.approx((ends.low, ends.high))
    assert (found.test, found.regime) == ("paired", Regime.SUPERIOR)


@settings(max_examples=25)
@given(
    st.floats(-5, 5),
    st.lists(st.floats(-5, 5), min_size=2, max_size=30),
    st.integers(2, 200),
)
def test_returns_without_variance_never_decide(constant, others, count):
    for sides in (([constant] * count, others), (others, [constant] * count)):
        found = unbounded(*sides)
        low, high = found.interval
        assert found.regime is Regime.UNDECIDED
        assert low <= found.gap <= high
        assert "no_variance" in kinds(found)
        assert found.needed is None
        assert "cannot be tested" in found.sentence


def test_differences_without_variance_never_decide():
    units = [f"u{i}" for i in range(50)]
    ahead = np.arange(50.0)
    found = unbounded(Scores(ahead + 2, unit=units), Scores(ahead, unit=units))
    assert found.regime is Regime.UNDECIDED
    assert "no_variance" in kinds(found)


def test_discrete_returns_are_flagged_since_no_exact_test_is_left():
    rng = np.random.default_rng(3)
    policy, dataset = (rng.integers(0, 4, 80) * 1.0 for _ in range(2))
    assert "unbounded" in kinds(unbounded(policy, dataset, scale=(0, 3)))
    smooth = rng.normal(size=(2, 80))
    assert "unbounded" not in kinds(unbounded(*smooth))


def test_an_expert_that_is_reached_is_neither_a_ceiling_nor_a_success():
    rng = np.random.default_rng(4)
    units = [f"u{i}" for i in range(30)]
    policy, dataset = (Scores(rng.normal(1.3, 0.1, 30), unit=units) for _ in range(2))
    found = unbounded(policy, dataset)
    assert not {"both_near_ceiling", "success_filtered"} & set(kinds(found))
    assert found.recoverability is None
    won = replace(policy, success=np.ones(30, dtype=bool))
    assert unbounded(won, dataset).recoverability.always == 1.0


def test_below_the_random_policy_is_near_zero():
    rng = np.random.default_rng(5)
    found = unbounded(rng.normal(-0.2, 0.1, 30), rng.normal(-0.5, 0.1, 30))
    assert "both_near_zero" in kinds(found)


def test_the_deployment_may_lie_outside_too():
    rng = np.random.default_rng(6)
    policy, dataset, deployed = (rng.normal(mean, 0.1, 30) for mean in (1.5, 0.0, 4.0))
    (_, other) = unbounded(policy, dataset, deployment=deployed).decodings
    assert other.gap > 3
    assert other.interval.high > other.gap


def test_the_sequential_test_refuses():
    with pytest.raises(ValueError, match="lowest and a highest"):
        diagnose_sequential([0.0, 1.0], [0.0, 1.0], bounded=False)


def test_a_record_from_before_there_was_a_choice_is_bounded():
    found = diagnose([0.0, 1.0] * 20, [1.0] * 40)
    old = {key: value for key, value in found.to_dict().items() if key != "bounded"}
    assert Diagnosis.from_dict(old) == found
    other = unbounded([0.0, 0.5, 1.3], [4.0, 3.0, 5.2])
    assert Diagnosis.from_json(other.to_json()) == other
    with pytest.raises(ValueError, match="bounded must be true or false"):
        Diagnosis.from_dict(found.to_dict() | {"bounded": 1})


@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_a_wrong_verdict_is_as_rare_as_alpha_says(mean):
    """Normal returns whose gap lies on the margin: each verdict there is an error."""
    rng = np.random.default_rng(7)
    runs, wrong = 400, 0
    for _ in range(runs):
        policy, dataset = rng.normal(mean + 0.3, 1, 20), rng.normal(mean, 0.5, 30)
        wrong += unbounded(policy, dataset, margin=0.3).regime is Regime.SUPERIOR
    assert wrong / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert wrong > 0
