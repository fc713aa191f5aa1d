"""What breaks the rules of LeRobot datasets is named."""

import json

import pyarrow as pa
import pytest
from lerobot_sets import EPISODES, FRAMES, edit_info, edit_table, make, setting

from posttrain.vla.lerobot import validate, write

# What breaks the rules.


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (FRAMES, setting("index", [0, 1, 2, 3, 4, 5, 6, 9]), "index, frame 3: wanted 7, got 9"),
        (FRAMES, setting("frame_index", [0, 1, 2, 0, 0, 1, 3, 3]), "episode 2: frame_index"),
        (FRAMES, setting("episode_index", [0, 0, 0, 0, 2, 2, 2, 2]), "episode 1: episode_index"),
        (FRAMES, setting("task_index", [0, 0, 0, 7, 0, 0, 0, 0]), "task_index 7 is none of the 2"),
        (FRAMES, setting("timestamp", [0, 1, 2, 0, 0, 1, 2, 3]), "timestamp, frame 1: wanted 0.08"),
        (FRAMES, lambda t: t.drop_columns(["action"]), "has no column action"),
        (FRAMES, lambda t: t.append_column("more", pa.array([1] * 8)), "does not declare"),
        (FRAMES, lambda t: t.slice(0, 7), "holds 7 rows, its episodes have 8"),
        (EPISODES, setting("dataset_from_index", [0, 2, 4]), "episode 1: length"),
        (EPISODES, setting("length", [3, 2, 4]), "episode 1: length says 2, its rows are 1"),
        (EPISODES, setting("tasks", [["go to 0"], ["fly"], ["go to 0"]]), "'fly' is not in"),
        (EPISODES, setting("data/file_index", [0, 0, 3]), "file-003.parquet is missing"),
        (EPISODES, lambda t: t.slice(0, 2), "total_episodes: info.json says 3, the tables hold 2"),
        (EPISODES, lambda t: t.drop_columns(["dataset_to_index"]), "lacks 'dataset_to_index'"),
        ("meta/tasks.parquet", lambda t: t.slice(0, 1), "total_tasks: info.json says 2"),
    ],
)  # fmt: skip
def test_broken_tables(tmp_path, name, change, said):
    write(make(), tmp_path / "d")
    edit_table(tmp_path / "d", name, change)
    assert said in "; ".join(validate(tmp_path / "d"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codebase_version": "v1.6"}, "wanted codebase_version v3.0 or v2.1, got 'v1.6'"),
        ({"fps": 0}, "fps must be positive, got 0"),
        ({"fps": 11}, "timestamp"),
        ({"total_frames": 9}, "total_frames: info.json says 9, the tables hold 8"),
        ({"data_path": "../{chunk_index}.parquet"}, "leads out of the dataset"),
        ({"data_path": "data/{nonsense}.parquet"}, "is no path template"),
        ({"data_path": "data/{chunk_index:03d}/{file_index:03d}.parquet"}, "is missing"),
        ({"splits": {"train": "0:9"}}, "splits.train"),
        ({"features": {}}, "features: timestamp is missing"),
        ({"features": {"action": {"dtype": "quaternion", "shape": [4]}}}, "'quaternion' is none"),
    ],
)
def test_broken_info(tmp_path, change, said):
    write(make(), tmp_path / "d")
    edit_info(tmp_path / "d", **change)
    assert said in "; ".join(validate(tmp_path / "d"))


def test_declared_shapes_and_types_are_checked(tmp_path):
    write(make(), tmp_path / "d")
    features = json.loads((tmp_path / "d/meta/info.json").read_text())["features"]
    for name, change, said in (
        ("action", {"shape": [3]}, "action: features declares float32 of shape [3]"),
        ("action", {"dtype": "float64"}, "action: features declares float64"),
        ("observation.images.front", {"shape": [9, 6, 3]}, "wanted [9, 6, 3]"),
        ("index", {"dtype": "int32"}, "features.index: wanted int64"),
    ):
        edit_info(tmp_path / "d", features={**features, name: {**features[name], **change}})
        assert said in "; ".join(validate(tmp_path / "d")), name


@pytest.mark.parametrize(
    "name", ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES, FRAMES]
)
def test_torn_and_missing_files(tmp_path, name):
    write(make(), tmp_path / "d")
    path = tmp_path / "d" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (torn, *_) = validate(tmp_path / "d")
    assert path.name in torn
    assert "cannot be read" in torn or "is no JSON" in torn
    path.unlink()
    assert validate(tmp_path / "d")


def test_a_picture_that_is_none_is_named(tmp_path):
    write(make(), tmp_path / "d")
    cell = {"bytes": b"\x89PNG nonsense", "path": "x"}
    edit_table(tmp_path / "d", FRAMES, setting("observation.images.front", [cell] * 8))
    assert (
        "observation.images.front, row 0: cannot be read as a picture"
        in validate(tmp_path / "d")[0]
    )
    outside = {"bytes": None, "path": "../../secret.png"}
    edit_table(tmp_path / "d", FRAMES, setting("observation.images.front", [outside] * 8))
    assert "is no file of the dataset" in validate(tmp_path / "d")[0]


def test_missing_stats_are_named(tmp_path):
    write(make(), tmp_path / "d")
    path = tmp_path / "d/meta/stats.json"
    stats = json.loads(path.read_text())
    del stats["action"], stats["observation.state"]["std"]
    stats["observation.images.front"]["mean"] = [0.5]
    path.write_text(json.dumps(stats))
    said = "; ".join(validate(tmp_path / "d"))
    for part in ("action is missing", "state.std is missing", "front.mean: wanted shape [3, 1, 1]"):
        assert part in said
