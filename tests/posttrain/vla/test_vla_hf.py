"""Rows in the HF datasets format: one a frame, or one an episode."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.hf_data import read_rows

LENGTHS = (3, 2)
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WANTED = [4, 0, 2]


def cell(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def by_frame(**more):
    return pa.table({
        "image": pa.array([cell(f) for f in FRAMES], PICTURE),
        "episode_index": ["x", "x", "x", "y", "y"],
        "instruction": ["go"] * 3 + ["stay"] * 2,
        "action": [[0.5, i] for i in map(float, range(5))],
        "reward": [0.0, 0.0, 1.0, 0.0, 0.0],
        "success": [False, False, True, False, False],
        "seed": [7, 7, 7, -1, -1],
        **more,
    })  # fmt: skip


def by_episode(**more):
    cells = [cell(f) for f in FRAMES]
    return pa.table({
        "front": pa.array([cells[:3], cells[3:]], pa.list_(PICTURE)),
        "language_instruction": ["go", "stay"],
        "actions": [[0, 1, 2], [3, 0]],
        "state": [[[float(i), 0.0] for i in range(3)], [[3.0, 0.0], [4.0, 0.0]]],
        "rewards": [[0.0, 0.0, 1.0], [0.0, 0.0]],
        "success": [True, None],
        **more,
    })  # fmt: skip


def test_one_row_a_frame(tmp_path):
    pq.write_table(by_frame(), tmp_path / "d.parquet")
    d = read_rows(tmp_path / "d.parquet")
    assert d.name == "d"
    assert [(e.begin, e.length, e.task) for e in d.episodes] == [(0, 3, "go"), (3, 2, "stay")]
    assert [(e.seed, e.success, e.origin) for e in d.episodes] == [
        (7, True, "stored"), (None, False, "stored"),
    ]  # fmt: skip
    assert d.actions.tolist() == [[0.5, i] for i in range(5)]
    assert d.rewards.tolist() == [0, 0, 1, 0, 0]
    assert dict(d.pictures.shapes) == {"image": (4, 6, 3)}
    assert (d.pictures.read(WANTED)["image"] == FRAMES[WANTED]).all()


def test_one_row_an_episode(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(by_episode(), tmp_path / "data/train-00000-of-00001.parquet")
    pq.write_table(by_episode().slice(0, 1), tmp_path / "data/test-00000-of-00001.parquet")
    d = read_rows(tmp_path)
    assert [(e.begin, e.length, e.task) for e in d.episodes] == [(0, 3, "go"), (3, 2, "stay")]
    assert [(e.success, e.origin) for e in d.episodes] == [(True, "stored"), (None, "unknown")]
    assert d.actions.tolist() == [0, 1, 2, 3, 0]
    assert d.states[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (d.pictures.read(WANTED)["front"] == FRAMES[WANTED]).all()


def test_what_datasets_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [
        {"view": Image.fromarray(frame), "episode": i // 3, "task": "go", "action": i % 2}
        for i, frame in enumerate(FRAMES)
    ]
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(tmp_path / "disk")
    saved.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "disk", tmp_path / "rows.parquet"):
        d = read_rows(path)
        assert [e.length for e in d.episodes] == [3, 2]
        assert d.actions.tolist() == [0, 1, 0, 1, 0]
        assert (d.pictures.read(WANTED)["view"] == FRAMES[WANTED]).all()


def test_files_that_rows_name(tmp_path):
    for i, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    cells = [{"bytes": None, "path": f"{i}.png"} for i in range(5)]
    pq.write_table(by_frame(image=pa.array(cells, PICTURE)), tmp_path / "d.parquet")
    found = read_rows(tmp_path / "d.parquet").pictures.read(WANTED)["image"]
    assert (found == FRAMES[WANTED]).all()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (by_frame().drop_columns(["action"]), r"data\.columns\.action: .*episode_index"),
        (by_frame().drop_columns(["instruction"]), r"data\.columns\.instruction"),
        (by_frame().drop_columns(["episode_index"]), r"data\.columns\.episode: "),
        (by_frame().drop_columns(["image"]), "has no pictures"),
        (by_frame().take([0, 3, 1, 2, 4]), "stand apart in episode_index"),
        (by_frame(action=["left"] * 5), "wanted numbers"),
        (by_episode(actions=[[0, 1], [3, 0]]), "row 0 has 2 actions and 3 pictures in front"),
    ],
)
def test_what_is_missing_is_named(tmp_path, table, said):
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DemonstrationsError, match=said):
        read_rows(tmp_path / "d.parquet")


def test_no_files_and_torn_ones(tmp_path):
    with pytest.raises(DemonstrationsError, match="holds no Parquet or Arrow file"):
        read_rows(tmp_path)
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DemonstrationsError, match="cannot be read"):
        read_rows(tmp_path)


def test_columns_and_cameras_are_named(tmp_path):
    pq.write_table(by_frame(other=["walk"] * 5), tmp_path / "d.parquet")
    d = read_rows(tmp_path / "d.parquet", {"instruction": "other", "top": "image"})
    assert {e.task for e in d.episodes} == {"walk"}
    assert list(d.pictures.shapes) == ["top"]
    with pytest.raises(DemonstrationsError, match=r"data\.columns\.top: .*no pictures in 'reward'"):
        read_rows(tmp_path / "d.parquet", {"top": "reward"})
