"""A MuJoCo task with pixels and a language."""

import gc
import importlib.util
import os
import sys
import weakref

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
if importlib.util.find_spec("gymnasium_robotics") is None:
    pytest.skip("gymnasium-robotics is not installed", allow_module_level=True)
from posttrain.vla.environments.fetch import COLOURS, FAR, FetchReach, make
from posttrain.vla.environments.protocol import WorldError, cameras_of, check_actions, limit_of


@pytest.fixture(scope="module")
def env():
    made = make({"side": 32, "state": True})
    yield made
    made.close()


def played(env, act):
    steps = []
    while len(steps) < env.max_steps:
        steps.append(env.step(act()))
        if steps[-1][2]:
            break
    return steps


def test_it_obeys_the_protocol(env):
    assert os.environ["MUJOCO_GL"] or not sys.platform.startswith("linux")
    assert cameras_of(env.observation_space, (), "it") == ("image",)
    check_actions(env.action_space, "it")
    assert limit_of(None, env, "it") == 10
    seen, info = env.reset(seed=3)
    assert env.observation_space.contains(seen)
    assert seen["instruction"] == f"reach the {info['task']} ball"


def test_the_expert_succeeds_and_the_idle_do_not(env):
    for seed in range(12):
        env.reset(seed=seed)
        steps = played(env, env.expert_action)
        assert steps[-1][4]["is_success"]
        assert len(steps) <= 4
    env.reset(seed=0)
    idle = played(env, env.idle_action)
    assert len(idle) == 10
    assert not idle[-1][2]
    assert not idle[-1][4]["is_success"]


def test_the_wrong_ball_ends_in_failure(env):
    env.reset(seed=1)
    other = next(name for name in env.balls if name != env.target)
    env.target = other
    wanted = env.expert_action
    env.reset(seed=1)
    told = env.target

    def towards_the_other():
        env.target = other
        action = wanted()
        env.target = told
        return action

    last = played(env, towards_the_other)[-1]
    assert last[2]
    assert not last[4]["is_success"]
    assert last[1] == 0


def test_the_seed_decides_all_whatever_came_before(env):
    first, info = env.reset(seed=7)
    steps = played(env, env.expert_action)
    env.reset(seed=8)
    played(env, lambda: np.array([1, -1, 0.5], np.float32))
    again, same = env.reset(seed=7)
    assert info == same
    assert np.array_equal(first["image"], again["image"])
    for (a, *_), (b, *_) in zip(steps, played(env, env.expert_action), strict=True):
        assert np.array_equal(a["image"], b["image"])
        assert np.array_equal(a["state"], b["state"])
    assert not np.array_equal(first["image"], env.reset(seed=8)[0]["image"])


def test_environments_that_come_and_go_leave_others_their_pictures(env):
    before = env.reset(seed=5)[0]["image"]
    other, lost = make({"side": 16}), make({"side": 48})
    theirs = other.reset(seed=5)[0]["image"]
    lost.reset(seed=6)
    del lost
    gc.collect()
    assert np.array_equal(env.render(), before)
    assert np.array_equal(other.render(), theirs)
    other.close()
    other.close()
    assert np.array_equal(env.render(), before)


def test_environments_that_share_a_robot_are_as_if_alone():
    def pictures(env, seed):
        seen = [env.reset(seed=seed)[0]["image"]]
        return seen + [step[0]["image"] for step in played(env, env.expert_action)]

    one = make({"side": 24})
    alone = [pictures(one, seed) for seed in (1, 2)]
    one.close()
    one, other = make({"side": 24}), make({"side": 24})
    assert one.model is other.model
    first, second = (e.reset(seed=s)[0]["image"] for e, s in ((one, 1), (other, 2)))
    assert np.array_equal(first, alone[0][0])
    assert np.array_equal(second, alone[1][0])
    for i in range(1, min(map(len, alone))):
        assert np.array_equal(one.step(one.expert_action())[0]["image"], alone[0][i])
        assert np.array_equal(other.step(other.expert_action())[0]["image"], alone[1][i])
    one.close()
    assert np.array_equal(other.reset(seed=2)[0]["image"], alone[1][0])
    with pytest.raises(WorldError, match="closed draws nothing"):
        one.reset(seed=1)
    robot = weakref.ref(other._robot)
    other.close()
    assert robot() is None


def test_balls_are_seen_in_their_colours(env):
    for seed in range(4):
        image = env.reset(seed=seed)[0]["image"].astype(float)
        shade = image / np.maximum(np.linalg.norm(image, axis=-1, keepdims=True), 1)
        for name in env.balls:
            colour = np.array(COLOURS[name])
            assert ((shade @ (colour / np.linalg.norm(colour))) > 0.97).sum() >= 3, (seed, name)


def test_language_decides_which_ball(env):
    """One picture, and the instruction is spread over its colours."""
    told = [env.reset(seed=seed)[0]["instruction"] for seed in range(30)]
    assert len(set(told)) == 3


def test_two_axes_and_options():
    flat = make({"side": 16, "axes": 2, "balls": 1, "colours": 1})
    flat.reset(seed=0)
    start, at = flat.gripper, flat.balls["red"]
    assert np.isclose(start[2], at[2])
    assert np.abs(at - start).max() <= FAR
    assert flat.action_space.shape == (2,)
    assert played(flat, flat.expert_action)[-1][4]["is_success"]
    flat.close()
    for options, message in (
        ({"axes": 4}, r"options\.axes: wanted 2 or 3, got 4"),
        ({"balls": 4}, r"options\.balls: wanted 1 to 3, got 4"),
        ({"colours": 9}, r"options\.colours"),
        ({"side": 2}, r"options\.side"),
    ):
        with pytest.raises(WorldError, match=message):
            FetchReach(**options)


def test_a_camera_that_the_model_has_not(env):
    from posttrain.vla.environments.pixels import Camera

    with pytest.raises(WorldError, match=r"external_camera_0.*got 'moon'"):
        Camera(env.model, "moon", 16)
