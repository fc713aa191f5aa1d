import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.intervention.actions import (
    action,
    kept_rows,
    mostly_right,
    success_from,
    unit_actions,
)

POLICY = {
    "never": [0.0, 0.0], "sometimes": [0.0, 1.0], "always": [1.0, 1.0],
    "wrong, never": [0.0], "wrong, sometimes": [0.0, 1.0], "unscorable": [0.0],
}  # fmt: skip
DATASET = {
    "never": [1.0], "sometimes": [1.0], "always": [1.0], "unmeasured": [1.0],
    "wrong, never": [0.0], "wrong, sometimes": [0.0], "wrong, unmeasured": [0.0],
}  # fmt: skip
WANTED = {
    "never": "demonstration",
    "sometimes": "rl",
    "always": "rl",
    "unmeasured": "demonstration",
    "wrong, never": "fix",
    "wrong, sometimes": "drop",
    "wrong, unmeasured": "drop",
    "unscorable": "fix",
    "nothing known": "drop",
}


def test_the_map_by_hand():
    found = unit_actions(WANTED, policy=POLICY, dataset=DATASET, success=1.0)
    assert found == WANTED
    assert list(found) == list(WANTED)


@given(st.integers(0, 6), st.integers(0, 6))
def test_demonstrations_that_disagree_decide_by_half(wins, losses):
    right = bool(mostly_right(wins, wins + losses))
    assert right == (wins > 0 and wins >= losses)
    found = unit_actions(
        ["u"], policy={"u": [0.0]}, dataset={"u": [1.0] * wins + [0.0] * losses}, success=1.0
    )
    assert found["u"] == ("demonstration" if right else "fix")


def test_success_is_the_highest_return_or_the_middle_of_a_continuous_scale():
    assert success_from((-1.0, 3.0), continuous=False) == 3.0
    assert success_from((-1.0, 3.0), continuous=True) == 1.0
    half = unit_actions(["u"], policy={"u": [0.4]}, dataset={"u": [0.6]}, success=0.5)
    assert half["u"] == "demonstration"


def test_only_a_measured_failure_is_a_failure():
    assert action(right=False, found=None) == "drop"
    assert action(right=False, found=False) == "fix"
    assert action(right=True, found=None) == "demonstration"


def test_rows_are_kept_whose_demonstration_is_needed():
    actions = {"a": "demonstration", "b": "rl", "c": "drop", "d": "fix"}
    assert kept_rows(["a", "b", "a", "c", "d"], actions) == [0, 2]
    assert kept_rows(["a", "b"], actions, keep={"rl", "demonstration"}) == [0, 1]


def test_a_unit_that_the_map_does_not_know_is_named():
    with pytest.raises(ValueError, match="'z'"):
        kept_rows(["a", "z"], {"a": "rl"})
