"""ManiSkill: the adapter on a stand-in for its package."""

import sys
import types

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("torch")
import gymnasium
import torch

from posttrain.vla.environments.maniskill import make
from posttrain.vla.environments.protocol import WorldError, cameras_of, check_actions, limit_of


class Mark:
    shown = False

    def show_visual(self):
        self.shown = True


class Task(gymnasium.Env):
    """A task of mani-skill 3.0.1 with one environment: everything has a batch axis of tensors."""

    def __init__(self, **options):
        self.options = options
        self.side = options["sensor_configs"]["height"]
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.action_space = self.single_action_space
        self.observation_space = gymnasium.spaces.Dict({})
        self.mark = Mark()
        self._hidden_objects = [self.mark]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = torch.as_tensor(self.np_random.uniform(size=(1, 3)))
        self.at = torch.zeros(1, 3)
        return self.get_obs(), {"reconfigure": False}

    def get_obs(self):
        rgb = torch.zeros(1, self.side, self.side, 3, dtype=torch.uint8)
        rgb[..., 1] = 200 if self.mark.shown else 0
        return {
            "agent": {"qpos": torch.arange(9.0)[None], "qvel": torch.zeros(1, 9)},
            "extra": {
                "tcp_pose": torch.zeros(1, 7),
                "goal_pos": self.goal,
                "is_grasped": torch.tensor([True]),
            },
            "sensor_param": {},
            "sensor_data": {"base_camera": {"rgb": rgb}},
        }

    def step(self, action):
        assert action.shape == (7,)
        self.at = self.at + torch.as_tensor(action[:3])
        won = self.at[:, 0] >= 2
        false = torch.tensor([False])
        return self.get_obs(), self.at[:, 0], won, false, {"success": won}


@pytest.fixture
def installed(monkeypatch):
    for name in ("mani_skill", "mani_skill.envs"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    spec = gymnasium.envs.registration.EnvSpec(
        "PickCube-v1",
        entry_point=Task,
        max_episode_steps=50,
        disable_env_checker=True,
        order_enforce=False,
    )
    monkeypatch.setitem(gymnasium.registry, "PickCube-v1", spec)


def test_it_obeys_the_protocol(installed):
    env = make({"side": 8})
    assert cameras_of(env.observation_space, (), "it") == ("base_camera",)
    check_actions(env.action_space, "it")
    assert limit_of(None, env, "it") == 50
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    assert seen["instruction"] == "pick up the cube and hold it at the goal"
    assert info == {"task": "PickCube-v1", "is_success": False}
    asked = env._env.unwrapped.options
    assert asked["obs_mode"] == "rgb"
    assert asked["num_envs"] == 1
    assert asked["control_mode"] == "pd_ee_delta_pose"


def test_the_state_is_joints_and_what_the_task_adds_by_name(installed):
    env = make({"side": 8})
    seen, _ = env.reset(seed=4)
    goal = env._env.unwrapped.goal[0].numpy()
    assert seen["state"].shape == (9 + 3 + 1 + 7,)
    assert np.allclose(seen["state"][9:12], goal)
    assert seen["state"][12] == 1
    assert np.array_equal(env.reset(seed=4)[0]["state"], seen["state"])
    assert not np.array_equal(env.reset(seed=5)[0]["state"], seen["state"])


@pytest.mark.parametrize("goal", [True, False])
def test_hidden_marks_are_shown_if_asked(installed, goal):
    env = make({"side": 8, "goal": goal})
    seen, _ = env.reset(seed=0)
    assert (seen["base_camera"][0, 0, 1] == 200) is np.bool_(goal)


def test_success_ends_the_episode_in_plain_numbers(installed):
    env = make({"side": 8})
    env.reset(seed=0)
    action = np.eye(7, dtype=np.float32)[0]
    env.step(action)
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated, info) == (2.0, True, False, {"is_success": True})


def test_what_cannot_be_had_is_named(installed, monkeypatch):
    with pytest.raises(WorldError, match=r"options\.instruction: .*'open cabinet drawer'"):
        make({"id": "OpenCabinetDrawer-v1"})
    with pytest.raises(WorldError, match=r"options\.id: PickSky-v1 cannot be made"):
        make({"id": "PickSky-v1", "instruction": "pick the sky"})
    monkeypatch.setitem(sys.modules, "mani_skill.envs", None)
    with pytest.raises(WorldError, match=r"environment\.python"):
        make({})
