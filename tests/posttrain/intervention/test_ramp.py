import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.intervention.ramp import Ramp, ramp

strengths = st.floats(0, 10)
ramps = st.builds(
    Ramp,
    start=strengths,
    end=strengths,
    steps=st.integers(1, 40),
    shape=st.sampled_from(["linear", "cosine"]),
    rise=st.integers(0, 20),
)


@given(ramps, st.integers(0, 200))
def test_a_strength_never_leaves_the_range_up_to_its_peak(strength, step):
    assert 0 <= strength(step) <= strength.peak * (1 + 1e-12)


@given(ramps)
def test_a_ramp_starts_where_it_says_and_ends_where_it_says(strength):
    assert strength(strength.rise) == strength.start
    assert strength(strength.rise + strength.steps) == strength.final
    assert strength(10_000) == strength.final


@given(ramps, st.integers(0, 120))
def test_the_total_is_the_sum_of_the_strengths(strength, steps):
    naive = math.fsum(strength(step) for step in range(steps))
    assert strength.total(steps) == pytest.approx(naive, rel=1e-9, abs=1e-9)


def test_a_cosine_ramp_is_half_way_at_half_time_and_flat_at_both_ends():
    cosine, linear = Ramp(1, 0, steps=10, shape="cosine"), Ramp(1, 0, steps=10)
    assert cosine(5) == pytest.approx(0.5)
    assert cosine(1) > linear(1)
    assert cosine(9) < linear(9)


def test_a_rise_climbs_from_nothing():
    assert [Ramp(1.0, rise=4)(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_a_number_is_a_constant_strength():
    assert ramp(0.3)(0) == ramp(0.3)(999) == 0.3
    assert ramp(Ramp(0.1)) == Ramp(0.1)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"start": -0.1}, "start"),
        ({"start": math.nan}, "start"),
        ({"start": 1.0, "end": math.inf}, "end"),
        ({"start": 1.0, "rise": -1}, "rise"),
        ({"start": 1.0, "steps": -1}, "steps"),
        ({"start": 1.0, "end": 0.0}, "steps"),
        ({"start": 1.0, "shape": "cos"}, "shape"),
    ],
)
def test_a_ramp_that_means_nothing_is_refused_by_name(values, field):
    with pytest.raises(ValueError, match=field):
        Ramp(**values)
