"""Meta-World: the adapter on a stand-in for its package, and the package itself where it is.

The environment variable METAWORLD_PYTHON names an interpreter that has Meta-World installed.
"""

import os
import sys
import types

import numpy as np
import pytest

from posttrain.vla.settings import EnvironmentSettings

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
import mujoco

from posttrain.vla.environments.metaworld import GOAL, SENTENCES, make
from posttrain.vla.environments.protocol import WorldError, cameras_of, check_actions

MODEL = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="corner2" pos="0 -0.4 0.8" euler="40 0 0"/>
    <geom type="plane" size="2 2 1" rgba="0.6 0.5 0.4 1"/>
    <body name="right_l0" pos="0 0.3 0.1"><geom group="1" size="0.1" rgba="1 0 0 1"/></body>
    <body name="hand" mocap="true" pos="0 0.6 0.2"><geom size="0.03" rgba="0 0 1 1"/></body>
  </worldbody>
</mujoco>
"""


class Sim:
    """What the adapter uses of a task of Meta-World 3.1.1."""

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(MODEL)
        self.data = mujoco.MjData(self.model)
        self._partially_observable, self._freeze_rand_vec = True, True
        self._set_task_called = self.seeded_rand_vec = False
        self._target_pos = None
        self.sawyer_observation_space = "with the goal hidden"

    def seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def observe(self):
        return np.concatenate([self.data.mocap_pos[0], [0.5], np.zeros(32), self._target_pos])

    def reset(self):
        assert self._set_task_called
        assert not self._partially_observable
        assert not self._freeze_rand_vec
        assert self.seeded_rand_vec
        assert not hasattr(self, "sawyer_observation_space")
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self._target_pos = self.rng.uniform([-0.2, 0.55, 0.1], [0.2, 0.8, 0.25])
        return self.observe(), {}

    def step(self, action):
        assert action.dtype == np.float32
        self.data.mocap_pos[0] += 0.03 * action[:3]
        mujoco.mj_forward(self.model, self.data)
        left = np.linalg.norm(self.data.mocap_pos[0] - self._target_pos)
        return self.observe(), np.float64(-left), False, False, {"success": float(left < 0.05)}

    def close(self):
        pass


class Policy:
    def get_action(self, observed):
        return np.append((observed[-3:] - observed[:3]) * 20, 3.0)


@pytest.fixture
def installed(monkeypatch):
    for name, held in (
        ("metaworld", {}),
        ("metaworld.env_dict", {"ALL_V3_ENVIRONMENTS": {f"{t}-v3": Sim for t in SENTENCES}}),
        ("metaworld.policies", {"ENV_POLICY_MAP": {f"{t}-v3": Policy for t in SENTENCES}}),
    ):
        module = types.ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def env(installed):
    made = make({"tasks": ["reach", "push-v3"], "side": 32, "state": True})
    yield made
    made.close()


def test_it_obeys_the_protocol_and_the_seed_decides_the_task(env):
    assert cameras_of(env.observation_space, (), "it") == ("image",)
    check_actions(env.action_space, "it")
    tasks = []
    for seed in range(12):
        seen, info = env.reset(seed=seed)
        assert env.observation_space.contains(seen)
        assert seen["instruction"] == SENTENCES[info["task"].removesuffix("-v3")]
        tasks.append(info["task"])
    assert set(tasks) == {"reach-v3", "push-v3"}
    assert tasks[4] == env.reset(seed=4)[1]["task"]


def test_the_expert_is_within_bounds_and_succeeds(env):
    env.reset(seed=0)
    for _ in range(30):
        action = env.expert_action()
        assert env.action_space.contains(action)
        _, reward, terminated, truncated, info = env.step(action)
        assert isinstance(reward, float)
        assert terminated == info["is_success"]
        assert not truncated
        if terminated:
            break
    assert terminated


def test_the_same_seed_gives_the_same_pictures(env):
    first = env.reset(seed=9)[0]["image"]
    env.step(np.ones(4, np.float32))
    assert not np.array_equal(env.render(), first)
    assert np.array_equal(env.reset(seed=9)[0]["image"], first)


def test_the_goal_is_seen(installed):
    shown, hidden = (make({"side": 48, "goal": goal}) for goal in (True, False))
    with_goal, without = (e.reset(seed=1)[0]["image"] for e in (shown, hidden))
    changed = with_goal[(with_goal != without).any(axis=-1)].astype(float)
    assert len(changed) >= 3
    hue = changed.mean(axis=0) / np.linalg.norm(changed.mean(axis=0))
    assert hue @ (np.array(GOAL) / np.linalg.norm(GOAL)) > 0.95
    shown.close()
    hidden.close()


def test_corner_cameras_are_turned_upright(installed):
    turned = make({"side": 16, "camera": "corner2", "goal": False})
    upright = turned.reset(seed=1)[0]["image"]
    raw = turned.scene._camera.frame(turned.scene.sim.data)
    assert np.array_equal(upright, raw[::-1, ::-1])
    assert not np.array_equal(upright, raw)
    turned.close()


def test_options_that_cannot_be_had_are_named(installed):
    with pytest.raises(WorldError, match=r"options\.tasks: .*got 'fly'"):
        make({"tasks": ["reach", "fly"]})
    with pytest.raises(WorldError, match=r"options\.tasks: .*got 'none'"):
        make({"tasks": []})
    with pytest.raises(WorldError, match=r"options\.camera: wanted one of corner2, got 'moon'"):
        make({"camera": "moon"})
    with pytest.raises(WorldError, match=r"options\.max_steps: wanted 1 to 500, got 501"):
        make({"max_steps": 501})


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(WorldError, match=r"environment\.python"):
        make({})


@pytest.mark.skipif("METAWORLD_PYTHON" not in os.environ, reason="METAWORLD_PYTHON is not set")
def test_the_real_one_in_its_own_interpreter():
    from posttrain.vla.environments.make import make_fleet

    fleet = make_fleet(
        EnvironmentSettings(
            id="posttrain/MetaWorld-v0",
            options={"tasks": ["reach", "drawer-open"], "arm": False},
            envs=2,
            python=os.environ["METAWORLD_PYTHON"],
        )
    )
    tasks = fleet.begin([0, 1], [0, 1])
    seen = fleet.observe([0, 1])
    assert seen.images["image"].shape == (2, 64, 64, 3)
    assert set(tasks) <= {"reach-v3", "drawer-open-v3"}
    running, success = [0, 1], []
    while running:
        steps = fleet.step(running, fleet.expert_actions(running))
        success += [s.success for s in steps if s.terminated or s.truncated]
        running = [
            slot
            for slot, s in zip(running, steps, strict=True)
            if not (s.terminated or s.truncated)
        ]
    fleet.close()
    assert success == [True, True]
