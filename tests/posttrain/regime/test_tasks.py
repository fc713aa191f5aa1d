import json

import numpy as np
import pytest

from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, ScoresError
from posttrain.regime.signal import silent_share
from posttrain.regime.tasks import TaskDiagnosis, by_task, mean_over_tasks
from posttrain.regime.verdict import Interval


def side(rates, n=50, seed=0, start=0):
    """Binary returns at given success rates by task, on starts `start` to `start + n`."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{task}/{start + i}", task, float(rng.random() < rate))
        for task, rate in rates.items()
        for i in range(n)
    ]
    units, tasks, returns = zip(*rows, strict=True)
    return Scores([*returns], unit=[*units], task=[*tasks])


BENCH = {f"task {i}": rate for i, rate in enumerate((0.95, 0.9, 0.92, 0.97, 0.9, 0.2))}
PERFECT = dict.fromkeys(BENCH, 1.0)


def test_a_tasks_raw_verdict_is_that_of_diagnose():
    policy, dataset = side(BENCH), side(PERFECT, start=1000)
    found = by_task(policy, dataset)
    for task in found.tasks:
        alone = diagnose(policy.where(task=task.task), dataset.where(task=task.task))
        assert (task.gap, task.interval, task.regime) == (alone.gap, alone.interval, alone.regime)
        assert (task.j_policy, task.j_dataset) == (alone.j_policy, alone.j_dataset)
        assert (task.units_policy, task.episodes_dataset, task.paired) == (50, 50, False)
    assert found.mean_gap == pytest.approx(np.mean([task.gap for task in found.tasks]))


def test_the_worst_task_comes_first_and_is_called_different():
    found = by_task(side(BENCH), side({**PERFECT, "task 0": 0.5}))
    assert found.tasks[0].task == "task 5"
    assert found.tasks[0].pooled_regime == found.tasks[0].regime == "inferior"
    assert found.tasks[-1].task == "task 0"
    assert found.tasks[-1].pooled_regime == "superior"
    assert not found.agree
    (flag,) = [flag for flag in found.flags if flag.kind == "tasks_differ"]
    assert "inferior: 'task 5'" in flag.text
    assert "superior: 'task 0'" in flag.text


def test_tasks_that_agree_are_not_called_different():
    found = by_task(side(PERFECT), side(PERFECT))
    assert found.agree
    assert not found.flags
    assert {task.pooled_regime for task in found.tasks} == {"comparable"}
    assert found.mean_regime == "comparable"


def test_the_verdicts_of_all_tasks_together_are_the_more_careful_ones():
    found = by_task(side({**BENCH, "task 0": 0.82}), side(PERFECT))
    assert any(task.together == "undecided" != task.regime for task in found.tasks)
    for task in found.tasks:
        assert task.together in {"undecided", task.regime}


def test_one_side_without_a_task_leaves_it_out_and_says_so():
    found = by_task(side({"a": 0.5, "b": 0.5}), side({"b": 0.5, "c": 0.5}))
    assert [task.task for task in found.tasks] == ["b"]
    texts = {flag.kind: flag.text for flag in found.flags}
    assert "'a', 'c'" in texts["tasks_left_out"]
    assert "few_tasks" in texts


def test_success_stands_beside_returns_that_time_makes_smaller():
    slow = Scores([0.5] * 20 + [0.0] * 5, task=["a"] * 25, success=[True] * 20 + [False] * 5)
    found = by_task(slow, slow).tasks[0]
    assert found.success_policy == 0.8
    assert found.j_policy == pytest.approx(0.4)
    assert by_task(side({"a": 0.5}), side({"a": 0.5})).tasks[0].success_policy is None


@pytest.mark.parametrize(
    ("policy", "dataset", "words"),
    [
        (Scores([0.0, 1.0]), side({"a": 0.5}), "policy: no column 'task'"),
        (side({"a": 0.5}), Scores([0.0, 1.0], task=["a", None]), "dataset: 1 of 2 episodes"),
        (side({"a": 0.5}), side({"b": 0.5}), "no task has 2 units on both sides"),
        (side({"a": 0.5}, n=1), side({"a": 0.5}), "no task has 2 units on both sides"),
    ],
)
def test_sides_that_cannot_be_compared_by_task_are_refused(policy, dataset, words):
    with pytest.raises(ScoresError, match=words):
        by_task(policy, dataset)


def test_a_diagnosis_by_task_survives_json():
    found = by_task(side(BENCH), side(PERFECT), scale=(-1, 1), margin=0.1)
    assert TaskDiagnosis.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(ValueError, match="unknown key"):
        TaskDiagnosis.from_dict({**found.to_dict(), "odd": 1})


def test_unbounded_returns_that_never_vary_leave_a_task_undecided():
    rng = np.random.default_rng(0)
    returns = np.concatenate([np.ones(20), rng.normal(0.5, 0.1, 40)])
    policy = Scores(returns, task=["a"] * 20 + ["b"] * 20 + ["c"] * 20)
    found = by_task(policy, policy, bounded=False)
    assert {task.task: task.regime for task in found.tasks}["a"] == "undecided"
    assert TaskDiagnosis.from_dict(found.to_dict()) == found


def test_the_mean_over_tasks_counts_each_task_once():
    mean = mean_over_tasks([0.0, -0.4], [Interval(-0.3, 0.1), Interval(-0.8, -0.4)])
    assert mean == pytest.approx((-0.2 - 0.25, -0.2 + 0.05))


def samples(table, task=None):
    """Units with so many successes and failures."""
    rows = [(u, r) for u, (h, m) in enumerate(table) for r in [1.0] * h + [0.0] * m]
    units, returns = zip(*rows, strict=True)
    return Scores([*returns], unit=[f"t/{u}" for u in units], task=task and [task] * len(units))


def test_silent_groups_are_counted_where_starts_have_enough_samples():
    found = silent_share(samples([(4, 0), (0, 4), (2, 2)]), 2)
    assert found.how == "counted"
    assert found.share == pytest.approx((1 + 1 + 2 / 6) / 3)
    assert found.low <= found.share <= found.high <= 1
    assert (found.group, found.groups) == (2, 3)


def test_one_sample_a_start_gives_only_bounds():
    found = silent_share(samples([(1, 0)] * 50 + [(0, 1)] * 50), 8)
    assert found.how == "bounds"
    assert found.share == pytest.approx(2 * 0.5**8)
    assert found.low <= found.share < found.high == 1.0


def test_few_samples_a_start_show_how_starts_differ():
    rng = np.random.default_rng(0)
    for a, b in ((0.3, 0.3), (8.0, 8.0)):
        chance = rng.beta(a, b, 300)
        hits = rng.binomial(4, chance)
        found = silent_share(samples([(h, 4 - h) for h in hits], task="t"), 8)
        assert found.how == "beta_binomial"
        assert found.low < np.mean(chance**8 + (1 - chance) ** 8) < found.high


def test_time_penalised_successes_are_not_silent():
    fast = Scores([0.9, 0.8, 0.7, 0.6, 0.0, 0.0, 0.0, 0.0], unit=["a"] * 4 + ["b"] * 4)
    assert silent_share(fast, 2).share == 0.5


@pytest.mark.parametrize(("scores", "group"), [(samples([(1, 1)]), 1), (Scores([1.0]), 2)])
def test_silent_groups_need_units_and_company(scores, group):
    with pytest.raises(ValueError, match=r"group must be at least 2|needs scores with the column"):
        silent_share(scores, group)
