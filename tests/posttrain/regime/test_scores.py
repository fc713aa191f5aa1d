import json
import math
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from posttrain.regime.scores import Scores, ScoresError, concat, read_scores, write_scores

FORMATS = ("jsonl", "csv", "parquet")
VALUES = {
    "return": st.floats(allow_nan=False, allow_infinity=False),
    "unit": st.text() | st.from_regex(r"\A-?[0-9]{1,4}(\.0|e3)?\Z") | st.sampled_from(["", "nan"]),
    "source": st.sampled_from(["policy", "dataset", None]),
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "steps": st.none() | st.integers(0, 2**63 - 1),
    "success": st.booleans(),
    "truncated": st.booleans(),
    "text": st.none()
    | st.text()
    | st.sampled_from(["", "a\r\nb", '"', "\0", "\u2028", ",", "null"]),
    "prompt": st.none() | st.text(),
    "split": st.sampled_from(["seen", "heldout", None]),
    "decoding": st.sampled_from(["rollout", "deployment", None]),
    "task": st.none() | st.text(),
}
OPTIONAL = [*[*VALUES][1:], "unscorable"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def tables(draw):
    names = ["return", *draw(st.sets(st.sampled_from([*OPTIONAL])))]
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        row = {name: draw(VALUES[name]) for name in names if name != "unscorable"}
        if "unscorable" in names:
            row["unscorable"] = draw(st.booleans())
            row["return"] = None if row["unscorable"] else row["return"]
        rows.append(row)
    tasks = {row.get("unit"): row.get("task") for row in rows}
    rows = [row | {"task": tasks[row.get("unit")]} if "unit" in row and "task" in row else row
            for row in rows]  # fmt: skip
    key = ("unit", "seed", "source", "split", "decoding")
    distinct = {tuple(row.get(name) for name in key): row for row in rows}
    return list(distinct.values())


def known(rows):
    """Rows without the columns in which nothing is known: those count as absent."""
    told = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in {"return": 0, **dict.fromkeys(told)}} for row in rows]


def save(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=150)
@given(rows=tables())
def test_every_table_survives_a_round_trip(folder, suffix, rows):
    scores = Scores.from_rows(rows)
    path = folder / f"round.{suffix}"
    write_scores(scores, path)
    assert [dict(sorted(row.items())) for row in scores.rows()] == [
        dict(sorted(row.items())) for row in known(rows)
    ]
    assert read_scores(path).rows() == scores.rows()


@given(rows=tables())
def test_rows_and_from_rows_are_inverse(rows):
    scores = Scores.from_rows(rows)
    assert Scores.from_rows(scores.rows()).rows() == scores.rows()


