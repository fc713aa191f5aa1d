"""Winners and gaps over seeds, by hand, by law and by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from posttrain.regime.bounded import lower_bound
from posttrain.regime.verdict import Regime
from posttrain.study.contest import cross_fitted, judge, naive, paired_gap, regime_gap

TEST = {"margin": 0.05, "alpha": 0.05}
REGIMES = (Regime.SUPERIOR, Regime.COMPARABLE, Regime.INFERIOR)


def arms(**values):
    return {name: np.array(numbers) for name, numbers in values.items()}


def test_two_steps_on_the_ordered_scale_are_opposite():
    table = [[judge(predicted, found) for found in REGIMES] for predicted in REGIMES]
    assert table == [
        ["correct", "adjacent", "opposite"],
        ["adjacent", "correct", "adjacent"],
        ["opposite", "adjacent", "correct"],
    ]


def test_differences_with_spread_are_tested_by_t():
    differences = [0.3, 0.5, 0.4, 0.45, 0.35]
    found = paired_gap(differences, **TEST)
    want = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert found.interval == pytest.approx((want.low, want.high))
    assert (found.gap, found.regime, found.seeds) == (pytest.approx(0.4), Regime.SUPERIOR, 5)


def test_differences_without_spread_leave_an_honest_doubt():
    found = paired_gap([1.0] * 5, **TEST)
    want = lower_bound(np.array([1.0]), np.array([5.0]), alpha=0.05, bottom=-1.0)
    assert found.interval.low == pytest.approx(want)
    assert want == pytest.approx(2 * 0.05 ** (1 / 5) - 1, abs=1e-6)
    assert paired_gap([1.0] * 2, **TEST).regime is Regime.UNDECIDED
    assert paired_gap([1.0] * 2, **TEST).label is Regime.COMPARABLE
    assert paired_gap([1.0], **TEST) is None


def test_without_bounds_there_is_no_exact_test():
    skewed = [0.0, 0.0, 0.01, 0.0, 3.0]
    found = paired_gap(skewed, bounded=False, **TEST)
    want = stats.ttest_1samp(skewed, 0).confidence_interval(0.9)
    assert found.interval == pytest.approx((want.low, want.high))
    assert paired_gap([2.0] * 5, bounded=False, **TEST).regime is Regime.UNDECIDED
    policies = [np.array([1.2, 1.4]), np.array([1.5, 1.5]), np.array([1.3, 1.2])]
    data = [np.array([-0.1, 0.0, 0.1])] * 3
    wide = regime_gap(policies, data, bounded=False, **TEST)
    want = stats.ttest_ind([1.3, 1.5, 1.25], data[0], equal_var=False).confidence_interval(0.9)
    assert wide.interval == pytest.approx((want.low, want.high))


def test_rounding_is_no_spread():
    differences = np.array([0.9, 0.7]) - np.array([0.5, 0.3])
    assert np.ptp(differences) > 0
    assert paired_gap(differences, **TEST).regime is Regime.UNDECIDED


def test_the_halves_choose_for_each_other():
    """Seeds 0, 2 like arm a, seeds 1, 3 like arm b, so that each half is judged by the other's."""
    pi0 = arms(a=[0.9, 0.1, 0.9, 0.1], b=[0.2, 0.6, 0.2, 0.6])
    data = arms(r=[0.5, 0.5, 0.5, 0.4])
    found = cross_fitted(pi0, data, **TEST)
    assert found.pi0_arms == ("b", "a")  # even seeds are judged by the odd ones' choice
    assert found.data_arms == ("r", "r")
    assert found.found.gap == pytest.approx((-0.3 + -0.4 + -0.3 + -0.3) / 4)
    plain = naive(pi0, data, **TEST)
    assert plain.pi0_arms == ("a",)
    assert plain.found.gap == pytest.approx((0.4 - 0.4 + 0.4 - 0.3) / 4)


def test_a_family_without_an_arm_has_no_contest():
    some = arms(a=[0.1, 0.2])
    for contest in (naive, cross_fitted):
        assert contest({}, some, **TEST) is None
        assert contest(some, {}, **TEST) is None
    assert cross_fitted(arms(a=[0.1]), arms(b=[0.1]), **TEST) is None


numbers = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@given(a=numbers, b=numbers, c=numbers)
def test_swapping_the_families_mirrors_the_contest(a, b, c):
    one, two = arms(a=a, b=b), arms(c=c)
    for contest in (naive, cross_fitted):
        there, back = contest(one, two, **TEST), contest(two, one, **TEST)
        assert there.found.gap == pytest.approx(-back.found.gap)
        assert there.found.interval == pytest.approx(
            tuple(-end for end in back.found.interval[::-1]), abs=1e-6
        )
        assert (there.pi0_arms, there.data_arms) == (back.data_arms, back.pi0_arms)


@given(a=numbers, b=numbers)
def test_one_arm_a_family_needs_no_cross_fitting(a, b):
    assert (
        cross_fitted(arms(a=a), arms(b=b), **TEST).found
        == naive(arms(a=a), arms(b=b), **TEST).found
    )


def test_the_winners_curse_is_in_the_naive_gap_and_not_in_the_cross_fitted_one():
    """Eight arms against one, all of the same worth: who chooses on the seeds that it is judged
    on sees a gap."""
    rng = np.random.default_rng(0)
    gaps = {naive: [], cross_fitted: []}
    for _ in range(400):
        values = rng.normal(0.5, 0.1, (9, 6))
        many = {f"a{i}": row for i, row in enumerate(values[1:])}
        for contest, found in gaps.items():
            found.append(contest(many, {"r": values[0]}, **TEST).found.gap)
    error = np.std(gaps[cross_fitted]) / 20
    assert abs(np.mean(gaps[cross_fitted])) < 3 * error
    assert np.mean(gaps[naive]) > 10 * error


def test_a_shared_dataset_is_the_other_sample_and_seeds_are_units():
    rng = np.random.default_rng(0)
    data = rng.normal(0.3, 0.02, 100)
    policies = [np.full(50, mean) for mean in (0.6, 0.7, 0.65, 0.72)]
    found = regime_gap(policies, [data] * 4, **TEST)
    want = stats.ttest_ind([0.6, 0.7, 0.65, 0.72], data, equal_var=False).confidence_interval(0.9)
    assert found.interval == pytest.approx((want.low, want.high))
    assert (found.regime, found.seeds) == (Regime.SUPERIOR, 4)


def test_datasets_of_their_own_make_pairs():
    datasets = [np.array([0.1, 0.3]), np.array([0.4, 0.4]), np.array([0.6, 0.7])]
    policies = [np.array([0.5, 0.7]), np.array([0.85, 0.8]), np.array([1.0, 0.98])]
    found = regime_gap(policies, datasets, **TEST)
    want = paired_gap([0.4, 0.425, 0.34], **TEST)
    assert found.interval == pytest.approx(want.interval)
    assert regime_gap(policies[:1], datasets[:1], **TEST) is None


def test_episodes_of_one_seed_are_no_evidence_about_another():
    """Two seeds that differ wildly decide nothing, however many episodes each has."""
    policies = [np.zeros(1_000), np.ones(1_000)]
    assert regime_gap(policies, [np.full(500, 0.2)] * 2, **TEST).regime is Regime.UNDECIDED
