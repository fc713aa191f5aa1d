"""LeRobot datasets: what is written is read back bit for bit, and broken sets are named."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_sets import make, same
from PIL import Image

from posttrain.vla.demonstrations import DemonstrationsError, Episode, Held
from posttrain.vla.lerobot import read, validate, write
from posttrain.vla.lerobot.stats import count_levels, of_levels, of_numbers


def test_round_trip(tmp_path):
    d = make()
    write(d, tmp_path / "d")
    same(d, read(tmp_path / "d"))
    assert validate(tmp_path / "d", frames=True) == []


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    discrete=st.booleans(),
    stated=st.booleans(),
    rewarded=st.booleans(),
    seeded=st.sampled_from(["all", "some", "none"]),
    judged=st.sampled_from(["all", "some", "none"]),
)
def test_round_trips(tmp_path_factory, lengths, order, discrete, stated, rewarded, seeded, judged):
    d = make(tuple(lengths), discrete=discrete, cameras=("image",))
    keep = {"all": (0, 1), "some": (1,), "none": ()}
    episodes = [
        replace(
            e,
            seed=e.seed if i % 2 in keep[seeded] else None,
            success=e.success if i % 2 in keep[judged] else None,
            origin=e.origin if i % 2 in keep[judged] else "unknown",
        )
        for i, e in enumerate(d.episodes)
    ]
    order.shuffle(episodes)
    d = replace(
        d, episodes=tuple(episodes), states=d.states if stated else None,
        rewards=d.rewards if rewarded else None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("d") / "d"
    write(d, folder)
    same(d, read(folder))
    assert validate(folder, frames=True) == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
def test_actions_keep_type_and_axes(tmp_path, dtype):
    shape = (8, 1) if dtype.startswith("float") else (8,)
    d = replace(make(), actions=np.arange(8).astype(dtype).reshape(shape))
    write(d, tmp_path / "d")
    same(d, read(tmp_path / "d"))


def test_same_demonstrations_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(make(), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_files_roll_over_by_size_and_folders_by_number(tmp_path):
    d = make((4,) * 8, side=24)
    write(d, tmp_path / "d", megabytes=0.04, files_in_chunk=2)
    names = [str(p.relative_to(tmp_path / "d/data")) for p in sorted((tmp_path / "d/data").rglob("*.parquet"))]  # noqa: E501  # fmt: skip
    assert names[:3] == [
        "chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet",
    ]  # fmt: skip
    sizes = [p.stat().st_size for p in (tmp_path / "d/data").rglob("*.parquet")]
    assert max(sizes) < 0.08 * 1024**2
    same(d, read(tmp_path / "d"))
    assert validate(tmp_path / "d", frames=True) == []
    assert json.loads((tmp_path / "d/meta/info.json").read_text())["chunks_size"] == 2


def test_what_stood_there_stays_when_writing_fails(tmp_path):
    write(make(), tmp_path / "d")
    broken = make((2, 2))
    broken.actions[0, 0] = np.nan
    with pytest.raises(DemonstrationsError, match="actions are not all finite"):
        write(broken, tmp_path / "d")

    class Torn(Held):
        def read(self, rows):
            raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        write(replace(make(), pictures=Torn(make().pictures.frames)), tmp_path / "d")
    same(make(), read(tmp_path / "d"))
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"episodes": ()}, "holds no episode"),
        ({"episodes": (Episode(begin=0, length=0, instruction="", task=""),)}, "a frame or more"),
        ({"episodes": (Episode(begin=6, length=3, instruction="", task=""),)}, "beyond the 8"),
        ({"episodes": (Episode(begin=0, length=3, instruction="", task="", seed=-4),)}, "got -4"),
        ({"actions": np.zeros((8, 2), complex)}, "complex128"),
        ({"pictures": Held({"a": np.zeros((8, 4, 4, 4), np.uint8)})}, "1 or 3 channels, got 4"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, change, said):
    with pytest.raises(DemonstrationsError, match=said):
        write(replace(make(), **change), tmp_path / "d")
    assert not (tmp_path / "d").exists()


# What the format says, read from files with other means than ours.


def test_metadata_is_as_the_format_has_it(tmp_path):
    write(make(), tmp_path / "d")
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["fps"] == 12
    assert isinstance(info["fps"], int)
    counts = [info[f"total_{name}"] for name in ("episodes", "frames", "tasks")]
    assert counts == [3, 8, 2]
    assert info["splits"] == {"train": "0:3"}
    assert (info["chunks_size"], info["data_files_size_in_mb"]) == (1000, 100)
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["features"]["observation.images.front"] == {
        "dtype": "image", "shape": [6, 6, 3], "names": ["height", "width", "channels"],
    }  # fmt: skip
    assert info["features"]["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    assert info["features"]["action"]["shape"] == [2]
    # Anything else in info.json makes LeRobot warn.
    assert set(info) <= {
        "codebase_version", "fps", "features", "total_episodes", "total_frames", "total_tasks",
        "chunks_size", "data_files_size_in_mb", "video_files_size_in_mb", "data_path", "video_path",
        "robot_type", "splits", "tools",
    }  # fmt: skip


def test_tables_are_as_the_format_has_them(tmp_path):
    pandas = pytest.importorskip("pandas")
    write(make(), tmp_path / "d")
    tasks = pandas.read_parquet(tmp_path / "d/meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert list(tasks.columns) == ["task_index"]
    assert tasks.loc["go to 1"].task_index == 1
    episodes = pq.read_table(tmp_path / "d/meta/episodes/chunk-000/file-000.parquet")
    rows = episodes.to_pylist()
    assert [row["episode_index"] for row in rows] == [0, 1, 2]
    assert [row["length"] for row in rows] == [3, 1, 4]
    assert [row["dataset_from_index"] for row in rows] == [0, 3, 4]
    assert [row["dataset_to_index"] for row in rows] == [3, 4, 8]
    assert rows[1]["tasks"] == ["go to 1"]
    for name in ("data/chunk_index", "data/file_index", "meta/episodes/chunk_index"):
        assert rows[2][name] == 0
    assert np.shape(rows[0]["stats/observation.images.front/q01"]) == (3, 1, 1)
    assert rows[0]["stats/action/count"] == [3]
    frames = pq.read_table(tmp_path / "d/data/chunk-000/file-000.parquet")
    assert frames["index"].to_pylist() == list(range(8))
    assert frames["frame_index"].to_pylist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert frames["next.done"].to_pylist() == [0, 0, 1, 1, 0, 0, 0, 1]
    assert frames["next.success"].to_pylist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert frames["posttrain.seed"].to_pylist() == [100] * 3 + [101] + [102] * 4
    assert np.allclose(frames["timestamp"].to_pylist()[:3], [0, 1 / 12, 2 / 12])
    assert frames.schema.field("action").type == pa.list_(pa.float32(), 2)
    cell = frames["observation.images.wrist"][1].as_py()
    pixels = np.asarray(Image.open(io.BytesIO(cell["bytes"])))
    assert (pixels == make().pictures.frames["wrist"][1]).all()


def test_datasets_reads_it_with_the_features_that_lerobot_derives(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(make(), tmp_path / "d")
    kinds = {}
    for name, feature in json.loads((tmp_path / "d/meta/info.json").read_text())[
        "features"
    ].items():
        value = datasets.Value(feature["dtype"]) if feature["dtype"] != "image" else None
        if feature["dtype"] == "image":
            kinds[name] = datasets.Image()
        elif feature["shape"] == [1]:
            kinds[name] = value
        else:
            kinds[name] = datasets.Sequence(value, length=feature["shape"][0])
    files = [str(p) for p in (tmp_path / "d/data").rglob("*.parquet")]
    for features in (datasets.Features(kinds), None):  # None: from the files' own notes
        found = datasets.Dataset.from_parquet(
            files, features=features, cache_dir=str(tmp_path / "c")
        )
        assert found.features["observation.images.front"] == datasets.Image()
        assert (np.asarray(found[2]["observation.images.front"])
                == make().pictures.frames["front"][2]).all()  # fmt: skip
        assert np.allclose(found[5]["action"], make().actions[5])


def test_stats_are_those_of_the_columns(tmp_path):
    d = make((5, 6))
    write(d, tmp_path / "d")
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())
    assert np.allclose(stats["action"]["mean"], d.actions.mean(0))
    assert np.allclose(stats["action"]["std"], d.actions.std(0))
    assert np.allclose(stats["action"]["q90"], np.quantile(d.actions.astype(float), 0.9, axis=0))
    pixels = d.pictures.frames["front"].reshape(-1, 3) / 255
    front = stats["observation.images.front"]
    assert np.allclose(np.ravel(front["mean"]), pixels.mean(0))
    assert np.allclose(np.ravel(front["std"]), pixels.std(0))
    assert np.allclose(np.ravel(front["max"]), pixels.max(0))
    assert front["count"] == [11]


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 256))
@settings(max_examples=20, deadline=None)
def test_statistics_of_levels_are_those_of_pixels(seed, channels, top):
    frames = np.random.default_rng(seed).integers(0, top, (2, 3, 3, channels), dtype=np.uint8)
    found = of_levels(count_levels(frames), 2)
    plain = of_numbers(frames.reshape(-1, channels) / 255)
    for name in ("min", "max", "mean", "std"):
        assert np.allclose(np.ravel(found[name]), plain[name])
    wanted = np.quantile(frames.reshape(-1, channels), 0.5, axis=0, method="inverted_cdf") / 255
    assert np.allclose(np.ravel(found["q50"]), wanted)
