import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.regime import Diagnosis, Interval, Regime, Scores, diagnose_sequential, start
from posttrain.regime.betting import fractions, log_capital, lower_bound


def scores(returns):
    return Scores(np.asarray(returns, dtype=float), unit=[f"u{i:05d}" for i in range(len(returns))])


def one_sided(returns, *, alpha):
    values, counts = np.unique(returns, return_counts=True)
    return lower_bound(values, counts * 1.0, alpha=alpha, bets=fractions(0.05))


def follow(policy, dataset, *, batch, **settings):
    state = start(**settings)
    for at in range(0, len(policy), batch):
        state = state.update(policy[at : at + batch], dataset[at : at + batch])
        if state.decided:
            break
    return state


def test_capital_is_a_fair_game_by_hand():
    bets = np.array([0.5])
    values, once = np.array([0.0, 1.0]), np.array([1.0, 1.0])
    assert log_capital(values, once, at=0.5, bets=bets) == pytest.approx(np.log(1.5 * 0.5))
    # At p = at the expected capital of one more return is 1, whatever is bet.
    for bet in fractions(0.05):
        assert 0.3 * (1 + bet * (1 / 0.3 - 1)) + 0.7 * (1 - bet) == pytest.approx(1.0)


def test_the_bound_is_the_mean_that_the_capital_just_refutes():
    rng = np.random.default_rng(0)
    values, counts = np.unique(rng.binomial(8, 0.7, 60) / 8, return_counts=True)
    bets = fractions(0.05)
    low = lower_bound(values, counts, alpha=0.05, bets=bets)
    assert log_capital(values, counts, at=low, bets=bets) == pytest.approx(np.log(20), abs=1e-6)


@pytest.mark.parametrize(
    ("p", "q", "regime"),
    [(0.9, 0.4, Regime.SUPERIOR), (0.4, 0.9, Regime.INFERIOR), (0.99, 0.99, Regime.COMPARABLE)],
)
def test_clear_cases_are_decided_and_stay_so(p, q, regime):
    rng = np.random.default_rng(1)
    policy, dataset = (rng.random(3000) < p) * 1.0, (rng.random(3000) < q) * 1.0
    state = follow(policy, dataset, batch=8)
    assert state.regime is regime
    assert state.needed is None
    contrary = state.update(np.full(500, q), np.full(500, p))
    assert contrary.regime is regime


def test_large_gaps_take_a_few_dozen_units():
    rng = np.random.default_rng(2)
    units = [follow((rng.random(400) < 0.5) * 1.0, np.ones(400), batch=4).units for _ in range(40)]
    assert np.mean(units) < 25


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=4, max_size=40))
def test_batches_do_not_change_what_one_look_at_the_end_would_show(pairs):
    policy, dataset = np.array(pairs).T
    final = diagnose_sequential(policy_scores := scores(policy), scores(dataset)).interval
    state = start()
    for at in range(0, len(pairs), 3):
        state = state.update(policy[at : at + 3], dataset[at : at + 3])
    assert state.units == len(policy_scores)
    # Earlier looks can only have narrowed it.
    assert state.interval.low >= final.low - 1e-9
    assert state.interval.high <= final.high + 1e-9


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_swapping_the_sides_mirrors_the_interval(pairs):
    policy, dataset = np.array(pairs).T
    one = start().update(policy, dataset)
    other = start().update(dataset, policy)
    assert other.interval == pytest.approx((-one.interval.high, -one.interval.low), abs=1e-9)
    assert one.interval.low <= one.gap + 1e-9
    assert one.gap <= one.interval.high + 1e-9


def test_update_leaves_the_old_state_as_it_was():
    old = start(margin=0.1)
    new = old.update([1.0, 1.0], [0.0, 0.0])
    assert (old.units, new.units) == (0, 2)
    assert old.interval == (-1.0, 1.0)
    assert np.isnan(old.gap)
    assert old.needed is None


def test_needed_foretells_when_a_steady_sample_is_decided():
    rng = np.random.default_rng(3)
    policy, dataset = (rng.random(3000) < 0.75) * 1.0, (rng.random(3000) < 0.5) * 1.0
    early = start().update(policy[:60], dataset[:60])
    if not early.decided:
        again = int(np.ceil((early.units + early.needed) / 60))
        repeated = early
        for _ in range(again - 1):
            repeated = repeated.update(policy[:60], dataset[:60])
        assert repeated.decided


def test_the_full_diagnosis_carries_flags_and_survives_json():
    found = diagnose_sequential(scores([1.0, 0.0] * 60), scores([1.0] * 120))
    assert found.test == "sequential"
    assert found.regime is Regime.INFERIOR
    assert "success_filtered" in [flag.kind for flag in found.flags]
    assert Diagnosis.from_json(found.to_json()) == found


def test_what_earlier_looks_excluded_stays_excluded():
    policy, dataset = scores([1.0, 0.0] * 10), scores([1.0, 0.0] * 10)
    fresh = diagnose_sequential(policy, dataset)
    told = diagnose_sequential(policy, dataset, before=Interval(-0.04, 0.04))
    assert fresh.regime is Regime.UNDECIDED
    assert told.regime is Regime.COMPARABLE


def test_unmatched_units_cost_more_but_decide_too():
    rng = np.random.default_rng(4)
    policy, dataset = (rng.random(300) < 0.9) * 1.0, (rng.random(300) < 0.4) * 1.0
    matched, alone = (
        diagnose_sequential(scores(policy), scores(dataset)),
        diagnose_sequential(policy, dataset),
    )
    assert alone.regime is matched.regime is Regime.SUPERIOR
    assert np.ptp(alone.interval) > np.ptp(matched.interval)
    assert alone.interval.low == pytest.approx(
        one_sided(policy, alpha=0.025) - (1 - one_sided(1 - dataset, alpha=0.025))
    )


@pytest.mark.parametrize(
    ("policy", "dataset", "sentence"),
    [
        ([1.0], [1.0, 0.0], "got 1 of the policy and 2 of the dataset"),
        ([np.nan], [1.0], "return 1 of 1 is nan"),
        ([1.5], [1.0], r"outside \[0, 1\]"),
        ([], [], "there are no returns"),
    ],
)
def test_a_wrong_batch_is_refused(policy, dataset, sentence):
    with pytest.raises(ValueError, match=sentence):
        start().update(policy, dataset)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="margin must lie in"):
        start(margin=0.0)
    with pytest.raises(ValueError, match="alpha must lie in"):
        start(alpha=0.7)
