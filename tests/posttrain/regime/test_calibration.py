"""Wrong verdicts occur at most at rate alpha. The published table has more runs of the same."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import betaincinv, stdtrit

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from calibration import (
    WRONG,
    fixed_verdicts,
    peeking_verdicts,
    sequential_verdicts,
    student_interval,
)
from distributions import (
    LOGNORMAL_MEAN,
    MARGIN,
    all_right,
    bernoulli,
    clustered,
    gaussian,
    heavy,
    lognormal,
    shifted,
)

from posttrain.regime import gap, start
from posttrain.regime.gap import gap_interval

ALPHA = 0.05
RUNS = 1000
CASES = {
    "bernoulli 0.05": (bernoulli(0.05), True, 50),
    "bernoulli 0.5": (bernoulli(0.5), True, 200),
    "bernoulli 0.95 unmatched": (bernoulli(0.95), False, 20),
    "bernoulli 0.5 unmatched": (bernoulli(0.5), False, 50),
    "all demonstrations right": (all_right(), True, 200),
    "clustered": (clustered(0.5), True, 50),
    "gaussian": (shifted(gaussian, 0.5), True, 20),
    "gaussian unmatched": (shifted(gaussian, 0.5), False, 50),
    "heavy-tailed": (shifted(heavy, 0.5), True, 20),
    "log-normal": (shifted(lognormal, LOGNORMAL_MEAN), True, 20),
}


def wrong_shares(draw, judge, *, seed, units, runs=RUNS):
    """Share of each verdict that is false where the gap lies on the margin."""
    rng, shares = np.random.default_rng(seed), {}
    for at, names in WRONG.items():
        if at > 0 and draw is CASES["all demonstrations right"][0]:
            continue  # nothing is better than always right
        verdicts = judge(*draw(rng, at, (runs, units)))
        shares |= {(name, at): np.mean(verdicts == name) for name in names}
    return shares


def slack(level, runs=RUNS, tail=1e-3):
    """What a rate of exactly `level` stays below, but for one draw in a thousand."""
    k = np.arange(runs)
    return float(np.max(k[betaincinv(k + 1, runs - k, tail) < level]) + 1) / runs


def fixed_judge(*, paired, alpha=ALPHA, interval=None):
    bound = interval or (lambda pairing: gap_interval(pairing, alpha=alpha))
    return lambda policy, dataset: fixed_verdicts(policy, dataset, paired=paired, interval=bound)


@pytest.mark.parametrize("name", CASES)
def test_a_fixed_sample_errs_at_most_at_rate_alpha(name):
    draw, paired, units = CASES[name]
    shares = wrong_shares(draw, fixed_judge(paired=paired), seed=1, units=units)
    assert max(shares.values()) <= slack(ALPHA), shares


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[1]])
def test_looking_after_every_batch_errs_at_most_at_rate_alpha(name):
    draw = CASES[name][0]

    def judge(policy, dataset):
        return sequential_verdicts(policy - dataset, batch=8)[0]

    shares = wrong_shares(draw, judge, seed=2, units=400, runs=800)
    assert max(shares.values()) <= slack(ALPHA, 800), shares


def test_the_simulated_sequence_is_the_one_that_is_shipped():
    rng = np.random.default_rng(3)
    policy, dataset = bernoulli(0.5)(rng, 0.2, (12, 400))
    verdicts, stops = sequential_verdicts(policy - dataset, batch=8)
    for x, y, verdict, stop in zip(policy, dataset, verdicts, stops, strict=True):
        state = start()
        while not state.decided and state.units < 400:
            batch = slice(state.units, state.units + 8)
            state = state.update(x[batch], y[batch])
        assert (str(state.regime), state.units) == (verdict, stop)


def test_the_simulation_notices_a_doubled_alpha():
    draw, paired, units = CASES["gaussian"]
    shares = wrong_shares(draw, fixed_judge(paired=paired, alpha=2 * ALPHA), seed=1, units=units)
    assert max(shares.values()) > slack(ALPHA)


def test_the_simulation_notices_a_halved_variance(monkeypatch):
    draw, paired, units = CASES["gaussian unmatched"]
    honest = gap.stdtrit
    monkeypatch.setattr(gap, "stdtrit", lambda df, p: honest(df, p) / np.sqrt(2))
    shares = wrong_shares(draw, fixed_judge(paired=paired), seed=1, units=units)
    assert max(shares.values()) > slack(ALPHA)


def test_the_simulation_notices_a_plain_t_test_of_rare_failures():
    draw = CASES["all demonstrations right"][0]
    judge = fixed_judge(paired=True, interval=student_interval)
    assert max(wrong_shares(draw, judge, seed=1, units=50).values()) > slack(ALPHA)


def test_looking_often_with_a_fixed_test_errs_too_often():
    shares = wrong_shares(
        CASES["gaussian"][0],
        lambda policy, dataset: peeking_verdicts(policy - dataset, batch=8),
        seed=2,
        units=400,
        runs=800,
    )
    assert max(shares.values()) > 2 * ALPHA


def test_large_gaps_cost_a_tenth_of_the_fixed_plan_and_middling_ones_half():
    rng = np.random.default_rng(4)
    draw = bernoulli(0.5)
    x, y = draw(rng, 2 * MARGIN, (200, 500))
    plan = (stdtrit(1e9, 0.95) + stdtrit(1e9, 0.9)) ** 2 * np.var(x - y) / MARGIN**2
    for at, most in ((0.3, 0.1), (0.15, 0.5)):
        x, y = draw(rng, at, (150, 3000))
        verdicts, stops = sequential_verdicts(x - y, batch=1)
        assert np.mean(stops) < most * plan
        assert np.mean(verdicts == "superior") > 0.95
