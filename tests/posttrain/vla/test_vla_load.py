"""D from where the recipe says, held-out episodes last."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode, Held
from posttrain.vla.lerobot import write
from posttrain.vla.load import check_actions, load, order
from posttrain.vla.maker import make
from posttrain.vla.settings import DataSettings, EnvironmentSettings

GRID = EnvironmentSettings(envs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("load") / "grid"
    write(make(GRID, DataSettings(episodes=16, heldout=4)), found)
    return found


def test_made():
    found, account = load(DataSettings(episodes=3, heldout=2, options={"noise": 0.1}), GRID)
    assert len(found.episodes) == 5
    assert account.startswith("D is made by the expert of posttrain/ColorGrid-v0 (noise 0.1): 5")


def test_lerobot(folder):
    data = DataSettings(path=str(folder), episodes=10, heldout=5, seed=3)
    found, account = load(data, GRID)
    assert len(found.episodes) == 15
    assert len({e.seed for e in found.episodes}) == 15
    again, _ = load(data, GRID)
    assert again.episodes == found.episodes
    other, _ = load(replace(data, seed=4), GRID)
    assert {e.seed for e in other.episodes[10:]} != {e.seed for e in found.episodes[10:]}
    fewer, _ = load(replace(data, episodes=4), GRID)  # held-out ones do not hang on what is cloned
    assert fewer.episodes[4:] == found.episodes[10:]
    assert fewer.episodes[:4] == found.episodes[:4]
    for part in (
        "(LeRobot v3.0): 15 episodes",
        "5 more are not used",
        "5 are held out",
        "of 15 are",
    ):
        assert part in account


def test_splits_are_stratified():
    tasks = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    episodes = [Episode(begin=i, length=1, instruction=t, task=t) for i, t in enumerate(tasks)]
    places = order(episodes, 5)
    assert sorted(places) == list(range(100))
    for size in (10, 20, 50):
        counts = Counter(tasks[place] for place in places[:size])
        for task, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(counts[task] - share * size) <= 1
    assert places != order(episodes, 6)
    assert [p for p in places if tasks[p] == "a"] != list(range(60))


def test_too_few_episodes(folder):
    with pytest.raises(DemonstrationsError, match=r"data\.heldout: .*20 episodes, of which 20"):
        load(DataSettings(path=str(folder), heldout=20), GRID)


def test_broken_sets_are_refused(folder, tmp_path):
    import json
    import shutil

    shutil.copytree(folder, tmp_path / "broken")
    info = tmp_path / "broken/meta/info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fps": 99}))
    with pytest.raises(DemonstrationsError, match=r"timestamp.*; and \d+ more"):
        load(DataSettings(path=str(tmp_path / "broken"), heldout=2), GRID)


@pytest.mark.parametrize(
    ("data", "environment", "said"),
    [
        ({}, {"cameras": ("wrist",)}, r"environment\.cameras: D has no camera 'wrist'"),
        ({}, {"state": True}, r"environment\.state: D holds no state"),
        ({}, {"options": {"actions": "continuous"}}, "wanted actions of 2 numbers"),
        ({"options": {"noise": 1}}, {}, r"data\.options: only what is `made`"),
        ({"columns": {"action": "next.done"}}, {}, "wanted actions of Discrete"),
        ({"path": "minari:no/such-v0"}, {}, "Minari has no 'no/such-v0'"),
        ({"path": "./nowhere"}, {}, "there is no folder './nowhere'"),
    ],
)
def test_what_does_not_fit_is_named(folder, data, environment, said):
    if "minari" in data.get("path", ""):
        pytest.importorskip("minari")
    with pytest.raises(DemonstrationsError, match=said):
        load(
            DataSettings(**{"path": str(folder), "heldout": 2, **data}),
            replace(GRID, **environment),
        )


def one(actions):
    return Demonstrations(
        name="d", actions=actions, pictures=Held({}),
        episodes=(Episode(begin=0, length=len(actions) - 1, instruction="", task=""),),
    )  # fmt: skip


def test_actions_are_checked_against_the_space():
    box = Box(-1, 1, (2,), np.float32)
    check_actions(one(np.array([0, 3, 9])), Discrete(4))  # the last row is of no episode
    check_actions(one(np.array([[1, -1], [0, 0], [5, 5]], np.float32)), box)
    for actions, space, said in (
        (np.array([0, 4, 0]), Discrete(4), "got 0 to 4"),
        (np.array([[0.0], [1.0]]), Discrete(4), "got float64 of shape"),
        (np.array([[0, 2], [0, 0]], np.float32), box, "100.0% of D's actions lie outside"),
        (np.zeros((3, 3), np.float32), box, "wanted actions of 2 numbers"),
        (np.zeros(3, np.int64), box, "wanted actions of 2 numbers"),
    ):
        with pytest.raises(DemonstrationsError, match=said):
            check_actions(one(actions), space)
