"""Intervals that are looked at after every step, of a policy that keeps changing."""

import json
import math

import numpy as np
import pytest

from posttrain.regime.monitor import BETS, PRICES, Band, Tally, begin, windows

RUNS, STEPS, UNITS, SAMPLES = 500, 200, 8, 4
ALPHA = 0.05


def follow(j, *, pi0=0.5, data=0.5, seed=0, alpha=ALPHA, window=20):
    """Watch 500 runs side by side; `j` is the policy's mean return at each step."""
    rng = np.random.default_rng(seed)
    prompts = rng.beta(2, 2, 400)  # mean 0.5: how hard each prompt is
    dataset = (rng.permutation(400) < data * 400).astype(float)
    before = rng.binomial(SAMPLES, np.clip(2 * pi0 * rng.beta(2, 2, (RUNS, 200)), 0, 1)) / SAMPLES
    watch = begin(steps=STEPS, window=window, alpha=alpha, pi0=before, dataset=dataset.mean())
    for step in range(STEPS):
        if step % (400 // UNITS) == 0:
            order = rng.permuted(np.tile(np.arange(400), (RUNS, 1)), axis=1)
        at = step % (400 // UNITS) * UNITS
        units = order[:, at : at + UNITS]
        chance = np.clip(2 * j(step) * prompts[units], 0, 1)
        watch = watch.update(rng.binomial(SAMPLES, chance) / SAMPLES, dataset[units])
        yield watch.reading()


def ever(found):
    return np.logical_or.reduce(list(found))


def test_a_policy_that_stays_raises_no_alarm_in_a_whole_run():
    """J(pi_n) = J(pi_0) = J(D): every claim would be wrong, after each of 200 looks."""
    alarms = ever(r.dropped | r.passed | r.collapsed for r in follow(lambda _: 0.5))
    assert alarms.mean() <= ALPHA


def test_a_fixed_interval_at_every_look_would_raise_many():
    """The negative control: what the watch is for. The same rollouts, a t interval each step."""
    rng = np.random.default_rng(1)
    rolled = rng.binomial(SAMPLES, 0.5, (RUNS, STEPS, UNITS)) / SAMPLES
    wrong = np.zeros(RUNS, dtype=bool)
    for step in range(19, STEPS):
        window = rolled[:, step - 19 : step + 1].reshape(RUNS, -1)
        error = window.std(axis=1, ddof=1) / np.sqrt(window.shape[1])
        wrong |= np.abs(window.mean(axis=1) - 0.5) > 1.96 * error
    assert wrong.mean() > 0.5


def test_a_real_drop_is_seen_soon_and_never_before():
    found = [r.dropped for r in follow(lambda step: 0.5 if step < 100 else 0.15)]
    first = np.argmax(found, axis=0)
    assert np.all(ever(found))
    assert np.mean(first >= 100) >= 1 - ALPHA
    assert np.median(first) <= 115


def test_passing_the_data_is_seen_and_approaching_it_is_not():
    passing = [r.passed for r in follow(lambda step: 0.4 + 0.002 * step, data=0.5)]
    assert ever(passing).mean() >= 0.95
    assert ever(passing[:50]).mean() <= ALPHA
    assert ever(r.passed for r in follow(lambda step: 0.3 + 0.001 * step)).mean() <= ALPHA


def test_losing_most_of_pi0_is_a_collapse_and_losing_a_third_is_not():
    assert ever(r.collapsed for r in follow(lambda step: 0.5 * 0.97**step)).mean() >= 0.95
    assert ever(r.collapsed for r in follow(lambda _: 0.33)).mean() <= ALPHA


def test_intervals_of_stability_and_plasticity_hold_together_with_all_others():
    def j(step):
        return 0.5 - 0.3 * math.exp(-(((step - 60) / 15) ** 2)) + 0.001 * step

    true = np.array([j(step) for step in range(STEPS)])
    wrong = np.zeros(RUNS, dtype=bool)
    for step, r in enumerate(follow(j, data=0.6)):
        means = [true[s : min(s + 20, step + 1)].mean() for s in range(0, max(r.start, 0) + 1, 10)]
        lost, learnt = min(means) - 0.6, max(means) - min(means)
        for band, value in ((r.stability, lost), (r.plasticity, learnt)):
            wrong |= (band.low > value + 1e-9) | (band.high < value - 1e-9)
        wrong |= (r.j.low > means[-1]) | (r.j.high < means[-1])
        wrong |= (r.gap.low > means[-1] - 0.6) | (r.gap.high < means[-1] - 0.6)
    assert wrong.mean() <= ALPHA
    assert np.median(r.stability.high) < 0  # and they say something
    assert np.median(r.plasticity.low) > 0.05


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
def test_an_end_is_wrong_no_more_often_than_its_alpha_at_any_look(chance):
    """At so large an alpha the bound is nearly used up: a smaller price would break it."""
    rng = np.random.default_rng(2)
    tally, wrong = Tally(), np.zeros((2, 2000), dtype=bool)
    for _ in range(300):
        tally = tally.add(rng.binomial(1, chance, (2000, 10)).astype(float))
        band = tally.band(0.5)
        wrong |= np.array([band.low > chance, band.high < chance])
    assert (wrong.mean(axis=1) <= 0.5).all()
    assert wrong.mean() > 0.02


def test_the_exponential_is_a_supermartingale_for_any_mean_and_guess():
    """E exp(b (X - m) - psi(b) (X - x)^2) <= 1 for X in {0, 1}, the worst case."""
    m, x = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    for b, price in zip(BETS, PRICES, strict=True):
        for sign in (1, -1):
            heads = np.exp(sign * b * (1 - m) - price * (1 - x) ** 2)
            tails = np.exp(-sign * b * m - price * x**2)
            assert (m * heads + (1 - m) * tails <= 1 + 1e-12).all()


def test_bets_against_a_mean_that_answers_to_them_grow():
    """Why the ends are no products of bets: two flips of a mean that falls after heads."""
    c, grown = 0.1, 0.0
    for heads, second in ((1, 0.0), (0, 1.0)):  # the second flip is certain
        mean = (0.5 + second) / 2
        grown += 0.5 * (1 + c * (heads - mean) / mean) * (1 + c * (second - mean) / mean)
    assert grown > 1


def test_an_end_by_hand():
    """Four times 1: the guesses are 1/2, 3/4, 5/6, 7/8."""
    tally = Tally().add(np.ones(4))
    spread = 1 / 4 + 1 / 16 + 1 / 36 + 1 / 64
    assert tally.spread == pytest.approx(spread)
    half = min(
        (math.log(5 / 0.1) + (-math.log(1 - b) - b) * spread) / (b * 4)
        for b in (0.05, 0.1, 0.2, 0.4, 0.8)
    )
    assert half > 1  # four units say nothing at this level
    assert tally.band(0.1) == Band(0.0, 1.0, 1.0)
    more = tally.add(np.ones(96)).band(0.1)
    assert 0.9 < more.low < 1.0


def test_a_tally_does_not_depend_on_how_the_stream_is_cut():
    values = np.random.default_rng(0).random(50)
    once = Tally().add(values)
    cut = Tally().add(values[:7]).add(values[7:7]).add(values[7:])
    assert cut.count == once.count
    assert cut.spread == pytest.approx(once.spread)


def test_the_windows_of_a_run_spend_no_more_than_alpha():
    for steps, window in ((200, 20), (7, 20), (13, 5), (5, 1)):
        watch = begin(steps=steps, window=window, alpha=0.05, pi0=[0.5])
        opened, held = set(), []
        for _ in range(steps):
            watch = watch.update([0.5], [0.5])
            opened |= {w.start for w in watch.open}
            held.append(watch.step - watch.reading().start)
        assert len(opened) == windows(steps, window)
        # two ends of J and two of the gap in each window, two of J(pi_0)
        assert 4 * len(opened) * watch.share + 2 * 0.05 / 6 == pytest.approx(0.05)
        assert max(held) <= window
        assert all(n >= min(step, window // 2) for step, n in enumerate(held, start=1))


def test_differences_pay_where_the_same_units_are_hard_for_both():
    rng = np.random.default_rng(3)
    hard = rng.integers(0, 2, (20, 40)).astype(float)
    watch = begin(steps=20, window=20, alpha=0.05, pi0=np.full(100, 0.5), dataset=0.5)
    for row in hard:
        watch = watch.update(row * 0.9, row)
    r = watch.reading()
    assert r.gap.high - r.gap.low < 0.8 * (r.j.high - r.j.low)
    assert r.gap.mid == pytest.approx((hard * 0.9 - hard).mean())


def test_what_is_remembered_goes_on_to_the_same_readings():
    rng = np.random.default_rng(4)

    def fresh():
        return begin(steps=30, window=6, alpha=0.05, pi0=[0.2, 0.9, 0.5], dataset=0.4)

    watch = fresh()
    for step in range(30):
        if step in (0, 1, 17):
            watch = fresh().go_on(json.loads(json.dumps(watch.to_dict())))
            copy = watch
        if step >= 17:
            assert repr(copy.reading()) == repr(watch.reading())
        values = rng.random(4)
        data = rng.random(4)
        if step >= 17:
            copy = copy.update(values, data)
        watch = watch.update(values, data)
    assert copy.to_dict() == watch.to_dict()


def test_nothing_is_certain_without_rollouts_or_data():
    watch = begin(steps=10, window=4, alpha=0.05, pi0=np.ones(500))
    assert tuple(watch.reading().j) == (0.0, 0.5, 1.0)
    watch = watch.update([])
    reading = watch.reading()
    assert tuple(reading.gap) == (-1.0, 0.0, 1.0)
    assert not any((reading.passed, reading.dropped, reading.collapsed))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"window": 0}, "window must be >= 1"),
        ({"alpha": 1.0}, "alpha must lie in"),
        ({"pi0": []}, "pi0 must hold returns"),
        ({"pi0": [1.5]}, "pi0 must hold returns"),
    ],
)
def test_bad_settings_are_refused_by_name(given, words):
    with pytest.raises(ValueError, match=words):
        begin(**{"steps": 10, "window": 4, "alpha": 0.05, "pi0": [0.5], **given})
