import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from posttrain.regime.bounded import lower_bound, mean_below, upper_bound


def binary(failures, successes):
    values, counts = np.array([0.0, 1.0]), np.array([failures, successes], dtype=float)
    return values[counts > 0], counts[counts > 0]


@pytest.mark.parametrize(("n", "wins"), [(2, 1), (5, 5), (5, 0), (20, 3), (50, 49), (1000, 950)])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.0065])
def test_binary_returns_get_the_bounds_of_clopper_and_pearson(n, wins, alpha):
    observed = binary(n - wins, wins)
    low = beta.ppf(alpha, wins, n - wins + 1) if wins else 0.0
    high = beta.ppf(1 - alpha, wins + 1, n - wins) if wins < n else 1.0
    assert lower_bound(*observed, alpha=alpha, bottom=0.0) == pytest.approx(low, abs=1e-7)
    assert upper_bound(*observed, alpha=alpha, top=1.0) == pytest.approx(high, abs=1e-7)


def test_the_distribution_is_that_of_dirichlet_weights():
    rng = np.random.default_rng(0)
    values = rng.beta(1, 4, 12) * 2 - 1
    weights = rng.dirichlet(np.ones(13), size=400_000)
    drawn = weights @ np.append(values, 1.0)
    for at in np.quantile(drawn, [0.01, 0.3, 0.9, 0.99]):
        exact = mean_below(values, np.ones(12), at=at, top=1.0)
        assert exact == pytest.approx(np.mean(drawn < at), abs=0.003)


def test_repeated_values_count_as_often_as_they_were_seen():
    values = np.array([0.1, 0.1, 0.1, 0.7])
    once = upper_bound(values, np.ones(4), alpha=0.05, top=1.0)
    counted = upper_bound(np.array([0.1, 0.7]), np.array([3.0, 1.0]), alpha=0.05, top=1.0)
    assert once == pytest.approx(counted, abs=1e-8)


def test_many_returns_give_the_normal_interval():
    values = np.random.default_rng(1).normal(0.5, 0.1, 20_000)
    bound = upper_bound(values, np.ones(values.size), alpha=0.05, top=1.0)
    assert bound - values.mean() == pytest.approx(1.645 * 0.1 / np.sqrt(20_000), rel=0.05)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0.01, 0.4))
def test_bounds_enclose_the_mean_and_mirror_each_other(returns, alpha):
    values, counts = np.unique(returns, return_counts=True)
    counts = counts.astype(float)
    low = lower_bound(values, counts, alpha=alpha, bottom=0.0)
    high = upper_bound(values, counts, alpha=alpha, top=1.0)
    assert -1e-6 <= low <= high <= 1 + 1e-6
    mirrored = upper_bound(1 - values, counts, alpha=alpha, top=1.0)
    assert low == pytest.approx(1 - mirrored, abs=1e-6)
    assert lower_bound(values, counts, alpha=alpha / 2, bottom=0.0) <= low + 1e-9
