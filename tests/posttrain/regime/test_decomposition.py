import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.regime.decomposition import Decomposition, decompose
from posttrain.regime.evaluation import Evaluations, from_episodes, from_errors
from posttrain.regime.noise import Windows, smooth

CURVES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


def rng(seed=0):
    return np.random.default_rng(seed)


@given(CURVES, st.none() | st.floats(-100, 100), st.none() | st.floats(0, 10))
@settings(max_examples=60)
def test_prior_stability_and_plasticity_add_up_to_the_best(curve, dataset, error):
    errors = None if error is None else [error] * len(curve)
    found = decompose(curve, prior_dataset=dataset, errors=errors, rng=rng(), resamples=50)
    for parts in [found] if error is None else [found, found.corrected.parts]:
        assert parts.prior + parts.stability + parts.plasticity == pytest.approx(parts.best)
        assert parts.stability <= 0 <= parts.plasticity
        assert parts.plasticity_over_prior == max(0.0, parts.best - parts.prior)
    assert found.plasticity >= found.max_drop >= 0


@given(CURVES, st.none() | st.floats(-100, 100), st.floats(0, 50), st.integers(0, 9))
@settings(max_examples=60)
def test_measured_and_corrected_parts_lie_in_their_intervals(curve, dataset, error, seed):
    found = decompose(
        curve, prior_dataset=dataset, errors=[error] * len(curve), rng=rng(seed), resamples=50
    )
    for name in ("stability", "plasticity", "plasticity_over_prior"):
        low, high = getattr(found.corrected, name)
        for value in (getattr(found, name), getattr(found.corrected.parts, name)):
            assert low - 1e-9 <= value <= high + 1e-9


def test_a_curve_in_numbers():
    found = decompose(
        [0.5, 0.2, 0.3, 0.7, 0.9, 0.8],
        prior_dataset=0.6,
        steps=[0, 10, 20, 40, 80, 160],
        rng=rng(),
    )
    assert found.prior == 0.6
    assert found.prior_source == "dataset"
    assert (found.first, found.final, found.best, found.worst) == (0.5, 0.8, 0.9, 0.2)
    assert found.stability == pytest.approx(-0.4)
    assert found.plasticity == pytest.approx(0.7)
    assert found.plasticity_over_prior == pytest.approx(0.3)
    assert found.max_drop == pytest.approx(0.3)
    assert (found.fell_at, found.recovery_time, found.time_below_prior) == (0, 40, 40)
    assert (found.tolerance, found.noise_floor, found.corrected) == (0.0, None, None)


def test_a_curve_that_never_falls_or_never_comes_back_has_no_recovery_time():
    rising, falling = (
        decompose(c, rng=rng(), tolerance=0.1) for c in ([1, 0.95, 2], [1, 0.5, 0.6])
    )
    assert (rising.fell_at, rising.recovery_time, rising.time_below_prior) == (None, None, 0)
    assert (falling.fell_at, falling.recovery_time, falling.time_below_prior) == (1, None, 1)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=12),
    st.floats(0.1, 100),
    st.floats(-100, 100),
)
@settings(max_examples=40)
def test_another_unit_of_reward_changes_only_the_unit(curve, scale, shift):
    errors = np.full(len(curve), 0.1)
    one = decompose(curve, errors=errors, rng=rng(), resamples=50)
    other = decompose(
        np.array(curve) * scale + shift, errors=errors * scale, rng=rng(), resamples=50
    )
    assert other.noise_floor == pytest.approx(scale * one.noise_floor)
    for name in ("stability", "plasticity", "plasticity_over_prior"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name), abs=1e-6)
        assert getattr(other.corrected, name) == pytest.approx(
            [scale * end for end in getattr(one.corrected, name)], rel=1e-4, abs=1e-4 * scale
        )


def test_the_floor_is_what_constant_policies_show():
    draws = rng(1).binomial(1, 0.5, (2_000, 26, 20)).mean(axis=2)
    floor = decompose(draws[0], errors=np.full(26, np.sqrt(0.25 / 20)), rng=rng(2)).floor
    spans = np.ptp(draws, axis=1)
    assert floor.plasticity == pytest.approx(0.44, abs=0.01)
    assert floor.plasticity == pytest.approx(spans.mean(), abs=0.015)
    assert floor.plasticity_high == pytest.approx(np.quantile(spans, 0.95), abs=0.05)
    falls = draws.min(axis=1) - draws[:, 0]
    assert floor.stability == pytest.approx(falls.mean(), abs=0.015)
    assert floor.stability_low == pytest.approx(np.quantile(falls, 0.05), abs=0.05)
    drops = [max(a - min(row[i:]) for i, a in enumerate(row)) for row in draws]
    assert floor.max_drop == pytest.approx(np.mean(drops), abs=0.015)


