"""Worlds stepped as arrays play what worlds stepped one by one play."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.vla.environments.color_grids import ColorGrids
from posttrain.vla.environments.fleet import Fleet
from posttrain.vla.environments.make import make_env, make_fleet
from posttrain.vla.environments.near import Near
from posttrain.vla.settings import EnvironmentSettings

ENVS = 3


def worlds(**options: Any) -> EnvironmentSettings:
    """Settings of the built-in world."""
    state = bool(options.get("state"))
    return EnvironmentSettings(options=options, envs=ENVS, state=state)


def test_the_built_in_world_is_stepped_as_arrays() -> None:
    fleet = make_fleet(worlds())
    assert isinstance(fleet._simulators, ColorGrids)
    fleet.close()


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "size": st.integers(2, 4),
            "colours": st.integers(2, 6),
            "blocks": st.integers(1, 2),
            "actions": st.sampled_from(["discrete", "continuous"]),
            "state": st.booleans(),
            "max_steps": st.integers(1, 5),
            "cell": st.sampled_from([2, 8, 24]),
        }
    ),
    st.integers(0, 10**6),
)
def test_as_one_by_one(options: dict[str, Any], seed: int) -> None:
    asked = worlds(**options)
    ours, theirs = make_fleet(asked), Fleet(asked, Near(asked, make_env))
    assert (ours.max_steps, ours.offers, ours.cameras) == (
        theirs.max_steps, theirs.offers, theirs.cameras,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    free, begun = list(range(ENVS)), 0
    while begun < 12 or len(free) < ENVS:
        slots = free[: 12 - begun]
        if slots:
            seeds = rng.integers(0, 2**31, len(slots)).tolist()
            assert ours.begin(slots, seeds) == theirs.begin(slots, seeds)
            begun += len(slots)
        live = [slot for slot in range(ENVS) if slot not in free or slot in slots]
        assert_same(ours, theirs, list(range(ENVS)) if begun >= ENVS else live)
        by_expert = ours.expert_actions(live)
        np.testing.assert_array_equal(by_expert, theirs.expert_actions(live))
        actions = chosen(ours.action_space, rng, by_expert)
        found = ours.step(live, actions)
        assert found == theirs.step(live, actions)
        assert_same(ours, theirs, live)
        ended = [s for s, one in zip(live, found, strict=True) if one.terminated or one.truncated]
        free = sorted({*free, *ended} - set(live).difference(ended))
    ours.close()
    theirs.close()


def chosen(space: gymnasium.Space[Any], rng: np.random.Generator, by_expert: Any) -> Any:
    """The expert's actions, or some others, equal and small ones among them."""
    if isinstance(space, gymnasium.spaces.Discrete):
        others = rng.integers(0, 4, len(by_expert))
    else:
        ticks = np.array([-1.0, -1 / 3, -0.2, 0.0, 0.2, 1 / 3, 0.7, 1.0], np.float32)
        others = rng.choice(ticks, by_expert.shape)
    keep = rng.random(len(by_expert)) < 0.3
    return np.where(keep.reshape(-1, *[1] * (by_expert.ndim - 1)), by_expert, others)


def assert_same(ours: Fleet, theirs: Fleet, slots: list[int]) -> None:
    """Both show the same, to the bit."""
    one, other = ours.observe(slots), theirs.observe(slots)
    assert list(one.instructions) == list(other.instructions)
    for name, pixels in one.images.items():
        np.testing.assert_array_equal(pixels, other.images[name])
    if other.states is None:
        assert one.states is None
    else:
        assert one.states is not None
        assert one.states.dtype == other.states.dtype
        np.testing.assert_array_equal(one.states, other.states)


@pytest.mark.parametrize("blocks", [1, 2])
def test_idling_loses_time_alike(blocks: int) -> None:
    asked = worlds(size=4, blocks=blocks, max_steps=6)
    ours, theirs = make_fleet(asked), Fleet(asked, Near(asked, make_env))
    slots = list(range(ENVS))
    for fleet in (ours, theirs):
        fleet.begin(slots, [7, 8, 9])
    for _ in range(5):
        actions = ours.idle_actions(slots)
        np.testing.assert_array_equal(actions, theirs.idle_actions(slots))
        assert ours.step(slots, actions) == theirs.step(slots, actions)
        assert_same(ours, theirs, slots)
    ours.close()
    theirs.close()
