import numpy as np
import pytest
from made_data import same, save

from control.datasets import from_columns, open_dataset, write_hdf5
from control.datasets.kitchen import newly_done, running


def demonstrations(counts):
    """D4RL's kitchen columns: counts of tasks done, a terminal at the end of each, no time-outs."""
    rows = sum(map(len, counts))
    stops = np.cumsum([len(c) for c in counts]) - 1
    steps = np.arange(rows)[:, None]
    return {
        "observations": np.concatenate([steps, steps * 0.5], axis=1).astype(np.float32),
        "actions": np.zeros((rows, 1), np.float32),
        "rewards": np.concatenate(counts).astype(np.float32),
        "terminals": np.isin(np.arange(rows), stops).astype(np.float32),
    }


COUNTS = [[0, 1, 1, 3, 3], [0, 0, 1, 0, 1], [1, 2, 3, 4, 4, 4]]


def test_each_task_pays_once_and_only_the_last_ends_the_task():
    columns = newly_done(demonstrations(COUNTS))
    assert columns["rewards"].tolist() == [0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1]
    assert np.flatnonzero(columns["terminals"]).tolist() == [13]
    assert np.flatnonzero(columns["timeouts"]).tolist() == [4, 9]


def test_the_return_is_the_number_of_tasks_done():
    dataset = from_columns(newly_done(demonstrations(COUNTS)), name="kitchen-partial-v0")
    assert dataset.returns().tolist() == [3, 1, 4]
    assert dataset.truncated.tolist() == [True, True, False]


def test_a_demonstrations_last_row_does_not_run_into_the_next():
    """The file's own terminals would hide that no next observation is known there."""
    dataset = from_columns(newly_done(demonstrations(COUNTS)), name="k")
    steps = dataset.next_observations[:, 0] - dataset.observations[:, 0]
    assert (steps[~dataset.terminals] == 1).all()
    assert not np.isin(dataset.observations[:, 0], [4, 9]).any()


def test_running_rewards_are_what_the_file_counted():
    dataset = from_columns(newly_done(demonstrations([[0, 1, 1, 3, 3], [1, 2, 3, 4]])), name="k")
    assert running(dataset).tolist() == [0, 1, 1, 3, 1, 2, 3, 4]


def test_a_task_undone_and_done_again_pays_once():
    dataset = from_columns(newly_done(demonstrations([[0, 1, 0, 1, 0, 2, 1]])), name="k")
    assert dataset.returns().tolist() == [2]


@pytest.mark.parametrize("length", [200, 400])
def test_kitchen_files_are_cut_at_demonstrations_not_at_the_horizon(tmp_path, length):
    counts = [[0] * (length - 1) + [1], [0] * 100 + [4] * 50]
    path = save(tmp_path / "kitchen_microwave_kettle_light_slider-v0.hdf5", demonstrations(counts))
    dataset = open_dataset("kitchen-partial-v0", folder=tmp_path)
    assert dataset.lengths().tolist() == [length, 101]
    assert dataset.returns().tolist() == [1, 4]
    assert dataset.success.tolist() == [False, True]
    assert dataset.terminals.sum() == 1
    write_hdf5(dataset, path)  # ours now: rewards must not be turned a second time
    assert same(open_dataset(str(path)), dataset, about=False)
