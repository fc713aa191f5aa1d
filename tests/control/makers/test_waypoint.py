import json
from dataclasses import replace

import numpy as np
import pytest

from control.datasets.dataset import Dataset
from control.environments import EnvError
from control.makers.gather import episode_seed
from control.makers.random import make_random
from control.makers.waypoint import Walker, make_waypoint
from control.mazes import grid_of, maze_map
from control.settings import EnvSettings

MEDIUM = EnvSettings(
    id="PointMaze_UMaze-v3", maze="medium", frame_skip=10, horizon=80, score="success"
)
FORK = replace(MEDIUM, maze="fork", horizon=50)


def share(data: Dataset) -> float:
    assert data.success is not None
    return float(data.success.mean())


def rows(data: Dataset) -> list[bytes]:
    return [
        getattr(data, name).tobytes()
        for name in ("observations", "actions", "rewards", "next_observations", "terminals", "ends")
    ]


def test_steering_by_hand():
    """10 (waypoint - position) - velocity, towards the next cell, and to the goal in its own."""
    walker = Walker(grid_of(maze_map("corridor")), [0], noise=0.0)
    # cells' centres lie at x = -2 to 2; the walker is in the first and leaves for the second
    leaving = np.array([[-1.6, 0.03, 0.5, -0.1, 2.2, 0.1]], np.float32)
    assert np.asarray(walker(leaving, np.array([0])))[0] == pytest.approx([5.5, -0.2], abs=1e-5)
    arriving = np.array([[1.9, 0.03, 0.5, -0.1, 2.2, 0.1]], np.float32)
    assert np.asarray(walker(arriving, np.array([0])))[0] == pytest.approx([2.5, 0.8], abs=1e-5)


def test_noise_is_normal_and_decisions_are_replaced_as_often_as_asked():
    slots = np.arange(4000)
    there = np.tile(np.array([[0, 0, 0, 0, 0, 0]], np.float32), (4000, 1))  # steering gives 0
    grid = grid_of(maze_map("corridor"))
    shaken = np.asarray(Walker(grid, slots.tolist(), noise=0.5)(there, slots))
    assert abs(shaken.std() - 0.5) < 0.02
    thrown = np.asarray(
        Walker(grid, slots.tolist(), noise=0.0, noise_probability=0.3)(there, slots)
    )
    moved = (thrown != 0).all(axis=1)
    assert abs(moved.mean() - 0.3) < 0.03
    assert np.abs(thrown).max() <= 1
    assert abs(thrown[moved].std() - 1 / np.sqrt(3)) < 0.03


def test_quality_falls_from_clean_to_noisy_to_aimless():
    data = {
        "clean": make_waypoint(MEDIUM, seed=0, episodes=20),
        "noisy": make_waypoint(MEDIUM, seed=0, episodes=20, noise_probability=0.8),
        "play": make_waypoint(MEDIUM, seed=0, episodes=20, style="play"),
        "walk": make_waypoint(MEDIUM, seed=0, episodes=20, style="walk"),
        "random": make_random(MEDIUM, seed=0, episodes=20),
    }
    success = {name: share(made) for name, made in data.items()}
    assert success["clean"] == 1.0
    assert 0.2 <= success["noisy"] <= 0.8
    assert 0.05 <= success["play"] <= 0.6
    assert success["walk"] <= 0.1
    assert success["random"] <= 0.1
    assert data["clean"].returns().mean() > data["noisy"].returns().mean() + 15


def test_the_seed_makes_the_same_data_again_whatever_takes_turns():
    make = lambda **other: make_waypoint(  # noqa: E731
        FORK, **{"seed": 3, "decisions": 200, "noise_probability": 0.3, **other}
    )
    data = make()
    assert rows(make()) == rows(data)
    assert rows(make(envs=3)) == rows(data)
    assert rows(make(seed=4)) != rows(data)
    assert len(data) >= 200
    assert len(data) - data.lengths()[-1] < 200
    longer = make(decisions=None, episodes=data.episodes + 2)
    assert rows(longer.take(np.arange(data.episodes))) == rows(data), "no prefix of a longer one"


def side(data: Dataset) -> list[float]:
    """Height at which each episode passes the middle of the fork: above or below the wall."""
    crossing = np.abs(data.observations[:, 0]) < 0.5
    return [
        float(np.sign(data.observations[a:b, 1][crossing[a:b]].mean()))
        for a, b in zip(data.starts, data.stops, strict=True)
    ]


