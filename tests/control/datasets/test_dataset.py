import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import episodes_of, same

from control.datasets import Dataset, DatasetError, concat


def naive_mc(dataset, gamma, scale, bias):
    """One episode after the other, each row's sum written out."""
    result = []
    for start, stop in zip(dataset.starts, dataset.stops, strict=True):
        for row in range(start, stop):
            total = 0.0
            for later in range(row, stop):
                total += gamma ** (later - row) * (scale * dataset.rewards[later] + bias)
                if dataset.terminals[later]:
                    break
            result.append(total)
    return np.array(result)


ragged = st.lists(
    st.lists(st.floats(-2, 2).map(lambda x: round(x, 2)), min_size=1, max_size=6),
    min_size=1,
    max_size=6,
)


def test_returns_are_sums_of_raw_rewards_by_hand():
    dataset = episodes_of([[1, 2], [3], [-1, 0, 5]], terminal=[1])
    assert dataset.returns().tolist() == [3, 3, 4]
    assert dataset.lengths().tolist() == [2, 1, 3]
    assert dataset.truncated.tolist() == [False, True, True]
    assert dataset.episode.tolist() == [0, 0, 1, 2, 2, 2]


def test_mc_returns_by_hand():
    dataset = episodes_of([[1, 2, 4], [8]])
    assert dataset.mc_returns(0.5).tolist() == [1 + 1 + 1, 2 + 2, 4, 8]
    # scale 10 and bias -5 once: rewards 5, 15, 35 | 75
    assert dataset.mc_returns(0.5, scale=10, bias=-5).tolist() == [
        5 + 7.5 + 8.75,
        15 + 17.5,
        35,
        75,
    ]


@given(ragged, st.floats(0, 1), st.sampled_from([(1, 0), (10, -5), (1, -4)]), st.data())
def test_mc_returns_equal_the_written_out_sums(rewards, gamma, scaling, data):
    rows = sum(len(r) for r in rewards)
    terminal = data.draw(st.sets(st.integers(0, rows - 1), max_size=3))
    dataset = episodes_of(rewards, terminal=terminal)
    scale, bias = scaling
    got = dataset.mc_returns(gamma, scale=scale, bias=bias)
    assert np.allclose(got, naive_mc(dataset, gamma, scale, bias), atol=1e-12)


@given(ragged, st.floats(0.1, 0.99))
def test_scaling_commutes_with_discounting(rewards, gamma):
    dataset = episodes_of(rewards)
    scaled = dataset.mc_returns(gamma, scale=3.0)
    assert np.allclose(scaled, 3.0 * dataset.mc_returns(gamma))


def test_a_bootstrapped_cut_gives_what_the_uncut_episode_gives():
    whole = episodes_of([[1, 2, 3, 4]], terminal=[3]).mc_returns(0.9)
    cut = episodes_of([[1, 2]])
    assert np.allclose(cut.mc_returns(0.9, bootstrap=whole[2]), whole[:2])
    assert not np.allclose(cut.mc_returns(0.9), whole[:2])


def test_a_terminal_is_never_bootstrapped():
    dataset = episodes_of([[1, 2]], terminal=[1])
    assert dataset.mc_returns(0.5, bootstrap=100.0).tolist() == [2, 2]


def test_a_last_step_without_transition_still_counts():
    whole = episodes_of([[1, 2, 4], [8, 16]])
    held = episodes_of([[1, 2], [8, 16]], last_rewards=[4, np.nan])
    assert held.returns().tolist() == whole.returns().tolist()
    assert held.lengths().tolist() == whole.lengths().tolist()
    assert held.mc_returns(0.5, scale=2, bias=1).tolist() == pytest.approx(
        whole.mc_returns(0.5, scale=2, bias=1)[[0, 1, 3, 4]].tolist()
    )


def test_failure_is_worth_failing_for_ever():
    dataset = episodes_of([[0, 0], [0, 1]], terminal=[3], success=[False, True])
    value = (10 * 0 - 5) / (1 - 0.99)
    got = dataset.mc_returns(0.99, scale=10, bias=-5, failure_value=value)
    assert got[:2].tolist() == [value, value]
    assert got[2:] == pytest.approx([-5 + 0.99 * 5, 5])


