import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.llm.data import DataError, Row, load_rows, row_from_dict, split, unit_of
from posttrain.llm.settings import Corruption, DataSettings

SUMS = {
    "min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2, "operators": ["+"],
    "allow_parentheses": False, "allow_negation": False,
}  # fmt: skip


def sums(**settings):
    return DataSettings(
        path="reasoning_gym:basic_arithmetic",
        options=SUMS,
        **{"size": 300, "heldout": 50, **settings},
    )


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_seen_and_heldout_prompts_do_not_meet():
    train, heldout = load_rows(sums())
    assert len({row.unit for row in heldout}) == 50
    assert not {row.text for row in train} & {row.text for row in heldout}


def test_a_unit_stays_on_its_side_whatever_the_other_rows_are():
    rows = [
        Row(unit=str(i), prompt=({"role": "user", "content": str(i)},), completion="1")
        for i in range(40)
    ]
    _, aside = split(rows, 10, name="rows")
    _, again = split(rows[::-1], 10, name="rows")
    assert {r.unit for r in aside} == {r.unit for r in again}


def test_a_careless_demonstrator_forgets_the_carry_and_nothing_else():
    clean, _ = load_rows(sums())
    careless, _ = load_rows(sums(corruption=Corruption(share=1.0, how="no_carry")))
    for right, wrong in zip(clean, careless, strict=True):
        a, b = (int(t) for t in right.text.removeprefix("Calculate ").rstrip(".").split(" + "))
        expected = sum((a // p + b // p) % 10 * p for p in (1, 10, 100))
        assert (wrong.unit, wrong.answer) == (right.unit, right.answer)
        assert int(wrong.completion) == expected


def test_a_unit_is_corrupted_or_not_whatever_the_size():
    few, _ = load_rows(sums(size=200, corruption=Corruption(share=0.5, how="no_carry")))
    many, _ = load_rows(sums(size=400, corruption=Corruption(share=0.5, how="no_carry")))
    by_unit = {row.unit: row.completion for row in many}
    shared = [row for row in few if row.unit in by_unit]
    assert len(shared) > 100
    assert all(by_unit[row.unit] == row.completion for row in shared)


def test_files_and_conversations_give_the_same_rows(tmp_path):
    plain = [{"question": f"q{i}", "reply": f"a{i}", "gold": i} for i in range(12)]
    talk = [
        {
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": f"a{i}"},
            ],
            "gold": i,
        }
        for i in range(12)
    ]
    columns = {"prompt": "question", "completion": "reply", "answer": "gold"}
    one = load_rows(
        DataSettings(path=write(tmp_path / "a.jsonl", plain), columns=columns, heldout=4)
    )
    two = load_rows(
        DataSettings(path=write(tmp_path / "b.jsonl", talk), columns={"answer": "gold"}, heldout=4)
    )
    assert one == two


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    jsonl = write(tmp_path / "a.jsonl", rows)
    assert load_rows(DataSettings(path=jsonl, heldout=4)) == load_rows(
        DataSettings(path=str(tmp_path / "a.parquet"), heldout=4)
    )


def test_a_saved_dataset_is_read(tmp_path):
    from datasets import Dataset

    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(12)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "d"))
    jsonl = write(tmp_path / "a.jsonl", rows)
    assert load_rows(DataSettings(path=str(tmp_path / "d"), heldout=4)) == load_rows(
        DataSettings(path=jsonl, heldout=4)
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "at least one row"),
        ([{"prompt": "q"}], "row 1: no field 'completion'"),
        ([{"prompt": "q", "completion": "a"}, {"completion": "a"}], "row 2: no field 'prompt'"),
        ([{"prompt": True, "completion": "a"}], "row 1: prompt: wanted a text"),
        ([{"prompt": [{"role": "user"}], "completion": "a"}], "wanted messages with role"),
        ([{"prompt": "q", "completion": "a"}] * 3, "only 1 units in all"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        load_rows(DataSettings(path=write(tmp_path / "a.jsonl", rows), heldout=2))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_rows(DataSettings(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match="reasoning_gym:nonsense"):
        load_rows(DataSettings(path="reasoning_gym:nonsense"))


def test_leaking_heldout_prompts_are_refused(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(6)]
    with pytest.raises(DataError, match="2 held-out prompts are also in"):
        load_rows(
            DataSettings(
                path=write(tmp_path / "a.jsonl", rows),
                heldout_path=write(
                    tmp_path / "b.jsonl", [*rows[:2], {"prompt": "new", "completion": "a"}]
                ),
            )
        )


@given(st.binary(max_size=200))
def test_no_file_breaks_the_reader(tmp_path_factory, blob):
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(blob)
    with pytest.raises(DataError):
        load_rows(DataSettings(path=str(path), heldout=50))


@given(st.text(max_size=30), st.text(max_size=30), st.none() | st.text(max_size=5))
def test_rows_survive_json(question, completion, answer):
    prompt = ({"role": "user", "content": question},)
    row = Row(unit=unit_of(prompt), prompt=prompt, completion=completion, answer=answer)
    assert row_from_dict(json.loads(json.dumps(row.to_dict()))) == row