def test_one_sided_demonstrations_know_one_side_of_the_fork():
    assert set(side(make_waypoint(FORK, seed=0, episodes=12, one_sided=True))) == {1.0}
    both = side(make_waypoint(FORK, seed=0, episodes=12))
    assert set(both) == {-1.0, 1.0}
    assert 3 <= both.count(1.0) <= 9


def test_play_goes_where_the_task_does_not_ask():
    settings = replace(MEDIUM, kwargs={"continuing_task": True}, horizon=300)
    grid = grid_of(maze_map("medium"))

    def seen(style):
        data = make_waypoint(settings, seed=1, episodes=4, style=style)
        return len(set(grid.number(data.observations[:, :2]).tolist()))

    assert seen("demo") == 18  # those on the shortest ways: there are two of 17 cells
    assert seen("play") >= 22


def test_a_walk_goes_on_to_neighbours_and_without_aim():
    """Of a cell's neighbours each is as likely; in a corridor that is half forwards."""
    grid = grid_of(maze_map("corridor"))
    slots = np.arange(2000)
    walker = Walker(grid, slots.tolist(), style="walk", noise=0.0)
    middle = np.zeros((2000, 6), np.float32)
    first = np.asarray(walker(middle, slots))
    assert set(first[:, 0].tolist()) == {10.0, -10.0}  # a metre away, times 10
    assert abs((first[:, 0] > 0).mean() - 0.5) < 0.05
    assert (np.asarray(walker(middle, slots)) == first).all(), "the mind changes before arrival"


def test_rewards_are_the_tasks_and_arrival_ends_an_episode():
    data = make_waypoint(MEDIUM, seed=0, episodes=10, style="play")
    assert data.success is not None
    assert set(data.rewards) <= {-1.0, 0.0}
    assert (data.terminals == (data.rewards == 0.0)).all()
    assert (data.terminals[data.stops - 1] == data.success).all()
    goals = data.observations[:, 4:6]
    away = np.linalg.norm(data.next_observations[:, :2] - goals, axis=1)
    assert ((away <= 0.45 + 1e-6) == data.terminals).all()


def test_official_mazes_are_walked_too():
    data = make_waypoint(
        EnvSettings(
            id="PointMaze_Medium-v3",
            kwargs={"continuing_task": False},
            frame_skip=10,
            horizon=100,
        ),
        seed=0,
        episodes=6,
    )
    assert share(data) == 1.0
    assert len(np.unique(data.observations[data.starts], axis=0)) == 6


def test_a_dataset_says_how_it_was_made():
    data = make_waypoint(FORK, seed=5, episodes=2, noise_probability=0.8, one_sided=True)
    about = json.loads(json.dumps(dict(data.about)))
    assert data.name == "local/fork-demo-noise0.8"
    assert about["env"] == {
        "id": "PointMaze_UMaze-v3",
        "kwargs": {},
        "horizon": 50,
        "frame_skip": 10,
        "maze": "fork",
        "score": "success",
    }
    expected = {
        "maker": "waypoint",
        "seed": 5,
        "episodes": 2,
        "decisions": None,
        "style": "demo",
        "noise": 0.5,
        "noise_probability": 0.8,
        "one_sided": True,
        "horizon": 50,
    }
    assert expected.items() <= about.items()
    assert about["versions"]["gymnasium"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"style": "swim"}, "style: wanted one of demo, play, walk"),
        ({"noise": -1.0}, "noise: wanted at least 0"),
        ({"noise_probability": 1.2}, "noise_probability: wanted 0 to 1"),
        ({"decisions": 5}, "episodes, decisions: wanted one of them"),
        ({"episodes": None}, "episodes, decisions: wanted one of them"),
        ({"episodes": 0}, "at least 1, got episodes=0"),
        ({"name": "maze2d-medium-v1"}, "name: wanted local/"),
        ({"settings": EnvSettings(id="Hopper-v5")}, "id: wanted a PointMaze"),
    ],
)
def test_what_cannot_be_made_is_refused(fields, said):
    with pytest.raises(EnvError, match=said):
        make_waypoint(**{"settings": FORK, "seed": 0, "episodes": 1, **fields})


def test_seeds_of_episodes_differ():
    seeds = {episode_seed(seed, index) for seed in range(20) for index in range(100)}
    assert len(seeds) == 2000