def test_failure_value_needs_to_know_who_failed():
    with pytest.raises(DatasetError, match="success is None"):
        episodes_of([[0.0]]).mc_returns(0.9, failure_value=-1.0)


@given(ragged, st.data())
def test_taking_all_episodes_in_two_orders_gives_the_dataset_back(rewards, data):
    dataset = episodes_of(rewards, success=[len(r) > 2 for r in rewards])
    order = np.array(data.draw(st.permutations(range(dataset.episodes))))
    assert same(dataset.take(order).take(np.argsort(order)), dataset)


def test_taking_keeps_each_episode_whole():
    dataset = episodes_of([[1, 2], [3], [4, 5, 6]], terminal=[2])
    taken = dataset.take([2, 0])
    assert taken.rewards.tolist() == [4, 5, 6, 1, 2]
    assert taken.observations.ravel().tolist() == [3, 4, 5, 0, 1]
    assert taken.returns().tolist() == [15, 3]
    assert dataset.take(np.array([False, True, False])).rewards.tolist() == [3]


@pytest.mark.parametrize("episodes", [[], [3], [-1], np.array([True])])
def test_taking_what_is_not_there_is_refused(episodes):
    with pytest.raises(DatasetError, match="episodes"):
        episodes_of([[1], [2], [3]]).take(episodes)


@given(ragged, ragged)
def test_laying_end_to_end_lays_returns_end_to_end(one, other):
    a, b = episodes_of(one), episodes_of(other, last_rewards=[1.0] * len(other))
    both = concat(a, b, name="both")
    assert both.returns().tolist() == [*a.returns(), *b.returns()]
    assert same(both.take(range(a.episodes)).take(range(a.episodes)), both.take(range(a.episodes)))


def test_datasets_of_different_width_are_not_laid_end_to_end():
    a = episodes_of([[1]])
    wide = Dataset(
        observations=np.zeros((1, 2)), actions=np.zeros((1, 1)), rewards=[0],
        next_observations=np.zeros((1, 2)), terminals=[True], ends=[True], name="wide",
    )  # fmt: skip
    with pytest.raises(DatasetError, match="one observation and action size"):
        concat(a, wide, name="both")


def test_scores_carry_what_a_diagnosis_reads():
    dataset = episodes_of([[1, 2], [3]], terminal=[1], success=[True, False])
    scores = dataset.scores()
    assert scores.returns.tolist() == [3, 3]
    assert scores.unit.tolist() == ["toy/0", "toy/1"]
    assert set(scores.source) == {"dataset"}
    assert scores.steps.tolist() == [2, 1]
    assert scores.truncated.tolist() == [False, True]
    assert scores.success.tolist() == [True, False]
    assert dataset.scores("success").returns.tolist() == [1, 0]


def test_an_episode_that_recording_broke_off_has_no_return():
    dataset = episodes_of([[1, 2], [3], [4]], success=[True, True, False], incomplete=[0, 1, 1])
    assert dataset.scores().scorable.returns.tolist() == [3]
    assert dataset.scores("success").scorable.returns.tolist() == [1, 1]


def test_success_is_not_invented():
    with pytest.raises(DatasetError, match="which episodes succeeded"):
        episodes_of([[1]]).scores("success")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [1.0]}, "actions|observations"),
        ({"rewards": [1.0, float("nan")]}, "rewards: .*row 1"),
        ({"observations": np.full((2, 1), np.inf)}, "observations: .*row 0"),
        ({"actions": np.zeros(2)}, r"actions: wanted shape \[2, d\], got \[2\]"),
        ({"next_observations": np.zeros((2, 2))}, "next_observations"),
        ({"ends": [True, False]}, "ends"),
        ({"success": [True, False]}, "success: .*1 episodes"),
    ],
)
def test_a_crooked_dataset_is_refused_by_column(change, message):
    rows = np.zeros((2, 1))
    columns = {
        **dict.fromkeys(("observations", "actions", "next_observations"), rows),
        "rewards": [0.0, 0.0],
        "terminals": [False, True],
        "ends": [False, True],
        "name": "x",
    }
    with pytest.raises(DatasetError, match=message):
        Dataset(**{**columns, **change})
