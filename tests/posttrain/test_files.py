"""Files that appear whole or not at all, and logs that survive a torn end."""

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.files import (
    MetricsLog,
    RecordError,
    fingerprint,
    read_json,
    read_jsonl,
    replacing,
    replacing_folder,
    to_json,
    write_json,
    write_jsonl,
    write_text,
)

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
rows = st.lists(st.dictionaries(st.text(), numbers | st.text() | st.none(), max_size=4), max_size=6)


def names(folder):
    return [path.name for path in folder.iterdir()]


def write_half(replacement, name):
    with replacement as temporary:
        (temporary / name).write_text("half")
        raise ZeroDivisionError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError):
        write_half(replacing(path), "")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    with replacing_folder(path) as temporary:
        (temporary / "weights").write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(replacing_folder(path), "weights")
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_who_has_the_file_open_goes_on_reading_the_whole_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):
        with replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert names(path) == ["second"]


def test_a_folder_survives_a_kill_between_the_two_renames(tmp_path):
    path = tmp_path / "model"
    with replacing_folder(path) as temporary:
        (temporary / "weights").write_text("old")
    path.rename(tmp_path / ".model.old")  # where a kill would have left it
    with pytest.raises(ZeroDivisionError):
        write_half(replacing_folder(path), "weights")
    assert (path / "weights").read_text() == "old"


WRITER = """
import sys
from pathlib import Path
from posttrain.files import MetricsLog, write_json
log, path = MetricsLog(Path(sys.argv[1]) / "log.jsonl"), Path(sys.argv[1]) / "a.json"
step = 0
while True:
    step += 1
    log.append({"step": step, "text": "x" * 5000})
    write_json(path, [step] * 5000)
"""


def test_a_writer_killed_at_any_moment_leaves_readable_files(tmp_path):
    for wait in (0.02, 0.05, 0.09):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        deadline = time.monotonic() + 60
        while not (tmp_path / "a.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        values = read_json(tmp_path / "a.json")
        assert values == [values[0]] * 5000
        steps = [row["step"] for row in MetricsLog(tmp_path / "log.jsonl").read()]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) in {values[0], values[0] + 1}
        (tmp_path / "log.jsonl").unlink()
        (tmp_path / "a.json").unlink()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_json_cannot_say_is_refused_or_null_where_asked(tmp_path, bad):
    with pytest.raises(ValueError, match=r"a\.b\[1\]: wanted a finite number for JSON"):
        write_json(tmp_path / "x.json", {"a": {"b": [1, bad]}})
    assert names(tmp_path) == []
    write_json(tmp_path / "x.json", {"a": [bad]}, nan_as_null=True)
    assert read_json(tmp_path / "x.json") == {"a": [None]}


def test_numpy_values_are_written_as_plain_ones():
    value = {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(3)}
    assert json.loads(to_json(value)) == {"i": 3, "f": 0.5, "b": True, "a": [0, 1, 2]}


@given(rows)
def test_rows_written_are_rows_read(tmp_path_factory, given_rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    write_jsonl(path, given_rows)
    assert read_jsonl(path) == given_rows


@given(rows, st.data())
def test_a_log_cut_anywhere_keeps_its_whole_rows_and_goes_on(tmp_path_factory, given_rows, data):
    log = MetricsLog(tmp_path_factory.mktemp("log") / "log.jsonl")
    given_rows = [row | {"step": i} for i, row in enumerate(given_rows)]
    write_jsonl(log.path, given_rows)
    whole = log.path.read_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    log.path.write_bytes(cut)
    kept = given_rows[: cut.count(b"\n")]
    assert log.read() == kept
    log.append({"step": 99})
    assert log.read() == [*kept, {"step": 99}]


def test_a_torn_end_longer_than_a_block_is_cut(tmp_path):
    log = MetricsLog(tmp_path / "log.jsonl")
    log.append({"step": 1})
    with log.path.open("ab") as handle:
        handle.write(b'{"step": 2, "text": "' + b"x" * 10_000)
    log.append({"step": 2})
    assert [row["step"] for row in log.read()] == [1, 2]


def test_a_damaged_line_in_the_middle_is_not_skipped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RecordError, match="line 2: wanted one JSON object"):
        read_jsonl(path)
    path.write_text('{"step": 1}\n[2]\n')
    with pytest.raises(RecordError, match="line 2"):
        read_jsonl(path)


def test_a_resumed_log_forgets_later_rows(tmp_path):
    log = MetricsLog(tmp_path / "log.jsonl")
    log.truncate_after(5)
    assert log.read() == []
    for step in range(5):
        log.append({"step": step})
    log.truncate_after(2)
    assert [row["step"] for row in log.read()] == [0, 1, 2]


@pytest.mark.parametrize("row", [{}, {"step": 1.5}, {"step": True}, {"step": "1"}])
def test_a_row_without_a_step_is_refused(tmp_path, row):
    with pytest.raises(ValueError, match="a row needs a whole number 'step'"):
        MetricsLog(tmp_path / "log.jsonl").append(row)


@given(st.dictionaries(st.text(), numbers, min_size=1))
def test_a_fingerprint_sees_values_and_not_their_order(value):
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))
    key = next(iter(value))
    assert fingerprint(value) != fingerprint(value | {key: "other"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(RecordError, match=r"x\.jsonl: no such file"):
        read_jsonl(tmp_path / "x.jsonl")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RecordError, match=r"x\.json: not JSON"):
        read_json(tmp_path / "x.json")
