"""Environments in another interpreter: what comes back, and what becomes of failures."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from posttrain.vla.settings import EnvironmentSettings

pytest.importorskip("gymnasium")
from posttrain.vla.environments import apart, serve
from posttrain.vla.environments.apart import SimulatorError, make_apart

TOY = """
import os, sys, time
import gymnasium, numpy as np
from gymnasium.spaces import Box, Dict, Text

class Toy(gymnasium.Env):
    max_steps = 4

    def __init__(self, fault=""):
        print("a banner on standard output", flush=True)
        os.write(1, b"\\x00\\xffbytes of a simulator in C\\n")
        self.fault = fault
        if fault == "make":
            raise RuntimeError("no such scene")
        self.observation_space = Dict({
            "image": Box(0, 255, (4, 5, 3), np.uint8),
            "instruction": Text(32),
            "state": Box(np.array([-np.inf, -1], np.float32), np.array([np.inf, 1], np.float32)),
        })
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.at = np.zeros(2, np.float32)

    def observation(self):
        image = np.full((4, 5, 3), self.goal, np.uint8)
        return {"image": image, "instruction": f"go to {self.goal}", "state": self.at.copy()}

    def reset(self, *, seed=None, options=None):
        self.goal, self.at[:] = seed, 0
        return self.observation(), {"task": f"task {seed % 2}"}

    def step(self, action):
        if self.fault == "step":
            raise ValueError("joint limits")
        if self.fault == "die":
            print("Segmentation fault, says C", flush=True)
            os._exit(7)
        if self.fault == "hang":
            time.sleep(60)
        self.at += action
        won = bool(self.at[0] >= self.goal)
        return self.observation(), 0.5, won, False, {"is_success": won}

    def expert_action(self):
        return np.array([self.goal / 10, 0], np.float32)

def make(options):
    return Toy(**options)
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(TOY)
    opened = []

    def open_(fault="", envs=3, **patience):
        settings = EnvironmentSettings(
            id=f"{path}:make",
            envs=envs,
            python=sys.executable,
            options={"fault": fault} if fault else {},
        )
        opened.append(make_apart(settings, **patience))
        return opened[-1]

    yield open_
    for vector in opened:
        vector.close()


def gone(vector):
    return vector._process.returncode is not None


def test_it_is_a_vector_environment(toy):
    vector = toy()
    space = vector.single_observation_space
    assert vector.num_envs == 3
    assert vector.max_steps == 4
    assert space["image"].shape == (4, 5, 3)
    assert space["image"].dtype == np.uint8
    assert space["state"].low.tolist() == [-np.inf, -1]
    assert vector.single_action_space.shape == (2,)

    seen, info = vector.reset(seed=[1, 2, 3], options={"reset_mask": np.ones(3, bool)})
    assert seen["image"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert seen["instruction"] == ("go to 1", "go to 2", "go to 3")
    assert info["task"].tolist() == ["task 1", "task 0", "task 1"]

    actions = np.array([[1, 0], [1, 0.5], [1, 0]], np.float32)
    seen, reward, ended, cut, info = vector.step(actions)
    assert seen["state"].tolist() == actions.tolist()
    assert reward.tolist() == [0.5, 0.5, 0.5]
    assert ended.tolist() == info["is_success"].tolist() == [True, False, False]
    assert not cut.any()


def test_an_ended_episode_waits_for_its_reset_and_time_runs_out(toy):
    vector = toy()
    vector.reset(seed=[1, 9, 9])
    actions = np.array([[1, 0]] * 3, np.float32)
    vector.step(actions)
    seen, reward, ended, cut, _ = vector.step(actions)
    assert reward.tolist() == [0, 0.5, 0.5]
    assert seen["state"][:, 0].tolist() == [1, 2, 2]

    seen, info = vector.reset(
        seed=[5, None, None], options={"reset_mask": np.array([1, 0, 0], bool)}
    )
    assert seen["state"][:, 0].tolist() == [0, 2, 2]
    assert info["_task"].tolist() == [True, False, False]
    vector.step(actions)
    _, _, ended, cut, _ = vector.step(actions)
    assert not ended.any()
    assert cut.tolist() == [False, True, True]


def test_experts_are_asked_where_the_mask_says(toy):
    vector = toy()
    vector.reset(seed=[1, 2, 3])
    actions = vector.expert_actions(np.array([True, False, True]))
    assert np.allclose(actions, [[0.1, 0], [0, 0], [0.3, 0]])
    assert vector.offers == ("expert_action",)
    with pytest.raises(SimulatorError, match=r"has no idle_action\(\)"):
        vector.idle_actions()


def test_an_error_comes_back_as_a_sentence_with_its_last_lines(toy):
    with pytest.raises(
        SimulatorError, match=r"(?s)failed in make: RuntimeError: no such scene.*line"
    ):
        toy("make")
    vector = toy("step")
    vector.reset(seed=[1, 2, 3])
    with pytest.raises(
        SimulatorError, match=r"(?s)failed in step: ValueError: joint limits.*toy\.py"
    ):
        vector.step(np.zeros((3, 2), np.float32))


def test_death_is_noticed_and_told(toy):
    vector = toy("die")
    vector.reset(seed=[1, 2, 3])
    with pytest.raises(SimulatorError, match=r"(?s)exit code 7.*Segmentation fault, says C"):
        vector.step(np.zeros((3, 2), np.float32))
    assert gone(vector)
    with pytest.raises(SimulatorError, match="step after close"):
        vector.step(np.zeros((3, 2), np.float32))


def test_a_hanging_simulator_is_ended(toy, monkeypatch):
    monkeypatch.setattr(apart, "GRACE", 0.2)
    vector = toy("hang", answering=0.1)
    vector.reset(seed=[1, 2, 3])
    began = time.monotonic()
    with pytest.raises(SimulatorError, match=r"step took longer than 0\.3 s"):
        vector.step(np.zeros((3, 2), np.float32))
    assert time.monotonic() - began < 5
    assert gone(vector)


def test_close_leaves_no_process(toy):
    vector = toy()
    pid = vector._process.pid
    vector.close()
    vector.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_far_side_ends_with_an_interpreter_that_forgot_to_close(toy, tmp_path):
    toy()
    forgetful = f"""
from posttrain.vla.environments.apart import make_apart
from posttrain.vla.settings import EnvironmentSettings
import sys
kept = make_apart(EnvironmentSettings(id={str(tmp_path / "toy.py") + ":make"!r}, envs=1,
                                      python=sys.executable))
print(kept._process.pid)
"""
    ran = subprocess.run(
        [sys.executable, "-c", forgetful], capture_output=True, text=True, check=True
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(ran.stdout), 0)


def test_settings_that_cannot_be_served_are_named(tmp_path):
    nowhere = EnvironmentSettings(python=str(tmp_path / "python"))
    with pytest.raises(SimulatorError, match=r"environment\.python: .* cannot be run"):
        make_apart(nowhere)
    odd = EnvironmentSettings(python=sys.executable, options={"a": object()})
    with pytest.raises(SimulatorError, match=r"environment\.options: cannot be sent"):
        make_apart(odd)


def test_objects_and_endless_headers_are_refused():
    near, far = socket.socketpair()
    with near, far:
        text = b'{"header": {}, "arrays": [["x", "|O", [1]]]}'
        near.sendall(serve.LENGTH.pack(len(text)) + text)
        with pytest.raises(serve.WireError, match="holds objects"):
            serve.receive(far)
        near.sendall(serve.LENGTH.pack(2**32 - 1))
        with pytest.raises(serve.WireError, match="longest"):
            serve.receive(far)