@settings(max_examples=300)
@given(
    suffix=st.sampled_from(FORMATS),
    content=st.binary(max_size=200)
    | st.lists(JSON.map(json.dumps) | st.text()).map(lambda lines: "\n".join(lines).encode())
    | st.lists(
        st.dictionaries(st.sampled_from([*VALUES, "unscorable", "reward"]), JSON, min_size=1)
    ).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | st.lists(st.sampled_from([*VALUES, ",", '"', "\n", "\r", "1", "true", "\0", "\xff"])).map(
        lambda parts: ("return,unit\n" + "".join(parts)).encode("latin-1")
    ),
)
def test_no_content_raises_anything_but_a_scores_error(folder, suffix, content):
    try:
        scores = read_scores(save(folder, f"fuzz.{suffix}", content))
    except ScoresError as error:
        assert f"fuzz.{suffix}: " in str(error)  # noqa: PT017
    else:
        assert np.isfinite(scores.scorable.returns).all()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 10**6),
)
def test_a_damaged_parquet_file_is_refused_or_read(folder, flips, cut):
    whole = folder / "whole.parquet"
    if not whole.exists():
        write_scores(Scores([0.0, 1.0], unit=["a", "b"], seed=[1, 2], source=["policy"] * 2), whole)
    data = bytearray(whole.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path = save(folder, "cut.parquet", bytes(data[: cut % len(data) or None]))
    with suppress(ScoresError):
        read_scores(path)


@settings(max_examples=100)
@given(
    columns=st.dictionaries(
        st.sampled_from([*VALUES, "unscorable"]), st.lists(JSON, min_size=2, max_size=2)
    )
)
def test_any_rows_are_taken_or_refused_with_a_sentence(columns):
    rows = [{name: values[i] for name, values in columns.items()} for i in range(2)]
    with suppress(ScoresError):
        Scores.from_rows(rows)


LINES = {
    "an empty file": ("", "the file is empty"),
    "blank lines only": ("\n \n", "the file is empty"),
    "a broken line": ('{"return": 1}\n{"return"', "row 2: not a line of JSON"),
    "a line that is no object": ('{"return": 1}\n[1]', "row 2: wanted an object, got list"),
    "no returns": ('{"unit": "a"}', "column 'return' is missing (there: unit)"),
    "a return left out": (
        '{"return": 1, "unit": "b"}\n\n{"unit": "a"}',
        "row 2, column 'return': wanted a finite number, got null or NaN",
    ),
    "an unknown column": (
        '{"return": 1}\n{"return": 1, "sucess": true}',
        "row 2: unknown column 'sucess'; did you mean 'success'?",
    ),
    "NaN": ('{"return": NaN}', "row 1, column 'return': wanted a finite number, got null or NaN"),
    "infinity": ('{"return": -Infinity}', "wanted a finite number, got -inf"),
    "a number too large": (f'{{"return": 1{"0" * 400}}}', "wanted a finite number, got 1000"),
    "a flag as return": ('{"return": true}', "row 1, column 'return': wanted a number, got true"),
    "text as return": ('{"return": "1"}', "row 1, column 'return': wanted a number, got '1'"),
    "a return of an unscorable row": (
        '{"return": 0.5, "unscorable": true}',
        "row 1, column 'return': wanted null, for an unscorable row, got 0.5",
    ),
    "a number as flag": ('{"return": 1, "success": 1}', "wanted true or false, got 1"),
    "a missing flag": ('{"return": 1, "success": true}\n{"return": 1}', "row 2, column 'success'"),
    "a fraction as seed": ('{"return": 1, "seed": 1.5}', "column 'seed': wanted a whole number"),
    "a flag as seed": ('{"return": 1, "seed": true}', "column 'seed': wanted a whole number"),
    "negative steps": ('{"return": 1, "steps": -2}', "column 'steps': wanted a whole number"),
    "a seed too large": (f'{{"return": 1, "seed": {2**63}}}', "'seed': wanted a whole number"),
    "an unknown source": ('{"return": 1, "source": "model"}', 'wanted "policy" or'),
    "a fraction as unit": ('{"return": 1, "unit": 1.5}', "column 'unit': wanted text, got 1.5"),
    "a missing unit": ('{"return": 1, "unit": "a"}\n{"return": 1}', "row 2, column 'unit'"),
    "half a character": ('{"return": 1, "text": "\\ud800"}', "row 1, column 'text'"),
    "the same sample twice": (
        '{"return": 1, "unit": "a", "seed": 3}\n' * 2,
        "row 2: duplicate unit 'a' with seed 3, as in row 1",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_is_refused_by_row_and_column(tmp_path, case):
    content, sentence = LINES[case]
    with pytest.raises(ScoresError, match=re.escape(sentence)) as refusal:
        read_scores(save(tmp_path, "a.jsonl", content))
    assert str(refusal.value).startswith(str(tmp_path / "a.jsonl"))


CELLS = {
    "text as return": ("return,unit\n1,a\nx,b\n", "row 2, column 'return': wanted a number"),
    "a grouped number": ("return\n1_0\n", "row 1, column 'return': wanted a number, got '1_0'"),
    "infinity": ("return\ninf\n", "row 1, column 'return': wanted a finite number, got inf"),
    "yes for a flag": ("return,success\n1,yes\n", "wanted true or false, got 'yes'"),
    "too few fields": ("return,unit\n1,a\n2\n", "row 2: has 1 fields, the header 2"),
    "too many fields": ("return\n1,a\n", "row 1: has 2 fields, the header 1"),
    "a column twice": ("return,return\n1,2\n", "column 'return' stands there twice"),
    "a header alone": ("return,unit\n", "there are no rows"),
    "another encoding": ("return,unit\n1,é\n".encode("latin-1"), "line 2 is not UTF-8 text"),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, case):
    content, sentence = CELLS[case]
    with pytest.raises(ScoresError, match=re.escape(sentence)):
        read_scores(save(tmp_path, "a.csv", content))


def test_a_file_that_is_missing_a_folder_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ScoresError, match=r"a\.csv: cannot be read \(No such file"):
        read_scores(tmp_path / "a.csv")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ScoresError, match=r"b\.jsonl: cannot be read \(Is a directory"):
        read_scores(tmp_path / "b.jsonl")
    with pytest.raises(ScoresError, match=r"wanted a file ending in \.jsonl, \.csv, \.parquet"):
        read_scores(save(tmp_path, "a.json", "[]"))
    with pytest.raises(ScoresError, match="the file is empty"):
        read_scores(save(tmp_path, "a.parquet", ""))
    with pytest.raises(ScoresError, match="not a Parquet table"):
        read_scores(save(tmp_path, "a.parquet", "PAR1PAR1PAR1"))


def test_a_spreadsheet_reads_as_meant(tmp_path):
    path = save(
        tmp_path,
        "A.CSV",
        b'\xef\xbb\xbfreturn,unit,success,seed,text\r\n1,007,TRUE,,\r\n0.5,"a,b",False,3.0,""\r\n',
    )
    assert read_scores(path).rows() == [
        {"return": 1.0, "unit": "007", "seed": None, "success": True, "text": None},
        {"return": 0.5, "unit": "a,b", "seed": 3, "success": False, "text": ""},
    ]


def test_foreign_parquet_types_are_read_as_what_they_hold(tmp_path):
    table = pa.table(
        {
            "return": pa.array([1, 0, None], pa.int8()),
            "unit": pa.array([7, 8, 9], pa.int32()),
            "source": pa.array(["policy", None, "policy"]).dictionary_encode(),
            "seed": pa.array([1.0, None, 3.0]),
            "steps": pa.array([1, None, 2**63 - 1], pa.int64()),
            "unscorable": pa.array([False, False, True]),
            "text": pa.array(["x", None, "z"], pa.large_string()),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    read = read_scores(tmp_path / "a.parquet")
    assert read.unit.tolist() == ["7", "8", "9"]
    assert read.seed.tolist() == [1, -1, 3]
    assert read.steps.tolist() == [1, -1, 2**63 - 1]
    assert read.source.tolist() == ["policy", None, "policy"]
    assert read.returns.tolist()[:2] == [1.0, 0.0]
    assert math.isnan(read.returns[2])


def test_a_source_is_chosen_before_what_the_other_lacks_is_missed(tmp_path):
    lines = (
        '{"return": 1, "source": "dataset"}\n'
        '{"return": 0, "source": "policy", "unit": "a", "success": true}\n'
        '{"return": "x", "source": "policy", "unit": "b", "success": true}\n'
    )
    path = save(tmp_path, "a.jsonl", lines)
    dataset = read_scores(path, source="dataset")
    assert dataset.rows() == [{"return": 1.0, "source": "dataset"}]
    with pytest.raises(ScoresError, match="row 3, column 'return'"):
        read_scores(path, source="policy")
    with pytest.raises(ScoresError, match="row 1, column 'unit'"):
        read_scores(save(tmp_path, "a.jsonl", lines.replace('"x"', "1")))


def test_a_file_without_sources_is_all_of_the_one_asked_for(tmp_path):
    path = save(tmp_path, "a.csv", "return\n1\n")
    assert read_scores(path, source="dataset").source.tolist() == ["dataset"]
    assert read_scores(path).source is None


def test_a_source_that_no_row_has_is_refused(tmp_path):
    path = save(tmp_path, "a.csv", "return,source\n1,policy\n")
    with pytest.raises(ScoresError, match="no row has source 'dataset'"):
        read_scores(path, source="dataset")


def test_samples_of_a_unit_need_different_seeds_only_where_they_have_one():
    Scores([0.0, 1.0], unit=["a", "a"])
    Scores([0.0, 1.0, 1.0], unit=["a", "a", "b"], seed=[-1, -1, 2])
    Scores([0.0, 1.0], unit=["a", "a"], seed=[1, 1], decoding=["rollout", "deployment"])
    with pytest.raises(ScoresError, match="row 3: duplicate unit 'a' with seed 1, as in row 1"):
        Scores([0.0, 1.0, 0.0], unit=["a", "b", "a"], seed=[1, 1, 1])


def test_columns_of_different_length_or_shape_are_refused():
    with pytest.raises(ScoresError, match="column 'unit' has 1 values while 'return' has 2"):
        Scores([0.0, 1.0], unit=["a"])
    with pytest.raises(ScoresError, match="column 'return' must be one-dimensional"):
        Scores(np.zeros((2, 2)))
    with pytest.raises(ScoresError, match="wanted true or false, got 1"):
        Scores(np.zeros(1), success=np.ones(1, dtype=int))
    with pytest.raises(ScoresError, match="row 2, column 'return': wanted a finite number"):
        Scores([0.0, math.nan])


def test_where_keeps_what_fulfils_every_condition():
    scores = Scores(
        [0.0, 1.0, 2.0, 3.0],
        source=["policy", "policy", "dataset", None],
        split=["seen", "heldout", "heldout", "heldout"],
    )
    assert scores.where(source="policy").returns.tolist() == [0.0, 1.0]
    assert scores.where(source="policy", split="heldout").returns.tolist() == [1.0]
    assert scores.where(scores.returns > 1, split="heldout").returns.tolist() == [2.0, 3.0]
    assert len(scores.where(source="dataset", split="seen")) == 0
    with pytest.raises(ScoresError, match="no column 'decoding'"):
        scores.where(decoding="rollout")
    with pytest.raises(ScoresError, match='split is "seen" or "heldout", got \'train\''):
        scores.where(split="train")
    with pytest.raises(ScoresError, match="mask must be 4 booleans, got int64"):
        scores.where([0, 1, 2, 3])


def test_scorable_drops_the_rows_without_a_return():
    scores = Scores([0.0, math.nan], unscorable=[False, True], unit=["a", "b"])
    assert scores.scorable.unit.tolist() == ["a"]


@given(tables(), st.data())
def test_cutting_a_table_and_joining_it_again_changes_nothing(rows, data):
    scores = Scores.from_rows(rows)
    cut = data.draw(st.integers(0, len(rows)))
    first = np.arange(len(rows)) < cut
    assert concat(scores.where(first), scores.where(~first)).rows() == scores.rows()


def test_concat_fills_what_can_be_unknown_and_refuses_the_rest():
    policy = Scores([math.nan], unit=["a"], source=["policy"], seed=[4], unscorable=[True])
    dataset = Scores([1.0], unit=["a"], source=["dataset"], text=["hi"])
    both = concat(policy, dataset)
    assert both.seed.tolist() == [4, -1]
    assert both.text.tolist() == [None, "hi"]
    assert both.unscorable.tolist() == [True, False]
    with pytest.raises(ScoresError, match="table 2 of 2 has no column 'unit'"):
        concat(policy, Scores([1.0]))
    with pytest.raises(ScoresError, match="at least one"):
        concat()
    with pytest.raises(ScoresError, match="duplicate unit 'a' with seed 4"):
        concat(policy, policy)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.jsonl"
    write_scores(Scores([1.0]), path)

    def fail(*_args, **_settings):
        raise RuntimeError

    monkeypatch.setattr("posttrain.regime.table.json.dumps", fail)
    with pytest.raises(RuntimeError):
        write_scores(Scores([2.0]), path)
    monkeypatch.undo()
    assert read_scores(path).returns.tolist() == [1.0]
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_nothing_and_unknown_suffixes_are_not_written(tmp_path):
    with pytest.raises(ScoresError, match="no scores to write"):
        write_scores(Scores([]), tmp_path / "a.csv")
    with pytest.raises(ScoresError, match="wanted a file ending in"):
        write_scores(Scores([1.0]), tmp_path / "a.txt")


def test_words_are_shared_across_the_pieces_of_a_parquet_file(tmp_path):
    table = pa.table({"return": [1.0, 2.0, 3.0], "source": ["dataset", None, "policy"]})
    pieces = pa.concat_tables(
        [
            table.slice(i, 1).set_column(
                1, "source", table["source"].slice(i, 1).dictionary_encode()
            )
            for i in (2, 1, 0)
        ]
    )
    parquet.write_table(pieces, tmp_path / "a.parquet", row_group_size=1)
    assert read_scores(tmp_path / "a.parquet").source.tolist() == ["policy", None, "dataset"]


def test_a_task_is_a_column_that_may_be_unknown(tmp_path):
    rows = [{"return": 1.0, "unit": "a/0", "task": "a"}, {"return": 0.0, "unit": "b/0"}]
    scores = Scores.from_rows(rows)
    assert scores.task.tolist() == ["a", None]
    assert scores.where(task="a").unit.tolist() == ["a/0"]
    assert len(scores.where(task="b")) == 0
    assert concat(scores, Scores([1.0], unit=["c"])).task.tolist() == ["a", None, None]
    with pytest.raises(ScoresError, match="no column 'task'"):
        Scores([1.0]).where(task="a")


def test_a_unit_of_two_tasks_is_refused():
    with pytest.raises(ScoresError, match=r"row 3: unit '0' is of task 'b' here and of task 'a'"):
        Scores([1.0, 0.0, 1.0], unit=["0", "1", "0"], task=["a", "a", "b"])