def test_the_floor_is_estimated_from_the_episodes_themselves():
    floors = [
        decompose(rng(seed).binomial(1, 0.5, (26, 20)), rng=rng(), resamples=500).noise_floor
        for seed in range(20)
    ]
    assert np.mean(floors) == pytest.approx(0.44, abs=0.02)
    assert np.std(floors) < 0.02


def simulate(theta, seed, *, paired):
    """20 fresh binary episodes an evaluation, or 30 prompts of their own difficulty twice each."""
    g = rng(seed)
    if not paired:
        return g.binomial(1, theta[:, None], (theta.size, 20)), None
    difficulty = 2 * (g.random(30) - 0.5) * np.minimum(theta, 1 - theta)[:, None]
    chance = np.repeat(theta[:, None] + difficulty, 2, axis=1)
    return g.binomial(1, chance), [[i // 2 for i in range(60)]] * theta.size


TIME = np.linspace(0, 1, 26)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    "theta",
    [
        np.full(26, 0.5),
        np.full(26, 0.05),
        0.5 - 0.4 * np.exp(-(((TIME - 0.2) / 0.08) ** 2)) + 0.2 * TIME,
        0.2 + 0.7 * TIME,
    ],
    ids=["constant", "constant-rare", "dip-and-recover", "rise"],
)
def test_intervals_cover_the_truth_whatever_the_curve(theta, paired):
    truth = decompose(theta, prior_dataset=0.45, rng=rng())
    covered = dict.fromkeys(("stability", "plasticity", "plasticity_over_prior"), 0)
    for seed in range(80):
        curve, units = simulate(theta, seed, paired=paired)
        found = decompose(curve, units=units, prior_dataset=0.45, rng=rng(seed), resamples=200)
        for name in covered:
            low, high = getattr(found.corrected, name)
            covered[name] += low - 1e-9 <= getattr(truth, name) <= high + 1e-9
    assert min(covered.values()) >= 0.95 * 80 - 4


def test_intervals_notice_what_is_there():
    theta = 0.6 - 0.5 * np.exp(-(((TIME - 0.2) / 0.12) ** 2)) + 0.3 * TIME
    curve, units = simulate(theta, 3, paired=True)
    found = decompose(curve, units=units, rng=rng()).corrected
    assert found.stability.high < -0.1
    assert found.plasticity.low > 0.4
    assert found.plasticity_over_prior.low > 0.02


def test_noise_that_evaluations_share_cancels():
    hard = rng(4).random(40)
    curve = np.tile(hard, (10, 1)) + 0.01 * rng(5).normal(size=(10, 40))
    names = [[*range(40)]] * 10
    paired, unpaired = (decompose(curve, units=u, rng=rng()) for u in (names, None))
    assert paired.noise_floor < 0.1 * unpaired.noise_floor
    assert paired.corrected.plasticity.high < 0.02
    shuffled = [rng(n).permutation(40) for n in range(10)]
    again = decompose(
        [row[order] for row, order in zip(curve, shuffled, strict=True)],
        units=[order.tolist() for order in shuffled],
        rng=rng(),
    )
    assert again.noise_floor == pytest.approx(paired.noise_floor, rel=0.2)


def test_repeated_samples_of_a_unit_add_no_certainty_about_units():
    values = rng(6).random((5, 12))
    once = from_episodes([*values], [[*range(12)]] * 5)
    thrice = from_episodes([*np.repeat(values, 3, axis=1)], [[i // 3 for i in range(36)]] * 5)
    assert thrice.factor @ thrice.factor.T == pytest.approx(once.factor @ once.factor.T)
    assert thrice.freedom == once.freedom


def test_ragged_evaluations_are_taken_as_they_are():
    curve = [rng(n).random(5 + n) for n in range(6)]
    found = decompose(curve, rng=rng())
    assert found.first == pytest.approx(curve[0].mean())
    assert found.noise_floor > 0


def test_without_any_variance_nothing_is_claimed():
    found = decompose(np.zeros((5, 20)), prior_dataset=0.5, rng=rng())
    assert (found.noise_floor, found.floor, found.corrected) == (None, None, None)
    assert found.stability == -0.5
    assert decompose([[0.0] * 9, [1.0] * 9], rng=rng()).corrected is None


def test_the_datasets_own_noise_widens_what_is_said_against_it():
    returns = rng(7).random(12)
    curve = np.full(6, 0.2)
    exact, noisy = (
        decompose(curve, errors=np.full(6, 0.02), prior_dataset=prior, rng=rng())
        for prior in (returns.mean(), returns)
    )
    assert noisy.prior == exact.prior
    width = [np.ptp(found.corrected.stability) for found in (exact, noisy)]
    assert width[1] > 1.5 * width[0]
    assert noisy.corrected.plasticity == pytest.approx(exact.corrected.plasticity, abs=0.02)


def test_a_flat_line_is_recovered_exactly_and_a_noiseless_curve_kept():
    flat = np.full(12, 0.3) + 0.1 * rng(8).choice([-1, 1], 12)
    assert np.ptp(smooth(from_errors(flat, np.full(12, 0.15)))) < 1e-9
    assert smooth(from_errors(flat, np.zeros(12))) == pytest.approx(flat)


def test_smoothing_comes_closer_to_the_curve_than_the_measurements_do():
    theta = 0.2 + 0.6 * TIME
    wins = [
        np.square(smooth(Evaluations(m, 0.1 * np.eye(26), math.inf)) - theta).sum()
        < 0.7 * np.square(m - theta).sum()
        for m in (theta + 0.1 * rng(seed).normal(size=26) for seed in range(40))
    ]
    assert np.mean(wins) > 0.9


@given(st.integers(1, 70))
def test_windows_average_neighbours_and_begin_with_the_evaluations(n):
    windows, curve = Windows.of(n), rng(n).normal(size=n)
    naive = [curve[a:b].mean() for a, b in zip(windows.starts, windows.stops, strict=True)]
    assert windows(curve) == pytest.approx(naive)
    assert windows(curve)[:n] == pytest.approx(curve)
    assert windows(curve)[-1] == pytest.approx(curve.mean())


def test_a_seed_repeats_a_decomposition_and_json_keeps_it():
    curve = rng(9).binomial(1, 0.4, (8, 30))
    one, two = (decompose(curve, prior_dataset=0.3, rng=rng(1)) for _ in range(2))
    assert one == two
    assert Decomposition.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    bare = decompose([0.1, 0.2], rng=rng())
    assert Decomposition.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare
    with pytest.raises(ValueError, match="unknown key 'gain'"):
        Decomposition.from_dict({**one.to_dict(), "gain": 0.0})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"curve": []}, "curve must hold at least the evaluation of pi_0"),
        ({"curve": [0.1, math.nan]}, "curve must be finite, evaluation 1 is not"),
        ({"curve": [[0.1], [0.2]]}, "evaluation 0 must have 2 units or more, got 1"),
        ({"curve": [0.1, [0.2, 0.3]]}, "evaluation 1 has shape"),
        ({"curve": [[1, 0]], "units": [["a", "a"]]}, "evaluation 0 must have 2 units or more"),
        ({"curve": [[1, 0]], "units": [["a"]]}, "must name one for each of its 2 episodes, got 1"),
        ({"curve": [[1, 0]], "units": []}, "must name those of 1 evaluations, got 0"),
        ({"curve": [0.1], "units": [["a"]]}, "units need a curve of episode returns"),
        ({"curve": [[1, 0]], "errors": [0.1]}, "errors go with a curve of means"),
        ({"curve": [0.1], "errors": [-0.1]}, "errors must be 1 finite numbers >= 0"),
        ({"curve": [0.1, 0.2], "steps": [5, 5]}, "steps must be 2 increasing numbers"),
        ({"curve": [0.1], "prior_dataset": math.inf}, "prior_dataset must be a number"),
        ({"curve": [0.1], "tolerance": -1}, "tolerance must be a finite number >= 0"),
        ({"curve": [0.1], "level": 95}, "level must be between 0 and 1"),
    ],
)
def test_what_cannot_be_decomposed_is_refused_by_name(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        decompose(arguments.pop("curve"), rng=rng(), **arguments)
