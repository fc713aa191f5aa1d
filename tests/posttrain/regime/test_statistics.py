import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from posttrain.regime import statistics
from posttrain.regime.statistics import (
    bootstrap_improvement,
    clopper_pearson,
    clustered_mean,
    iqm,
    pass_at_k,
    probability_of_improvement,
    stratified_bootstrap,
)

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_iqm_is_the_mean_trimmed_by_a_quarter_on_each_side(values):
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-6)


def test_iqm_of_a_table_pools_what_its_axes_name():
    scores = np.random.default_rng(0).normal(size=(3, 7, 5))
    assert iqm(scores, axis=(-2, -1)) == pytest.approx([iqm(table) for table in scores])
    assert iqm(scores, axis=1) == pytest.approx(stats.trim_mean(scores, 0.25, axis=1))


@given(st.lists(NUMBERS, min_size=2, max_size=20), st.floats(0.5, 0.999))
def test_without_units_the_interval_is_the_t_interval(values, level):
    found = clustered_mean(values, level=level)
    error = stats.sem(values)
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), error or 1e-300)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (np.mean(values), low, high), rel=1e-6, abs=1e-6
    )


def test_repeating_every_episode_of_a_unit_adds_no_certainty():
    values = np.random.default_rng(1).normal(size=12)
    once, thrice = (
        clustered_mean(np.repeat(values, k), np.repeat(np.arange(12), k)) for k in (1, 3)
    )
    assert thrice.low == pytest.approx(once.low)
    assert thrice.units == 12
    assert clustered_mean(np.repeat(values, 3)).error < 0.7 * once.error


def test_clustered_intervals_cover_and_plain_ones_do_not():
    rng = np.random.default_rng(2)
    covered = {"clustered": 0, "plain": 0}
    unit = np.repeat(np.arange(25), 8)
    for _ in range(400):
        values = rng.normal(size=25)[unit] + rng.normal(size=200)
        for name, found in (
            ("clustered", clustered_mean(values, unit)),
            ("plain", clustered_mean(values)),
        ):
            covered[name] += found.low <= 0 <= found.high
    assert 0.92 <= covered["clustered"] / 400 <= 0.98
    assert covered["plain"] / 400 < 0.75


def test_what_a_mean_cannot_know_is_nan_or_as_wide_as_its_bounds_allow():
    alone = clustered_mean([0.0, 1.0], ["a", "a"])
    assert alone.mean == 0.5
    assert math.isnan(alone.error)
    assert math.isnan(alone.low)
    failures = clustered_mean(np.zeros(20), bounds=(0.0, 1.0))
    assert (failures.low, failures.high) == pytest.approx(clopper_pearson(0, 20))
    with pytest.raises(ValueError, match="values must not be empty"):
        clustered_mean([])
    with pytest.raises(ValueError, match="values must be finite, got nan"):
        clustered_mean([0.0, math.nan])
    with pytest.raises(ValueError, match="one for each of 2 values"):
        clustered_mean([0.0, 1.0], ["a"])


def naive_bootstrap(scores, statistic, rng, resamples):
    runs, tasks = scores.shape
    for _ in range(resamples):
        columns = [scores[rng.integers(runs, size=runs), task] for task in range(tasks)]
        yield statistic(np.stack(columns, axis=1))


def test_the_bootstrap_agrees_with_a_loop_over_tasks():
    scores = np.random.default_rng(3).exponential(size=(6, 4)) + np.arange(4)
    found = stratified_bootstrap(scores, rng=np.random.default_rng(4), resamples=20_000)
    naive = [*naive_bootstrap(scores, iqm, np.random.default_rng(5), 4_000)]
    assert found.point == iqm(scores)
    assert (found.low, found.high) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.02)


def test_runs_never_cross_tasks():
    scores = np.tile([0.0, 5.0, 9.0], (4, 1))
    found = stratified_bootstrap(scores, np.mean, rng=np.random.default_rng(0), resamples=50)
    assert found.low == found.high == pytest.approx(14 / 3)


def test_a_seed_repeats_a_bootstrap_and_chunks_hold_any_number_of_resamples(monkeypatch):
    scores = np.random.default_rng(6).normal(size=(5, 3))
    first, second = (
        stratified_bootstrap(scores, np.median, rng=np.random.default_rng(7), resamples=101)
        for _ in range(2)
    )
    assert first == second
    monkeypatch.setattr(statistics, "CHUNK", 15 * 10)
    sizes = []

    def count(values, *, axis):
        sizes.append(values.shape)
        return np.median(values, axis=axis)

    stratified_bootstrap(scores, count, rng=np.random.default_rng(7), resamples=101)
    assert sum(shape[0] for shape in sizes if len(shape) == 3) == 101
    assert max(math.prod(shape) for shape in sizes) <= 150


def test_a_single_run_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 runs"):
        stratified_bootstrap([[1.0, 2.0]], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 2 runs each, got 1 and 2"):
        bootstrap_improvement([[1.0]], [[1.0], [2.0]], rng=np.random.default_rng(0))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_the_probability_of_improvement_is_mann_whitneys_u(x, y):
    u = stats.mannwhitneyu(x, y, method="asymptotic").statistic if len({*x, *y}) > 1 else None
    expected = 0.5 if u is None else u / (len(x) * len(y))
    column = np.array(x, dtype=float)[:, None], np.array(y, dtype=float)[:, None]
    assert probability_of_improvement(*column) == pytest.approx(expected)
    assert probability_of_improvement(*column[::-1]) == pytest.approx(1 - expected)


def test_the_interval_of_an_improvement_agrees_with_a_loop():
    rng = np.random.default_rng(8)
    x, y = rng.normal(0.4, 1, (9, 3)), rng.normal(0, 1, (7, 3))
    found = bootstrap_improvement(x, y, rng=np.random.default_rng(9))
    naive = [
        probability_of_improvement(
            np.stack([x[rng.integers(9, size=9), t] for t in range(3)], axis=1),
            np.stack([y[rng.integers(7, size=7), t] for t in range(3)], axis=1),
        )
        for _ in range(2_000)
    ]
    assert found.point == pytest.approx(probability_of_improvement(x, y))
    assert (found.low, found.high) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.02)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = [*combinations([True] * c + [False] * (n - c), k)]
    assert pass_at_k([n], [c], k)[0] == pytest.approx(np.mean([any(s) for s in subsets]))


def test_pass_at_k_is_exact_where_factorials_overflow():
    n, c, k = 10**6, 3, 1_000
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-9)


def test_pass_at_k_of_too_few_samples_is_not_known():
    assert np.isnan(pass_at_k([3, 4], [3, 4], 4)).tolist() == [True, False]
    with pytest.raises(ValueError, match="successes must not exceed samples, got 3 of 2"):
        pass_at_k([5, 2], [1, 3], 1)
    with pytest.raises(ValueError, match="k must be a whole number >= 1, got 0"):
        pass_at_k([5], [1], 0)
    with pytest.raises(ValueError, match="samples must be whole numbers"):
        pass_at_k([5.5], [1], 1)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_agrees_with_scipy(successes, failures, level):
    trials = successes + failures
    found = clopper_pearson(successes, trials, level=level)
    if trials == 0:
        assert found == (0.0, 1.0)
    else:
        exact = stats.binomtest(successes, trials).proportion_ci(level, method="exact")
        assert found == pytest.approx((exact.low, exact.high), abs=1e-9)
