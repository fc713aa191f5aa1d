import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import episodes_of

from control.datasets import (
    Dataset,
    DatasetError,
    Success,
    end_at_success,
    filter_success,
    judge,
    relabel_goal,
)

ADROIT = [[-1, -1, 0, -1, 0, -1], [-1, -1, -1], [0, -1], [-1, 0]]


def naive_filter(rewards):
    """What Cal-QL's loader keeps of each trajectory: all up to the last 0, if there is one."""
    kept = []
    for episode in rewards:
        where = [i for i, reward in enumerate(episode) if reward == 0]
        if where:
            kept.append(episode[: where[-1] + 1])
    return kept


def naive_returns(kept, gamma):
    """Its return-to-go: nothing follows a step that was a success."""
    result = []
    for episode in kept:
        following, back = 0.0, []
        for reward in reversed([10 * r + 5 for r in episode]):
            following = reward + gamma * following * (0 if reward == 5 else 1)
            back.append(following)
        result += back[::-1]
    return result


def test_the_filter_is_the_published_loaders():
    dataset = filter_success(episodes_of(ADROIT), at=0.0)
    kept = naive_filter(ADROIT)
    assert dataset.rewards.tolist() == [r for episode in kept for r in episode]
    assert dataset.terminals.tolist() == [r == 0 for episode in kept for r in episode]
    assert dataset.lengths().tolist() == [5, 1, 2]
    got = dataset.mc_returns(0.99, scale=10, bias=5)
    assert got == pytest.approx(naive_returns(kept, 0.99), rel=1e-12)


@given(st.lists(st.lists(st.sampled_from([-1, 0]), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_filter_is_the_published_loaders_always(rewards):
    kept = naive_filter(rewards)
    if not kept:
        with pytest.raises(DatasetError, match="no episode"):
            filter_success(episodes_of(rewards))
        return
    dataset = filter_success(episodes_of(rewards))
    assert [r.tolist() for r in np.split(dataset.rewards, dataset.stops[:-1])] == kept


def test_filtering_makes_success_certain_so_the_report_has_both():
    """The trap: J(D) is 1 on what is left, whatever the data were worth."""
    dataset = filter_success(episodes_of(ADROIT))
    (report,) = dataset.about["filters"]
    assert report["before"]["success rate"] == 0.75
    assert report["after"]["success rate"] == 1.0
    assert report["before"]["episodes"] == 4
    assert report["before"]["mean return"] == pytest.approx((-4 - 3 - 1 - 1) / 4)
    assert dataset.success.all()


def test_filters_add_up_in_the_report():
    once = filter_success(episodes_of(ADROIT))
    twice = end_at_success(once, at=0.0)
    assert [f["rule"] for f in twice.about["filters"]] == [
        "episodes with a reward >= 0, cut at the last",
        "end at the first success",
    ]


def test_cutting_at_the_first_success_makes_it_the_end():
    dataset = filter_success(episodes_of(ADROIT), cut="first")
    assert dataset.rewards.tolist() == [-1, -1, 0, 0, -1, 0]
    assert dataset.terminals.tolist() == dataset.ends.tolist()


def test_not_cutting_keeps_episodes_whole():
    dataset = filter_success(episodes_of(ADROIT), cut="none")
    assert dataset.lengths().tolist() == [6, 2, 2]


def test_ending_at_success_keeps_failures_whole():
    dataset = end_at_success(episodes_of([[0, 1, 0], [0, 0]], incomplete=[True, True]), at=1.0)
    assert dataset.rewards.tolist() == [0, 1, 0, 0]
    assert dataset.terminals.tolist() == [False, True, False, False]
    assert dataset.incomplete.tolist() == [False, True]


def test_ending_early_forgets_the_last_step_that_was_not_held():
    dataset = end_at_success(episodes_of([[0, 1, 0], [0, 0]], last_rewards=[0.0, 0.5]), at=1.0)
    assert dataset.returns().tolist() == [1, 0.5]
    assert dataset.lengths().tolist() == [2, 3]


def test_success_is_judged_by_reward_or_return():
    dataset = episodes_of([[0, 1, 0], [0, 0, 0], [0.5, 0.5, 0.5]], last_rewards=[np.nan, 1, 0])
    assert judge(dataset, Success(at=1.0)).success.tolist() == [True, True, False]
    assert judge(dataset, Success(of="return", at=1.5)).success.tolist() == [False, False, True]


def test_relabelling_pays_for_one_goal_and_ends_there():
    """Two walks along x; the goal at (2, 0) lies on the first only."""
    x = np.array([0, 1, 2, 3, 0, -1], dtype=np.float32)
    observations = np.stack([x, 0 * x, x], axis=1)
    following = np.stack([[1, 2, 3, 4, -1, -2], 0 * x, x], axis=1)
    dataset = Dataset(
        observations=observations,
        actions=np.zeros((6, 1)),
        rewards=np.ones(6),
        next_observations=following,
        terminals=np.zeros(6),
        ends=[False, False, False, True, False, True],
        name="maze",
    )
    relabelled = relabel_goal(dataset, (2.0, 0.0))
    assert relabelled.rewards.tolist() == [0, 1, 0, 0]
    assert relabelled.terminals.tolist() == [False, True, False, False]
    assert relabelled.success.tolist() == [True, False]
    assert "relabelled" in relabelled.about["rewards"]
