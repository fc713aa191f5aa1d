"""Records: one recipe a folder, stages that are finished for it, readers of what exists."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.recipe import read
from posttrain.record import Record, RecordError, environment, write_json
from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, write_scores
from posttrain.yaml12 import to_yaml

RECIPE = "name: a\ntrain:\n  steps: 10\n  rates: [1, 2]\n"


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "runs" / "a")
    record.begin(RECIPE, seed=3)
    return record


def test_a_new_record_holds_its_recipe_and_its_environment(record):
    assert record.recipe() == {"name": "a", "train": {"steps": 10, "rates": [1, 2]}}
    assert record.environment()["seed"] == 3


def test_the_same_recipe_goes_on_whatever_the_order_of_its_fields(record):
    record.mark("sft", fingerprint="x")
    record.begin("train: {rates: [1, 2], steps: 10}\nname: a\n", seed=3)
    assert record.done("sft", fingerprint="x")


def test_another_recipe_is_refused_with_the_fields_that_differ(record):
    other = "name: a\ntrain: {steps: 20, rates: [1, 3]}\nextra: null\n"
    with pytest.raises(RecordError) as caught:
        record.begin(other, seed=3)
    sentence = str(caught.value)
    assert "train.steps was 10, now 20" in sentence
    assert "train.rates.1 was 2, now 3" in sentence
    assert "extra was absent, now None" in sentence
    assert "--fresh" in sentence
    assert record.recipe()["train"]["steps"] == 10


def test_fields_that_may_differ_do(record):
    record.begin(RECIPE.replace("name: a", "name: b"), seed=3, free=("name",))
    assert record.recipe()["name"] == "b"


def test_a_fresh_start_forgets_everything(record):
    record.mark("sft", fingerprint="x")
    record.metrics.append({"step": 1})
    record.begin(RECIPE.replace("10", "20"), seed=4, fresh=True)
    assert record.stages() == {}
    assert record.metrics.read() == []
    assert record.environment()["seed"] == 4


def test_a_folder_that_is_no_record_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(RecordError, match="not empty and not a run's record"):
            Record(tmp_path).begin(RECIPE, seed=0, fresh=fresh)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_a_killed_start_left_is_no_obstacle(tmp_path):
    (tmp_path / ".recipe.yaml.123.partial").write_text("nam")
    Record(tmp_path).begin(RECIPE, seed=0)
    Record(tmp_path).environment_file.unlink()
    Record(tmp_path).begin(RECIPE, seed=0)
    assert Record(tmp_path).environment() is not None


def test_a_stage_is_done_for_its_fingerprint_only(record):
    assert not record.done("sft", fingerprint="x")
    record.mark("sft", fingerprint="x", loss=float("nan"))
    assert record.done("sft", fingerprint="x")
    assert not record.done("sft", fingerprint="y")
    assert not record.done("rl", fingerprint="x")
    assert record.stages() == {"sft": {"fingerprint": "x", "loss": None}}


leaves = st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.none()
trees = st.dictionaries(
    st.text("abc.", min_size=1, max_size=2),
    st.recursive(
        leaves,
        lambda x: st.lists(x, max_size=2)
        | st.dictionaries(st.text("ab", max_size=1), x, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)  # fmt: skip


@settings(max_examples=25)
@given(trees, trees)
def test_a_record_goes_on_exactly_for_an_equal_recipe(tmp_path_factory, old, new):
    record = Record(tmp_path_factory.mktemp("runs") / "a")
    record.begin(to_yaml(old), seed=0)
    if read(to_yaml(old)) == read(to_yaml(new)):
        record.begin(to_yaml(new), seed=0)
    else:
        with pytest.raises(RecordError, match="another recipe"):
            record.begin(to_yaml(new), seed=0)


def test_readers_return_none_for_what_does_not_exist(tmp_path):
    record = Record(tmp_path)
    assert record.recipe() is None
    assert record.environment() is None
    assert record.scores() is None
    assert record.diagnosis() is None
    assert record.diagnosis(seen=True) is None
    assert record.plan() is None
    assert record.outcome() is None
    assert record.outcome_scores() is None
    assert record.evaluations() is None
    assert record.metrics.read() == []


def test_readers_return_what_was_written(record):
    scores = Scores(
        np.array([0.0, 1.0, 1.0, 1.0]), source=np.array(["policy"] * 2 + ["dataset"] * 2)
    )
    write_scores(scores, record.scores_file)
    assert record.scores().rows() == scores.rows()
    diagnosis = diagnose([0.0, 1.0] * 20, [1.0] * 40)
    write_json(record.diagnosis_file, diagnosis.to_dict())
    assert record.diagnosis() == diagnosis
    table = pa.table({"step": [0, 1], "unit": ["a", "a"], "return": [0.0, 1.0]})
    pq.write_table(table, record.evaluations_file)
    assert record.evaluations() == table


@pytest.mark.parametrize("text", ["", "{", "[]", '{"regime": "inferior"}'])
def test_a_damaged_file_is_named(record, text):
    record.diagnosis_file.write_text(text)
    with pytest.raises(RecordError, match=r"diagnosis\.json"):
        record.diagnosis()


def test_the_environment_tells_versions_and_nothing_private(monkeypatch):
    monkeypatch.setenv("USER", "ada")
    text = json.dumps(environment(7))
    assert environment(7)["packages"]["numpy"] == np.__version__
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text
    assert "ada" not in text


def test_the_environment_imports_nothing_heavy():
    code = (
        "import sys; from posttrain.record import environment; environment(0); "
        "print(sorted({'torch', 'transformers', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
