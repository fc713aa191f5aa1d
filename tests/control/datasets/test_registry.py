import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from control.datasets import REGISTRY, DatasetError, known, normalised, references
from control.datasets.maze_maps import ANTMAZE, cells, centre
from control.datasets.registry import near

ROOT = Path(__file__).parents[3]


def quietly(env):
    """Make an environment that Gymnasium calls out of date, as D4RL's data need it."""
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return gymnasium.make(env.id, **env.kwargs)


def test_the_studys_21_datasets_are_wsrls_families():
    study = {name for name, entry in REGISTRY.items() if entry.study}
    bodies = ("halfcheetah", "hopper", "walker2d")
    assert study == {
        *(f"{b}-{lv}-v2" for b in bodies for lv in ("random", "medium", "medium-replay")),
        *(f"antmaze-{s}-{k}-v2" for s in ("medium", "large", "ultra") for k in ("play", "diverse")),
        *(f"kitchen-{level}-v0" for level in ("partial", "mixed", "complete")),
        *(f"{hand}-binary-v0" for hand in ("pen", "door", "relocate")),
    }
    assert len(study) == 21


@pytest.mark.parametrize(
    ("name", "horizon", "refs", "scaling", "score"),
    [
        ("hopper-medium-replay-v2", 1000, (-20.272305, 3234.3), (1, 0), "return"),
        ("halfcheetah-random-v2", 1000, (-280.178953, 12135.0), (1, 0), "return"),
        ("antmaze-umaze-v2", 700, (0, 1), (10, -5), "success"),
        ("antmaze-large-diverse-v2", 1000, (0, 1), (10, -5), "success"),
        ("antmaze-ultra-play-v2", 2000, (0, 1), (10, -5), "success"),
        ("kitchen-mixed-v0", 280, (0, 4), (1, 0), "return"),
        ("door-binary-v0", 200, (None, None), (10, 5), "success"),
        ("pen-human-v1", 100, (96.262799, 3076.8331017826877), (1, 0), "return"),
        ("maze2d-large-v1", 800, (6.7, 273.99), (1, 0), "return"),
    ],
)
def test_facts_are_as_published(name, horizon, refs, scaling, score):
    entry = REGISTRY[name]
    assert entry.horizon == horizon
    assert (entry.ref_min, entry.ref_max) == refs
    assert (entry.reward_scale, entry.reward_bias) == scaling
    assert entry.score == score


