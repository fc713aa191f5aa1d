import numpy as np
import pytest
from made_data import save, walk

from control.datasets import DatasetError, open_dataset, write_hdf5
from control.datasets.dataset import Dataset


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path / "d4rl"


@pytest.fixture
def columns():
    return walk(np.random.default_rng(0), [6, 4])


def test_a_d4rl_name_finds_its_file_where_d4rl_keeps_it(empty, columns):
    save(empty / "hopper_medium-v2.hdf5", columns)
    dataset = open_dataset("hopper-medium-v2")
    assert dataset.name == "hopper-medium-v2"
    assert dataset.about["env"] == "Hopper-v4"
    assert dataset.success is None


def test_a_file_is_recognised_by_its_name(tmp_path, columns):
    path = save(tmp_path / "hopper_medium-v2.hdf5", columns)
    assert open_dataset(str(path)).name == "hopper-medium-v2"
    other = save(tmp_path / "mine.hdf5", columns)
    assert open_dataset(str(other)).name == "mine"


def test_the_registrys_horizon_cuts_old_files(tmp_path):
    columns = walk(np.random.default_rng(0), [1000, 1000, 5])
    del columns["timeouts"]
    save(tmp_path / "walker2d_random-v2.hdf5", columns)
    dataset = open_dataset("walker2d-random-v2", folder=tmp_path)
    assert dataset.lengths().tolist() == [1000, 1000, 5]


def test_sparse_tasks_are_judged_and_say_where_they_cannot_be_evaluated(tmp_path, columns):
    columns["rewards"] = np.array([0, 0, 1, 0, 0, 0] + [0] * 4, np.float32)
    name = "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    save(tmp_path / name, columns)
    dataset = open_dataset("antmaze-medium-play-v2", folder=tmp_path)
    assert dataset.success.tolist() == [True, False]
    assert "another ant" in dataset.about["env differs"]
    assert dataset.scores("success").returns.tolist() == [1, 0]


def test_a_file_of_our_own_serves_where_none_was_published(empty):
    rows = np.zeros((3, 1), np.float32)
    dataset = Dataset(
        observations=rows, actions=rows, rewards=[-1, 0, -1], next_observations=rows,
        terminals=[False, False, False], ends=[False, True, True], name="pen-binary-v0",
    )  # fmt: skip
    write_hdf5(dataset, empty / "pen-binary-v0.hdf5")
    assert open_dataset("pen-binary-v0").success.tolist() == [True, False]


def test_a_missing_file_says_where_and_what_to_download(empty):
    with pytest.raises(DatasetError) as error:
        open_dataset("hopper-medium-v2")
    text = str(error.value)
    assert str(empty / "hopper_medium-v2.hdf5") in text
    assert "gym_mujoco_v2/hopper_medium-v2.hdf5" in text
    assert "'mujoco/hopper/medium-v0' (other data" in text


def test_what_was_only_pickled_is_said_to_be_so():
    with pytest.raises(DatasetError, match=r"pickled \.npy .*write_hdf5"):
        open_dataset("door-binary-v0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hoper-medium-v2", "[Dd]id you mean hopper-medium-v2"),
        ("antmaze-huge-play-v2", "[Dd]id you mean antmaze-large-play-v2"),
        ("zzz", "no such dataset. Wanted the path"),
        ("D4RL/antmaze/large-play-v1", "minari download D4RL/antmaze/large-play-v1"),
        ("d4rl/antmaze/large-play-v1", "[Dd]id you mean D4RL/antmaze/large-play-v1"),
        ("nowhere/x.hdf5", "no such file"),
        ("local/nothing-v0", "no such dataset"),
    ],
)
def test_wrong_names_are_answered_with_near_ones(name, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset(name)
