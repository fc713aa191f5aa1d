"""LIBERO: the adapter on a stand-in for its package, and the package itself where it is.

The environment variable LIBERO_PYTHON names an interpreter that has LIBERO and its assets.
"""

import os
import pickle
import sys
import types
from typing import NamedTuple

import numpy as np
import pytest

from posttrain.vla.settings import EnvironmentSettings

pytest.importorskip("gymnasium")
from posttrain.vla.environments.libero import IDLE, axis_angle, make
from posttrain.vla.environments.protocol import WorldError, cameras_of, check_actions, limit_of

torch = pytest.importorskip("torch")


class Task(NamedTuple):
    name: str
    language: str
    problem_folder: str
    init_states_file: str


class Suite:
    """What the adapter uses of a suite of hf-libero 0.1.4."""

    def get_num_tasks(self):
        return 3

    def get_task(self, i):
        return Task(f"task_{i}", f"put object {i} away", "suite", f"{i}.pruned_init")

    def get_task_bddl_file_path(self, i):
        return f"{i}.bddl"


class Simulation:
    """What the adapter uses of an OffScreenRenderEnv."""

    living = 0

    def __init__(self, bddl_file_name, camera_heights, camera_widths):
        type(self).living += 1
        self.task, self.side = int(bddl_file_name[0]), camera_heights
        assert camera_widths == camera_heights
        self.calls = []

    def seed(self, seed):
        self.calls.append(("seed", seed))

    def reset(self):
        self.calls.append("reset")
        self.at = np.zeros(3)
        return self.observe()

    def set_init_state(self, state):
        self.calls.append(("state", state[0]))
        self.at = np.array([state[0], 0, 0])
        return self.observe()

    def step(self, action):
        assert isinstance(action, list)
        assert len(action) == 7
        self.calls.append(tuple(action))
        self.at = self.at + action[:3]
        return self.observe(), float(self.check_success()), self.check_success(), {}

    def check_success(self):
        return self.at[1] >= 2

    def observe(self):
        image = np.zeros((self.side, self.side, 3), np.uint8)
        image[0, 0] = 255
        return {
            "agentview_image": image,
            "robot0_eye_in_hand_image": image // 2,
            "robot0_eef_pos": self.at,
            "robot0_eef_quat": np.array([0, 0, np.sin(0.25), np.cos(0.25)]),
            "robot0_gripper_qpos": np.array([0.04, -0.04]),
        }

    def close(self):
        type(self).living -= 1


@pytest.fixture
def installed(monkeypatch, tmp_path):
    folder = tmp_path / "suite"
    folder.mkdir()
    for task in range(3):
        states = np.arange(4, dtype=np.float64)[:, None] + 10 * task
        torch.save(states, folder / f"{task}.pruned_init")
    suites = {"get_benchmark": lambda _: Suite, "get_libero_path": lambda _: str(tmp_path)}
    Simulation.living = 0
    for name, held in (
        ("libero", {}),
        ("libero.libero", {}),
        ("libero.libero.benchmark", suites),
        ("libero.libero.envs", {"OffScreenRenderEnv": Simulation}),
    ):
        module = types.ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)
    return folder


def test_it_obeys_the_protocol(installed):
    env = make({"side": 16})
    assert cameras_of(env.observation_space, (), "it") == ("agentview", "eye_in_hand")
    check_actions(env.action_space, "it")
    assert limit_of(None, env, "it") == 220
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    assert seen["instruction"] == "put object 1 away"
    assert info["task"] == "task_1"
    env.close()
    assert Simulation.living == 0


def test_seeds_number_the_starts(installed):
    env = make({"side": 8})
    starts = []
    for seed in range(13):
        _, info = env.reset(seed=seed)
        starts.append((info["task"], env._sim.at[0]))
    assert len(set(starts[:12])) == 12
    assert starts[4] == ("task_1", 11.0)
    assert starts[12] == starts[0]


def test_an_episode_begins_as_published_evaluations_do(installed):
    env = make({"side": 8, "idle": 3, "tasks": [2]})
    env.reset(seed=1)
    assert env._sim.calls == [("seed", 0), "reset", ("state", 21.0), IDLE, IDLE, IDLE]


def test_pictures_are_turned_and_the_state_has_eight_numbers(installed):
    env = make({"side": 8})
    seen, _ = env.reset(seed=0)
    assert seen["agentview"][7, 7].tolist() == [255] * 3
    assert seen["eye_in_hand"][7, 7].tolist() == [127] * 3
    assert np.allclose(seen["state"], [0, 0, 0, 0, 0, 0.5, 0.04, -0.04])


def test_success_ends_the_episode(installed):
    env = make({"side": 8})
    env.reset(seed=0)
    action = np.array([0, 3, 0, 0, 0, 0, 1], np.float32)
    _, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["is_success"]) == (0.0, False, False)
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)


def test_simulations_of_other_tasks_are_closed(installed):
    env = make({"side": 8, "keep": 2})
    for seed in (0, 1, 0, 2, 0):
        env.reset(seed=seed)
        assert Simulation.living <= 2
    assert list(env._sims) == [2, 0]


def test_rotations_as_axis_and_angle():
    assert np.allclose(axis_angle(np.array([0, 0, 0, 1.0])), 0)
    half = np.sqrt(0.5)
    assert np.allclose(axis_angle(np.array([half, 0, 0, half])), [np.pi / 2, 0, 0])


def test_initial_states_that_hold_code_are_not_run(installed):
    class Trap:
        def __reduce__(self):
            return (print, ("the trap was sprung",))

    torch.save({"states": Trap()}, installed / "0.pruned_init")
    with pytest.raises(pickle.UnpicklingError):
        make({"side": 8}).reset(seed=0)


def test_options_that_cannot_be_had_are_named(installed):
    with pytest.raises(WorldError, match=r"options\.suite: wanted one of .*, got 'libero_1'"):
        make({"suite": "libero_1"})
    with pytest.raises(WorldError, match=r"options\.tasks: .*0 to 2, got 3"):
        make({"tasks": [3]})


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "libero", None)
    with pytest.raises(WorldError, match=r"environment\.python"):
        make({})


@pytest.mark.slow
@pytest.mark.skipif("LIBERO_PYTHON" not in os.environ, reason="LIBERO_PYTHON is not set")
def test_the_real_one_in_its_own_interpreter():
    from posttrain.vla.environments.make import make_fleet

    fleet = make_fleet(
        EnvironmentSettings(
            id="posttrain/Libero-v0",
            options={"tasks": [0], "side": 64},
            envs=1,
            state=True,
            python=os.environ["LIBERO_PYTHON"],
        )
    )
    fleet.begin([0], [3])
    first = fleet.observe([0])
    fleet.step([0], np.array([[0.5, 0, -0.3, 0, 0, 0, -1]], np.float32))
    moved = fleet.observe([0])
    fleet.begin([0], [3])
    again = fleet.observe([0])
    fleet.close()
    assert first.instructions[0].startswith("pick up the black bowl")
    assert np.array_equal(first.states, again.states)
    assert not np.array_equal(first.states, moved.states)
    for name, frames in first.images.items():
        assert np.array_equal(frames, again.images[name])
