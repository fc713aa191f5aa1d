from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from posttrain.regime.scores import Scores
from posttrain.report.measure import (
    BINS,
    by_unit,
    curve,
    mean_over_units,
    no_signal,
    pass_curve,
    running_median,
    unit_map,
)

rates = st.lists(
    st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=12
)  # fmt: skip


def _policy(won):
    flat = np.array(won, dtype=float)
    units = np.repeat([f"u{i:02d}" for i in range(len(won))], flat.shape[1])
    return by_unit(Scores(flat.ravel(), unit=units), cut=1.0)


@given(won=rates)
def test_groups_without_signal_are_those_that_an_enumeration_finds(won):
    silent = [len({*group}) == 1 for unit in won for group in combinations(unit, 3)]
    assert no_signal(_policy(won), 3) == pytest.approx(np.mean(silent))


@given(won=rates)
def test_the_pass_curve_ends_at_the_share_of_units_ever_solved_and_never_falls(won):
    found = pass_curve(_policy(won), np.random.default_rng(0), draws=50)
    assert found.k.tolist() == [1, 2, 4]
    assert found.value[0] == pytest.approx(np.mean(won))
    assert found.value[-1] == pytest.approx(np.mean([any(unit) for unit in won]))
    assert (np.diff(found.value) >= -1e-12).all()
    assert (found.low <= found.high).all()


def test_the_bootstrap_interval_of_pass_at_1_has_the_width_of_the_central_limit():
    rng = np.random.default_rng(1)
    won = rng.random((400, 4)) < rng.random((400, 1))
    found = pass_curve(_policy(won), np.random.default_rng(0))
    expected = 2 * 1.96 * won.mean(axis=1).std(ddof=1) / 20
    assert found.high[0] - found.low[0] == pytest.approx(expected, rel=0.12)


@given(won=rates, right=st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=12, max_size=12))
def test_every_shared_unit_is_in_one_place_of_the_map(won, right):
    right = right[: len(won)]
    lost = np.isnan(right)
    dataset = by_unit(
        Scores(right, unit=[f"u{i:02d}" for i in range(len(won))], unscorable=lost), cut=1.0
    )
    found = unit_map(_policy(won), dataset)
    assert found.table.sum() == found.units == len(won)
    for i, (tries, demo) in enumerate(zip(won, right, strict=True)):
        name = {(True, False): "keep", (True, True): "rl", (False, True): "drop"}.get(
            (demo == 1, any(tries)), "fix"
        )
        assert f"u{i:02d}" in found.cells[name]
    assert found.table[2].sum() == lost.sum()
    assert found.table[:, 0].sum() == sum(not any(tries) for tries in won)
    assert found.table[:, len(BINS) - 1].sum() == sum(all(tries) for tries in won)


def test_units_of_one_side_only_are_counted_and_left_out():
    policy = by_unit(Scores([1.0, 0.0, 1.0], unit=["a", "b", "c"]), cut=1.0)
    dataset = by_unit(Scores([1.0, 1.0], unit=["b", "z"]), cut=1.0)
    found = unit_map(policy, dataset)
    assert (found.units, found.without_demonstration, found.without_rollout) == (1, 2, 1)


def test_the_mean_over_units_has_student_s_interval():
    values = np.random.default_rng(0).normal(size=23)
    found = mean_over_units(np.append(values, np.nan))
    low, high = stats.t.interval(0.95, 22, values.mean(), stats.sem(values))
    assert (found.low, found.high, found.units) == (pytest.approx(low), pytest.approx(high), 23)


def test_a_curve_averages_units_before_it_averages_the_step():
    found = curve([0, 0, 0, 5, 5], ["a", "a", "b", "a", "b"], [1.0, 1.0, 0.0, 0.2, 0.4])
    assert found.steps.tolist() == [0, 5]
    assert found.values == pytest.approx([0.5, 0.3])
    assert [p.units for p in found.points] == [2, 2]


def test_an_episode_succeeds_where_the_table_says_so_and_never_without_a_score():
    scores = Scores(
        [0.0, 1.0, np.nan], unit=["a", "b", "c"], success=[True, False, True],
        unscorable=[False, False, True],
    )  # fmt: skip
    assert by_unit(scores, cut=1.0).successes.tolist() == [1, 0, 0]


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=30), window=st.integers(1, 9))
def test_a_running_median_is_the_median_of_what_surrounds(values, window):
    half = window // 2
    wanted = [
        sorted(values[max(0, i - half) : i + half + 1]) for i in range(len(values))
    ]  # fmt: skip
    middle = [(w[len(w) // 2] + w[(len(w) - 1) // 2]) / 2 for w in wanted]
    assert running_median(np.array(values), window) == pytest.approx(middle)
