"""What a study's table takes from records: on the unit scale, held-out, complete cells only."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.record import Record, write_json, write_text
from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, concat, write_scores
from posttrain.study.read import read_finish, read_start

SCALE = (-200.0, 0.0)


def side(source, returns, split="heldout"):
    rows = [
        {"unit": f"{source}-{split}-{i}", "source": source, "return": r, "split": split}
        for i, r in enumerate(returns)
    ]
    return Scores.from_rows(rows)


@pytest.fixture
def record(tmp_path):
    found = Record(tmp_path / "cell")
    found.begin("name: cell\n", seed=0)
    return found


@pytest.fixture
def diagnosed(record):
    policy, dataset = [-150.0, -100.0, -110.0], [-20.0, -60.0, -50.0]
    table = concat(side("policy", policy), side("dataset", dataset), side("policy", [0.0], "seen"))
    write_scores(table, record.scores_file)
    write_text(record.diagnosis_file, diagnose(policy, dataset, scale=SCALE).to_json())
    return record


def test_a_start_is_what_the_diagnosis_compared_as_shares_of_its_scale(diagnosed):
    q = {"policy": -3.0, "dataset": -1.0, "scale": 8.0}
    write_json(diagnosed.path / "alternatives.json", {"q": q, "bc": {"j": -50.0}})
    start = read_start(diagnosed.path, 5)
    assert start.policy == pytest.approx([0.25, 0.5, 0.45])
    assert start.dataset == pytest.approx([0.9, 0.7, 0.75])
    assert (start.j_policy, start.j_dataset) == (pytest.approx(0.4), pytest.approx(2.35 / 3))
    assert (start.q_gap, start.j_clone) == (-0.25, 0.75)


@pytest.mark.parametrize("q", [None, {"policy": 1.0, "dataset": 0.0, "scale": 0.0}])
def test_without_a_critic_or_a_scale_q_says_nothing(diagnosed, q):
    write_json(diagnosed.path / "alternatives.json", {"q": q, "bc": None})
    start = read_start(diagnosed.path, 5)
    assert start.q_gap is None
    assert start.j_clone is None


def test_what_is_not_complete_is_not_there(record):
    assert read_start(record.path, 0) is None
    assert read_finish(record.path, 0, SCALE) is None
    assert read_finish(record.path / "nowhere", 0, SCALE) is None


def test_a_finish_has_its_outcome_and_the_means_of_its_evaluations(diagnosed):
    write_json(diagnosed.outcome_file, {"after": -40.0})
    write_json(diagnosed.plan_file, {"plan": {"interventions": [], "family": "minimal"}})
    table = {"step": [10, 0, 10, 0], "unit": list("abba"), "return": [-60.0, -150.0, -20.0, -50.0]}
    pq.write_table(pa.table(table), diagnosed.evaluations_file)
    cell = read_finish(diagnosed.path, 5, SCALE)
    assert (cell.seed, cell.family, cell.final) == (5, "minimal", pytest.approx(0.8))
    assert cell.steps.tolist() == [0, 10]
    assert cell.curve == pytest.approx(np.array([0.5, 0.8]))
    values = {metric: cell.value(metric) for metric in ("final", "mean", "best")}
    assert values == pytest.approx({"final": 0.8, "mean": 0.65, "best": 0.8})


def test_a_cell_without_rl_comes_to_what_it_pretrained(diagnosed):
    assert read_finish(diagnosed.path, 0, SCALE) is None
    diagnosed.mark("outcome", fingerprint="x")
    cell = read_finish(diagnosed.path, 0, SCALE)
    assert cell.value("mean") == cell.final == pytest.approx(0.4)