def test_file_names_are_d4rls():
    assert REGISTRY["walker2d-medium-replay-v2"].hdf5 == "walker2d_medium_replay-v2.hdf5"
    assert REGISTRY["antmaze-large-play-v2"].hdf5 == (
        "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    )
    assert REGISTRY["antmaze-umaze-v2"].hdf5 == (
        "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"
    )
    assert REGISTRY["antmaze-umaze-diverse-v2"].hdf5 == (
        "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5"
    )
    assert REGISTRY["maze2d-umaze-v1"].hdf5 == "maze2d-umaze-sparse-v1.hdf5"
    files = [entry.hdf5 for entry in REGISTRY.values() if entry.hdf5]
    assert len(set(files)) == len(files)


def test_successors_exist_only_where_minari_has_them():
    assert REGISTRY["hopper-medium-v2"].minari == "mujoco/hopper/medium-v0"
    assert REGISTRY["hopper-random-v2"].minari is None
    assert REGISTRY["hopper-medium-replay-v2"].minari is None
    assert REGISTRY["antmaze-ultra-play-v2"].minari is None
    assert REGISTRY["antmaze-large-play-v2"].minari == "D4RL/antmaze/large-play-v1"
    assert all((e.minari is None) == (e.minari_env is None) for e in REGISTRY.values())


def test_failing_for_ever_is_cal_qls_bound():
    assert REGISTRY["antmaze-large-play-v2"].failure_value(0.99) == pytest.approx(-500)
    assert REGISTRY["pen-binary-v0"].failure_value(0.99) == pytest.approx(-500)
    assert REGISTRY["hopper-medium-v2"].failure_value(0.99) is None


def test_v4_is_for_d4rls_data_and_v5_for_minaris():
    entry = REGISTRY["walker2d-medium-v2"]
    assert entry.env_settings().id == "Walker2d-v4"
    assert entry.env_settings(minari=True).id == "Walker2d-v5"
    with pytest.raises(ValueError, match="no successor"):
        REGISTRY["walker2d-random-v2"].env_settings(minari=True)


def test_every_environment_is_one_that_can_be_made():
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    ids = {e.id for k in REGISTRY.values() for e in (k.env, k.minari_env) if e}
    assert ids <= gymnasium.registry.keys()


@pytest.mark.parametrize(
    ("name", "width"),
    [("hopper-medium-v2", 11), ("walker2d-random-v2", 17), ("ant-medium-v2", 111)],
)
def test_environments_observe_as_wide_as_d4rls_files(name, width):
    env = quietly(REGISTRY[name].env)
    assert env.observation_space.shape == (width,)


@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_a_mazes_goal_is_where_its_environment_puts_it(size):
    kind = "" if size == "umaze" else "-play"
    entry = REGISTRY[f"antmaze-{size}{kind}-v2"]
    maze = quietly(entry.minari_env).unwrapped.maze
    assert np.allclose(maze.unique_goal_locations, [entry.goal])
    assert len(maze.unique_reset_locations) == 1


@pytest.mark.parametrize(
    ("size", "env_id"), [("medium", "AntMaze_Medium-v4"), ("large", "AntMaze_Large-v4")]
)
def test_walls_are_gymnasium_robotics(size, env_id):
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    theirs = np.array(gymnasium.spec(env_id).kwargs["maze_map"])
    ours = np.array([[cell == "1" for cell in row] for row in ANTMAZE[size]])
    assert np.array_equal(ours, theirs == 1)


@pytest.mark.parametrize("size", ANTMAZE)
def test_every_goal_can_be_reached(size):
    layout = ANTMAZE[size]
    assert {layout[0], layout[-1]} == {"1" * len(layout[0])}
    seen: set[tuple[int, int]] = set()
    open_cells = [next((i, row.index("r")) for i, row in enumerate(layout) if "r" in row)]
    while open_cells:
        row, column = open_cells.pop()
        if layout[row][column] != "1" and (row, column) not in seen:
            seen.add((row, column))
            open_cells += [(row + 1, column), (row - 1, column)]
            open_cells += [(row, column + 1), (row, column - 1)]
    assert any(layout[row][column] == "g" for row, column in seen)
    assert len(seen) == sum(cell != "1" for row in layout for cell in row)


@pytest.mark.parametrize("size", ANTMAZE)
def test_a_flipped_map_is_d4rls_up_to_a_shift(size):
    """D4RL counts y with the rows and from the start: 4 (column - c), 4 (row - r)."""
    layout = ANTMAZE[size]
    assert len({len(row) for row in layout}) == 1
    row, column = next((i, r.index("r")) for i, r in enumerate(layout) if "r" in r)
    goal = next((i, r.index("g")) for i, r in enumerate(layout) if "g" in r)
    flipped = layout[::-1]
    start, end = (np.array(centre(flipped, letter, 4.0)) for letter in "rg")
    assert (end - start).tolist() == [4 * (goal[1] - column), 4 * (goal[0] - row)]


def test_cells_are_numbers_and_letters():
    assert cells(("1r", "g0")) == [[1, "r"], ["g", 0]]


def test_the_registry_is_known_before_anything_heavy_is_imported():
    code = "import sys, control.datasets.registry as r; print([m for m in " \
        "('torch', 'gymnasium', 'minari', 'h5py', 'pydantic') if m in sys.modules], " \
        "len(r.REGISTRY))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.startswith("[] ")


def test_a_name_is_found_under_every_name_it_has():
    entry = REGISTRY["hopper-medium-v2"]
    assert known("hopper_medium-v2.hdf5") is entry
    assert known("mujoco/hopper/medium-v0") is entry
    assert known("nothing") is None


def test_near_names_are_near():
    assert "hopper-medium-v2" in near("hoper-medium-v2")
    assert near("zzzzzz") == []


def test_normalising_is_d4rls_formula():
    assert normalised(3234.3, "hopper-expert-v2").item() == 1.0
    assert normalised([-20.272305], "mujoco/hopper/medium-v0").tolist() == [0.0]
    assert normalised([2.0], "kitchen-mixed-v0").tolist() == [0.5]
    assert normalised([[5.0, 15.0]], (5, 10)).tolist() == [[0.0, 2.0]]
    # D4RL's README gives 100 times this; measured uniform random hopper of 18.1 is 1.2 there
    assert 100 * normalised(18.1, "hopper-random-v2") == pytest.approx(1.18, abs=0.01)


def test_normalising_is_minaris_formula(monkeypatch):
    from types import SimpleNamespace

    from minari import get_normalized_score

    low, high = references("pen-cloned-v1")
    storage = SimpleNamespace(metadata={"ref_min_score": low, "ref_max_score": high})
    theirs = get_normalized_score(SimpleNamespace(storage=storage), np.array([50.0, 900.0]))
    assert np.allclose(normalised([50.0, 900.0], "pen-cloned-v1"), theirs)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("hoper-medium-v2", "did you mean .*hopper-medium-v2"),
        ("pen-binary-v0", "rate of success"),
        ((2.0, 1.0), "wanted min < max"),
    ],
)
def test_what_cannot_be_normalised_is_refused(by, message):
    with pytest.raises(DatasetError, match=message):
        normalised([1.0], by)


def test_the_docs_table_is_the_registry():
    import re

    page = (ROOT / "docs" / "datasets.md").read_text()
    rows = {
        cells[0].strip("` "): [c.strip("` ") for c in cells[1:]]
        for line in page.splitlines()
        if len(cells := line.strip("|").split("|")) >= 8
        and re.fullmatch(r"`[a-z0-9-]+-v\d`", cells[0].strip())
    }
    assert set(rows) == {name for name, entry in REGISTRY.items() if entry.study}
    for name, (env, horizon, low, high, scaling, score, minari, *_rest) in rows.items():
        entry = REGISTRY[name]
        assert env == entry.env.id
        assert int(horizon) == entry.horizon
        assert low == ("-" if entry.ref_min is None else f"{entry.ref_min:g}")
        assert high == ("-" if entry.ref_max is None else f"{entry.ref_max:g}")
        assert scaling == f"{entry.reward_scale:g} / {entry.reward_bias:g}"
        assert score == entry.score
        assert minari == (entry.minari or "-")
