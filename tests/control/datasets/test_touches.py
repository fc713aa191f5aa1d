import warnings

import numpy as np
import pytest
from made_data import save

from control.datasets import DatasetError, from_columns, open_dataset
from control.datasets.touches import FragmentWarning, first_touches


def driven(lengths, near, *, resets=()):
    """Ant-like trajectories along x; rows in `near` pay 1 and are called terminal.

    A trajectory ends by time-out, or at its last row's terminal where it is in `resets`.
    """
    place, timeouts = [], []
    for number, length in enumerate(lengths):
        steps = np.arange(length)
        place.append(np.stack([50.0 * number + 0.1 * steps, 0.1 * steps], axis=1))
        timeouts.append((steps == length - 1) & (number not in resets))
    rows = sum(lengths)
    terminals = np.isin(np.arange(rows), near)
    return {
        "observations": np.concatenate(place).astype(np.float32),
        "actions": np.zeros((rows, 1), np.float32),
        "rewards": terminals.astype(np.float32),
        "terminals": terminals,
        "timeouts": np.concatenate(timeouts),
    }


@pytest.fixture
def columns():
    """Three trajectories: one touches the goal in rows 5-8, one never, one in its rows 3, 7, 8."""
    return driven([10, 10, 10], [5, 6, 7, 8, 23, 27, 28])


def test_each_trajectory_counts_once_up_to_its_first_touch(columns):
    dataset = from_columns(first_touches(columns), name="maze")
    assert dataset.returns().tolist() == [1, 0, 1]
    assert dataset.lengths().tolist() == [6, 10, 4]
    assert np.flatnonzero(dataset.terminals).tolist() == [5, 18]  # of the rows that are left
    assert dataset.truncated.tolist() == [False, True, False]


def test_cut_at_every_touch_most_of_the_data_succeed(columns):
    """What splitting at terminals, as for other files, would make of J(D): 7 of 8, not 2 of 3."""
    assert from_columns(columns, name="maze").returns().mean() == 7 / 8


def test_a_terminal_that_is_followed_by_a_reset_ends_its_trajectory():
    columns = driven([6, 8, 8], [5, 20], resets=(0,))
    dataset = from_columns(first_touches(columns), name="maze")
    assert dataset.lengths().tolist() == [6, 8, 7]
    assert dataset.returns().tolist() == [1, 0, 1]


def test_no_next_observation_is_anothers(columns):
    kept = from_columns(first_touches(columns), name="maze")
    steps = kept.next_observations[:, 0] - kept.observations[:, 0]
    assert np.allclose(steps[~kept.terminals], 0.1, atol=1e-4)


def test_opening_an_ant_maze_counts_trajectories(tmp_path, columns):
    name = "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    save(tmp_path / name, columns)
    dataset = open_dataset("antmaze-medium-play-v2", folder=tmp_path)
    assert dataset.success.tolist() == [True, False, True]
    assert dataset.scores("success").returns.mean() == pytest.approx(2 / 3)


def test_time_outs_are_needed(columns):
    del columns["timeouts"]
    with pytest.raises(DatasetError, match="timeouts"):
        first_touches(columns)


def test_runs_of_terminals_are_warned_of():
    touched = driven([100], list(range(50, 80)))
    with pytest.warns(FragmentWarning, match="29 of 30 terminals"):
        from_columns(touched, name="unknown")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_columns(first_touches(touched), name="unknown")
