"""The controller of an adaptive anchor."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.intervention.adaptive import steer

POSITIVE = st.floats(1e-6, 1e3)
RATE = st.floats(0.01, 0.99)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.01, 1.0), (0.011, 1.01), (0.009, 0.99), (0.5, 1.02), (0.0, 0.98), (-1.0, 0.98)],
)
def test_the_papers_rule_by_hand(kl, factor):
    """arXiv 1909.08593, section 2.2, with its rate 0.1 and errors clipped at 0.2."""
    assert steer(2.0, kl, target=0.01, rate=0.1) == pytest.approx(2.0 * factor)


@given(POSITIVE, st.floats(-10, 1e6), POSITIVE, RATE)
def test_a_step_pulls_the_right_way_and_never_far(coefficient, kl, target, rate):
    after = steer(coefficient, kl, target=target, rate=rate)
    assert (after - coefficient) * (kl - target) >= 0
    assert abs(after / coefficient - 1) <= 0.2 * rate + 1e-12
    assert after > 0


def test_it_settles_where_the_kl_is_on_target():
    """A policy whose KL is what the pull allows: kl = 0.001 / coefficient."""
    coefficient = 5.0
    for _ in range(400):
        coefficient = steer(coefficient, 0.001 / coefficient, target=0.02, rate=0.5)
    assert coefficient == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("coefficient", "kl", "target", "words"),
    [(0.0, 0.1, 0.1, "above 0"), (0.1, 0.1, 0.0, "above 0"), (0.1, math.nan, 0.1, "not a number")],
)
def test_what_cannot_be_steered_is_refused(coefficient, kl, target, words):
    with pytest.raises(ValueError, match=words):
        steer(coefficient, kl, target=target, rate=0.1)
