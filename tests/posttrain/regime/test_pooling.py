import numpy as np
import pytest

from posttrain.regime.pooling import pool, standard_errors
from posttrain.regime.sample import Pairing, Sample

ALPHA = 0.05


def drawn(returns):
    values = np.asarray(returns, dtype=float)
    return Sample(
        values, None, np.ones(values.size, dtype=int), np.unique(values).size < len(values)
    )


def benchmark(rng, rates, demonstrated, trials):
    """Observed gaps and pairings of one benchmark run of binary returns."""
    pairings = [
        Pairing(drawn(rng.random(trials) < p), drawn(rng.random(trials) < q), False, 0)
        for p, q in zip(rates, demonstrated, strict=True)
    ]
    gaps = np.array([x.policy.values.mean() - x.dataset.values.mean() for x in pairings])
    return gaps, standard_errors(pairings, alpha=ALPHA)


def near(mean, spread):
    return lambda rng: (np.clip(rng.normal(mean, spread, 10), 0, 1), np.full(10, 0.75))


def ceiling(rng):
    return rng.beta(38, 2, 10), np.ones(10)


@pytest.mark.parametrize(
    "draw", [near(0.6, 0.1), near(0.6, 0.0), ceiling], ids=["spread", "alike", "ceiling"]
)
def test_pooled_intervals_cover_on_average_and_pooling_lessens_errors(draw):
    rng = np.random.default_rng(7)
    beyond, raw, pooled = [], [], []
    for _ in range(120):
        rates, demonstrated = draw(rng)
        truth = rates - demonstrated
        gaps, errors = benchmark(rng, rates, demonstrated, 50)
        found = pool(gaps, errors, alpha=ALPHA)
        low, high = np.array(found.intervals).T
        beyond.append(((truth < low) | (truth > high)).mean())
        raw.append(((gaps - truth) ** 2).mean())
        pooled.append(((found.means - truth) ** 2).mean())
    assert np.mean(beyond) <= 2 * ALPHA + 0.04
    assert np.mean(pooled) < 0.9 * np.mean(raw)


def test_a_population_of_the_model_is_covered_at_the_nominal_rate():
    rng = np.random.default_rng(3)
    errors = np.full(10, 0.07)
    beyond = []
    for _ in range(250):
        truth = rng.normal(-0.1, 0.1, 10)
        low, high = np.array(pool(rng.normal(truth, errors), errors, alpha=ALPHA).intervals).T
        beyond.append(((truth < low) | (truth > high)).mean())
    assert 0.06 < np.mean(beyond) < 0.135


def test_one_task_apart_is_not_hidden():
    rng = np.random.default_rng(0)
    rates = np.array([0.95] * 9 + [0.5])
    gaps, errors = benchmark(rng, rates, np.ones(10), 200)
    found = pool(gaps, errors, alpha=ALPHA)
    assert found.intervals[-1].high < found.means[:-1].mean() - 0.2
    assert abs(found.means[-1] - gaps[-1]) < 0.03
    assert found.tau_interval.low > 0.05


def test_shuffled_tasks_are_not_told_apart():
    """Where task names mean nothing, the tasks' gaps are drawn together and cover the mean."""
    rng = np.random.default_rng(1)
    returns = rng.permutation(np.repeat([0.0, 1.0], [150, 350])).reshape(10, 50)
    pairings = [Pairing(drawn(r), drawn(np.ones(50)), False, 0) for r in returns]
    gaps = np.array([x.policy.values.mean() - 1 for x in pairings])
    found = pool(gaps, standard_errors(pairings, alpha=ALPHA), alpha=ALPHA)
    assert np.ptp(found.means) < 0.6 * np.ptp(gaps)
    assert all(low < gaps.mean() < high for low, high in found.intervals)
    assert found.tau < 0.06


def test_the_limits_are_no_pooling_and_full_pooling():
    gaps = np.array([-0.4, -0.1, 0.2, 0.5])
    sure = pool(gaps, np.full(4, 1e-3), alpha=ALPHA)
    np.testing.assert_allclose(sure.means, gaps, atol=1e-4)
    unsure = pool(gaps / 100, np.full(4, 1.0), alpha=ALPHA)
    assert np.ptp(unsure.means) < 0.2 * np.ptp(gaps / 100)


def test_a_task_that_says_nothing_follows_the_others():
    found = pool(np.array([9.0, -0.1, -0.12, -0.08]), np.array([np.inf, *[0.01] * 3]), alpha=ALPHA)
    assert found.means[0] == pytest.approx(-0.1, abs=0.01)
    wide, narrow = (i.high - i.low for i in found.intervals[:2])
    assert wide > narrow


def test_eight_schools():
    """A. Gelman et al., Bayesian Data Analysis, table 5.2: shrinks hard, towards about 8."""
    gaps = np.array([28, 8, -3, 7, -1, 1, 18, 12]) / 100
    errors = np.array([15, 10, 16, 11, 9, 11, 10, 18]) / 100
    found = pool(gaps, errors, alpha=0.025)
    assert found.means.argmax() == 0
    assert 0.08 < found.means[0] < 0.14
    assert 0.05 < found.means.min() < found.means.mean() < 0.1


def test_returns_that_never_fail_have_an_error_above_zero():
    sure = [Pairing(drawn(np.ones(50)), drawn(np.ones(50)), paired, 0) for paired in (False, True)]
    one, both = standard_errors(sure[:1], alpha=ALPHA), standard_errors(sure[1:], alpha=ALPHA)
    assert 0.01 < one[0] < 0.04
    assert 0.01 < both[0] < 0.04
    assert np.isinf(standard_errors(sure, alpha=ALPHA, bounded=False)).all()
