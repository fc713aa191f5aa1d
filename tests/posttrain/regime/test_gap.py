import numpy as np
import pytest
from scipy.stats import beta, ttest_1samp, ttest_ind

from posttrain.regime.gap import gap_interval, is_regular, mean_interval, stricter, units_needed
from posttrain.regime.sample import Pairing, pair, sample
from posttrain.regime.scores import Scores
from posttrain.regime.verdict import Regime, decide


def pairing(policy, dataset, *, paired):
    sides = (sample(policy, side="policy", scale=None), sample(dataset, side="dataset", scale=None))
    return Pairing(*sides, paired=paired, left_out=0)


def regular(rng, mean, sd, size):
    """A normal sample that does not look skewed by chance."""
    while not is_regular(drawn := rng.normal(mean, sd, size), tied=False):
        pass
    return drawn


def test_unmatched_regular_returns_get_welchs_interval():
    rng = np.random.default_rng(0)
    policy, dataset = regular(rng, 0.6, 0.05, 30), regular(rng, 0.4, 0.1, 17)
    found = gap_interval(pairing(policy, dataset, paired=False), alpha=0.05)
    wanted = ttest_ind(policy, dataset, equal_var=False).confidence_interval(0.9)
    assert found == pytest.approx((wanted.low, wanted.high))


def test_matched_regular_returns_get_the_t_interval_of_their_differences():
    rng = np.random.default_rng(1)
    dataset = rng.normal(0.4, 0.1, 30)
    policy = dataset + regular(rng, 0.2, 0.05, 30)
    found = gap_interval(pairing(policy, dataset, paired=True), alpha=0.05)
    wanted = ttest_1samp(policy - dataset, 0).confidence_interval(0.9)
    assert found == pytest.approx((wanted.low, wanted.high))


def test_several_episodes_of_a_unit_count_as_one_observation():
    rng = np.random.default_rng(2)
    dataset = rng.normal(0.4, 0.05, 30)
    means = dataset + regular(rng, 0.2, 0.05, 30)
    units = [f"u{i}" for i in range(30)]
    spread = np.concatenate([means - 0.01, means + 0.01, means])
    noisy = spread + np.tile(rng.normal(0, 1e-12, 90), 1)
    many = pair(
        sample(Scores(noisy, unit=units * 3), side="policy", scale=None),
        sample(Scores(dataset, unit=units), side="dataset", scale=None),
    )
    assert many.paired
    assert many.policy.episodes == 90
    wanted = ttest_1samp(means - dataset, 0).confidence_interval(0.9)
    assert gap_interval(many, alpha=0.05) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_matched_failures_against_perfect_demonstrations_get_the_exact_lower_bound():
    policy = np.array([1.0] * 17 + [0.0] * 3)
    found = gap_interval(pairing(policy, np.ones(20), paired=True), alpha=0.05)
    assert found.low == pytest.approx(beta.ppf(0.05, 17, 4) - 1, abs=1e-7)
    # Upwards one failure of the dataset, unseen so far, is allowed for.
    assert beta.ppf(0.95, 18, 3) - 1 < found.high < 0.1


def test_no_variance_is_not_certainty():
    perfect = gap_interval(pairing(np.ones(5), np.ones(5), paired=True), alpha=0.05)
    assert perfect.low == pytest.approx(0.05 ** (1 / 5) - 1, abs=1e-7)
    assert perfect.high == pytest.approx(1 - 0.05 ** (1 / 5), abs=1e-7)


def test_ties_and_skewness_rule_out_a_t_interval():
    rng = np.random.default_rng(3)
    normal = regular(rng, 0.5, 0.1, 60)
    assert not is_regular(normal, tied=True)
    assert not is_regular(np.exp(rng.normal(0, 1, 60)), tied=False)
    wide = mean_interval(normal, (0.0, 1.0), tied=True, alpha=0.05)
    tight = mean_interval(normal, (0.0, 1.0), tied=False, alpha=0.05)
    assert wide.low < tight.low < tight.high < wide.high


def test_the_planned_number_of_units_decides_with_power():
    rng = np.random.default_rng(4)
    seen = pairing(regular(rng, 0.58, 0.09, 25), regular(rng, 0.5, 0.09, 25), paired=False)
    gap = seen.policy.values.mean() - seen.dataset.values.mean()
    spread = [side.values.std(ddof=1) for side in (seen.policy, seen.dataset)]
    further = units_needed(
        lambda times: gap_interval(seen, alpha=stricter(0.05), times=times), units=25, margin=0.05
    )
    assert further > 0
    n = 25 + further
    won = 0
    for _ in range(400):
        fresh = pairing(
            np.clip(rng.normal(0.5 + gap, spread[0], n), 0, 1),
            np.clip(rng.normal(0.5, spread[1], n), 0, 1),
            paired=False,
        )
        won += decide(gap_interval(fresh, alpha=0.05), 0.05) is Regime.SUPERIOR
    assert 0.72 < won / 400 < 0.90


def test_a_gap_on_the_margin_needs_more_units_than_there_are():
    policy = np.array([0.0] * 9 + [1.0] * 11)
    dataset = np.array([0.0] * 10 + [1.0] * 10)
    on_margin = pairing(policy, dataset, paired=False)
    interval = lambda times: gap_interval(on_margin, alpha=0.05, times=times)  # noqa: E731
    assert units_needed(interval, units=20, margin=0.05) is None
