"""Environments stepped together: what comes back, and which environments are refused."""

import sys
import types

import numpy as np
import pytest

pytest.importorskip("gymnasium")
import gymnasium
from gymnasium.spaces import Box, Dict, Discrete, Text

from posttrain.vla.environments.color_grid import ColorGrid
from posttrain.vla.environments.make import make_env, make_fleet
from posttrain.vla.environments.protocol import WorldError
from posttrain.vla.settings import EnvironmentSettings

IMAGE = Box(0, 255, (4, 6, 3), np.uint8)


class Toy(gymnasium.Env):
    """Counts its steps; `without` leaves something of the protocol out."""

    max_steps = 3

    def __init__(self, without="", action_space=None, image=IMAGE):
        self.without = without
        spaces = {"front": IMAGE, "wrist": image, "instruction": Text(20), "other": Discrete(3)}
        if without != "state":
            spaces["state"] = Box(-np.inf, np.inf, (2,), np.float64)
        if without == "images":
            spaces = {"instruction": Text(20)}
        if without == "instruction":
            del spaces["instruction"]
        self.observation_space = Dict(spaces)
        if without == "dict":
            self.observation_space = IMAGE
        self.action_space = action_space or Box(-1.0, 1.0, (2,), np.float32)
        if without == "limit":
            self.max_steps = None
        self.acted = []

    def _seen(self):
        seen = {
            "front": np.full((4, 6, 3), self.seed_ % 250, np.uint8),
            "wrist": np.full((4, 6, 3), len(self.acted), np.uint8),
            "instruction": "" if self.without == "text" else f"do {self.seed_ % 2}",
            "other": 1,
            "state": np.array([self.seed_, len(self.acted)], float),
        }
        return {key: seen[key] for key in self.observation_space.spaces}

    def reset(self, *, seed=None, options=None):
        self.seed_, self.acted = seed, []
        return self._seen(), {}

    def step(self, action):
        self.acted.append(np.array(action))
        over = len(self.acted) > self.seed_ % 5
        info = {} if self.without == "success" else {"is_success": over}
        return self._seen(), 0.5, over, False, info


@pytest.fixture
def toys(monkeypatch):
    made = []

    def make(options):
        made.append(Toy(**options))
        return made[-1]

    module = types.ModuleType("toys_for_tests")
    module.make, module.nothing = make, lambda _: 5
    monkeypatch.setitem(sys.modules, "toys_for_tests", module)
    return made


def settings(**given):
    return EnvironmentSettings(**{"id": "toys_for_tests:make", "envs": 3, **given})


def test_slots_begin_see_and_step_on_their_own(toys):
    fleet = make_fleet(settings(cameras=("wrist", "front"), state=True))
    assert fleet.size == 3
    assert fleet.max_steps == 3
    assert fleet.cameras == ("wrist", "front")
    assert fleet.begin([2, 0], [14, 11]) == ["do 0", "do 1"]
    seen = fleet.observe([2, 0])
    assert list(seen.images) == ["wrist", "front"]
    assert seen.instructions == ["do 0", "do 1"]
    assert seen.images["front"][:, 0, 0, 0].tolist() == [14, 11]
    assert seen.states.dtype == np.float32
    assert seen.states.tolist() == [[14, 0], [11, 0]]
    fleet.step([0, 2], np.array([[0.1, 0.2], [0.3, 0.4]]))
    np.testing.assert_allclose(toys[0].acted, [[0.1, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(toys[2].acted, [[0.3, 0.4]], rtol=1e-6)
    assert seen.states.tolist() == [[14, 0], [11, 0]], "what was seen stays as it was"
    one, two = fleet.step([2, 0], np.zeros((2, 2)))
    assert one == (0.5, False, False, False)
    assert two == (0.5, True, False, True)
    assert fleet.step([2], np.zeros((1, 2))) == [(0.5, False, True, False)], "the limit truncates"
    assert len(toys[0].acted) == 2, "an episode that is over is not stepped"
    assert fleet.begin([0], [5]) == ["do 1"]
    assert fleet.observe([2, 0]).images["wrist"][:, 0, 0, 0].tolist() == [3, 0]
    fleet.close()


def test_proprioception_is_seen_only_when_asked(toys):
    fleet = make_fleet(settings())
    fleet.begin([0], [1])
    assert fleet.observe([0]).states is None
    assert set(fleet.observe([0]).images) == {"front", "wrist"}


def test_slots_that_play_must_all_be_stepped(toys):
    fleet = make_fleet(settings())
    fleet.begin([0, 1], [4, 4])
    with pytest.raises(ValueError, match=r"wanted are the slots \[0, 1\].* got \[0\]"):
        fleet.step([0], np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"got \[0, 2\]"):
        fleet.step([0, 2], np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"options": {"without": "dict"}}, "environment.id: .* observes Box"),
        ({"options": {"without": "images"}}, r"observes no image, only instruction \(Text\)"),
        ({"options": {"without": "instruction"}}, "gives no instruction"),
        ({"options": {"without": "state"}, "state": True}, "environment.state"),
        ({"options": {"without": "limit"}}, "environment.max_steps"),
        ({"cameras": ("top",)}, "environment.cameras: .*no camera 'top', only front, wrist"),
        ({"options": {"action_space": Box(-np.inf, 1.0, (2,))}}, "have no bounds"),
        ({"options": {"action_space": Box(0.0, 1.0, (2, 2))}}, "Discrete from 0, or a Box"),
        ({"options": {"action_space": Discrete(3, start=1)}}, "Discrete from 0"),
        ({"id": "toys_for_tests:nothing"}, "made int; wanted is a gymnasium.Env"),
        ({"id": "toys_for_tests:absent"}, "module toys_for_tests has no 'absent'"),
        ({"id": "no_such_module:make"}, "no module 'no_such_module'"),
        ({"id": "NoSuchWorld-v0"}, "environment.id: NoSuchWorld-v0 cannot be made"),
        ({"id": "posttrain/ColorGrid-v0", "options": {"sise": 3}}, "environment.options: .*sise"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_by_field(toys, given, word):
    with pytest.raises(WorldError, match=word):
        make_fleet(settings(**given))


def test_an_environment_that_never_says_whether_it_succeeded_is_refused(toys):
    fleet = make_fleet(settings(options={"without": "success"}))
    fleet.begin([0], [5])
    with pytest.raises(WorldError, match="did not say whether it succeeded"):
        fleet.step([0], np.zeros((1, 2)))


def test_an_empty_instruction_is_refused(toys):
    fleet = make_fleet(settings(options={"without": "text"}))
    with pytest.raises(WorldError, match="gives no instruction"):
        fleet.begin([0], [1])


def test_no_expert_and_no_idling_are_said(toys):
    fleet = make_fleet(settings())
    fleet.begin([0], [1])
    for ask in (fleet.expert_actions, fleet.idle_actions):
        with pytest.raises(WorldError, match=r"has no (expert|idle)_action"):
            ask([0])


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    monkeypatch.delitem(sys.modules, "posttrain.vla.environments.minigrid", raising=False)
    with pytest.raises(WorldError, match=r"needs the package 'minigrid'.*posttrain\[minigrid\]"):
        make_env(EnvironmentSettings(id="minigrid/BabyAI-GoToLocal-v0"))


def test_the_recipes_limit_reaches_the_environment():
    made = make_env(EnvironmentSettings(max_steps=9, options={"max_steps": 4}))
    assert isinstance(made, ColorGrid)
    assert made.max_steps == 9
