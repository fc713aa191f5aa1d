"""LeRobot datasets: what is written is read back bit for bit, and broken sets are named."""

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode, Held
from posttrain.vla.lerobot import local_folder, read, validate, write
from posttrain.vla.lerobot.stats import count_levels, of_levels, of_numbers
from posttrain.vla.lerobot.stored import StoredPictures


def make(lengths=(3, 1, 4), *, seed=0, discrete=False, cameras=("front", "wrist"), side=6, **kept):
    rng = np.random.default_rng(seed)
    n, ends = sum(lengths), np.cumsum(lengths)
    frames = {
        name: rng.integers(0, 256, (n, side + i, side, 3), dtype=np.uint8)
        for i, name in enumerate(cameras)
    }
    episodes = tuple(
        Episode(
            begin=int(end - length), length=length, instruction=f"go to {i % 2}",
            task=f"task {i % 2}", seed=100 + i, success=i % 2 == 0, origin="stored",
        )
        for i, (end, length) in enumerate(zip(ends, lengths, strict=True))
    )  # fmt: skip
    return Demonstrations(
        name="demos",
        episodes=kept.pop("episodes", episodes),
        actions=rng.integers(0, 4, n) if discrete else rng.normal(size=(n, 2)).astype(np.float32),
        pictures=Held(frames),
        states=rng.normal(size=(n, 3)).astype(np.float32),
        rewards=rng.normal(size=n).astype(np.float32),
        **{"fps": 12.0, "about": {"who": "expert"}, **kept},
    )


def same(a, b):
    """Bit for bit, episode by episode."""
    assert (a.name, a.fps, a.about) == (b.name, b.fps, b.about)
    assert list(a.pictures.shapes.items()) == list(b.pictures.shapes.items())
    assert len(a.episodes) == len(b.episodes)
    for x, y in zip(a.episodes, b.episodes, strict=True):
        assert replace(x, begin=0) == replace(y, begin=0)
        rows, others = list(x.rows), list(y.rows)
        for column in ("actions", "states", "rewards"):
            one, two = getattr(a, column), getattr(b, column)
            assert (one is None) == (two is None)
            if one is not None:
                assert one.dtype == two.dtype
                assert one[rows].tobytes() == two[others].tobytes()
                assert one.shape[1:] == two.shape[1:]
        one, two = a.pictures.read(rows), b.pictures.read(others)
        for name in one:
            assert one[name].tobytes() == two[name].tobytes()


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


# Reading.


def test_frames_are_read_in_any_order_with_a_small_cache_and_after_pickling(tmp_path):
    d = make((4, 3, 5))
    write(d, tmp_path / "d")
    found = read(tmp_path / "d").pictures
    assert isinstance(found, StoredPictures)
    small = StoredPictures(found.root, found.places, found.cameras, fps=12, cache_bytes=1)
    rows = [11, 0, 5, 5, 3, 7]
    for pictures in (found, small, pickle.loads(pickle.dumps(found))):  # noqa: S301
        for name, frames in pictures.read(rows).items():
            assert (frames == d.pictures.frames[name][rows]).all()
    assert small._encoded.held < 4000
    with pytest.raises(IndexError, match="row 12"):
        found.read([12])


def test_columns_are_renamed(tmp_path):
    write(make(), tmp_path / "d")
    found = read(
        tmp_path / "d",
        {"view": "observation.images.wrist", "action": "observation.state", "state": "action",
         "success": "next.done", "seed": "episode_index"},
    )  # fmt: skip
    assert list(found.pictures.shapes) == ["view"]
    assert found.actions.shape == (8, 3)
    assert found.states.shape == (8, 2)
    assert [e.success for e in found.episodes] == [True] * 3
    assert [e.seed for e in found.episodes] == [0, 1, 2]


@pytest.mark.parametrize("role", ["success", "action", "view"])
def test_a_column_that_is_not_there_is_named(tmp_path, role):
    write(make(), tmp_path / "d")
    with pytest.raises(DemonstrationsError, match=rf"data\.columns\.{role}: .*'nowhere'"):
        read(tmp_path / "d", {role: "nowhere"})


def by_hand(folder: Path, *, version="v3.0", success=False) -> None:
    """A dataset as LeRobot's recorder or its older versions write it, by other means than ours."""
    rng = np.random.default_rng(3)
    lengths, texts = (2, 3), ["pick", "place"]
    features = {
        "observation.image": {"dtype": "image", "shape": [3, 4, 5],
                              "names": ["channels", "height", "width"]},
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        "action": {"dtype": "float32", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{name: {"dtype": "int64", "shape": [1], "names": None}
           for name in ("frame_index", "episode_index", "index", "task_index")},
    }  # fmt: skip
    if success:
        features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    (folder / "meta").mkdir(parents=True)
    tables, index = [], 0
    for number, length in enumerate(lengths):
        rows = []
        for i in range(length):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(buffer, "PNG")
            rows.append({
                "observation.image": {"bytes": buffer.getvalue(), "path": f"frame-{i:06d}.png"},
                "observation.state": [float(number), float(i)], "action": 0.5 * i,
                "timestamp": i / 10, "frame_index": i, "episode_index": number,
                "index": index + i, "task_index": number,
                **({"next.success": number == 1 and i == 2} if success else {}),
            })  # fmt: skip
        index += length
        kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
        schema = [
            (name, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
            if f["dtype"] == "image"
            else (name, pa.list_(kinds[f["dtype"]]) if f["shape"] != [1] else kinds[f["dtype"]])
            for name, f in features.items()
        ]
        tables.append(pa.Table.from_pylist(rows, schema=pa.schema(schema)))
    info = {"codebase_version": version, "fps": 10, "features": features, "total_episodes": 2,
            "total_frames": 5, "total_tasks": 2, "chunks_size": 1000, "robot_type": "arm",
            "splits": {"train": "0:2"}}  # fmt: skip
    if version == "v2.1":
        info |= {"total_chunks": 1, "total_videos": 0, "video_path": None,
                 "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}  # fmt: skip  # noqa: E501
        (folder / "data/chunk-000").mkdir(parents=True)
        for number, table in enumerate(tables):
            pq.write_table(table, folder / f"data/chunk-000/episode_{number:06d}.parquet")
        lines = {
            "tasks": [{"task_index": i, "task": t} for i, t in enumerate(texts)],
            "episodes": [{"episode_index": i, "tasks": [texts[i]], "length": n}
                         for i, n in enumerate(lengths)],
            "episodes_stats": [{"episode_index": i, "stats": {}} for i in range(2)],
        }  # fmt: skip
        for name, found in lines.items():
            (folder / f"meta/{name}.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n")
    else:
        info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
                 "video_path": None, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}  # fmt: skip  # noqa: E501
        for where in ("data", "meta/episodes"):
            (folder / where / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
        pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": texts}),
                       folder / "meta/tasks.parquet")  # fmt: skip
        ends = np.cumsum(lengths).tolist()
        pq.write_table(
            pa.Table.from_pylist([
                {"episode_index": i, "tasks": [texts[i]], "length": n,
                 "dataset_from_index": ends[i] - n, "dataset_to_index": ends[i],
                 "data/chunk_index": 0, "data/file_index": 0, "meta/episodes/chunk_index": 0,
                 "meta/episodes/file_index": 0} for i, n in enumerate(lengths)
            ]), folder / "meta/episodes/chunk-000/file-000.parquet",
        )  # fmt: skip
        stats = {
            name: {key: np.zeros((3, 1, 1) if f["dtype"] == "image" else f["shape"]).tolist()
                   for key in ("min", "max", "mean", "std")} | {"count": [5]}
            for name, f in features.items()
        }  # fmt: skip
        (folder / "meta/stats.json").write_text(json.dumps(stats))
    (folder / "meta/info.json").write_text(json.dumps(info, indent=4))


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("success", [False, True])
def test_sets_made_by_other_hands(tmp_path, version, success):
    by_hand(tmp_path / "arm", version=version, success=success)
    assert validate(tmp_path / "arm", frames=True) == []
    found = read(tmp_path / "arm")
    assert found.name == "arm"
    assert found.fps == 10
    assert dict(found.pictures.shapes) == {"image": (4, 5, 3)}
    assert [(e.begin, e.length, e.task) for e in found.episodes] == [
        (0, 2, "pick"),
        (2, 3, "place"),
    ]
    assert [e.success for e in found.episodes] == ([False, True] if success else [None, None])
    assert {e.origin for e in found.episodes} == ({"stored"} if success else {"unknown"})
    assert found.actions.tolist() == [[0.0], [0.5], [0.0], [0.5], [1.0]]
    assert found.states[4].tolist() == [1.0, 2.0]
    assert found.rewards is None
    rng = np.random.default_rng(3)
    wanted = np.stack([rng.integers(0, 256, (4, 5, 3), dtype=np.uint8) for _ in range(5)])
    assert (found.pictures.read([4, 0])["image"] == wanted[[4, 0]]).all()
    write(found, tmp_path / "copy")
    same(found, read(tmp_path / "copy"))


# What breaks the rules.


def edit_info(folder, **change):
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def edit_table(folder, name, change):
    path = folder / name
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def setting(column, values):
    def change(table):
        at = table.column_names.index(column)
        return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))  # noqa: E501  # fmt: skip

    return change


FRAMES, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


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


# The Hub and videos.


def test_names_on_the_hub(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert local_folder("someone/pusht", "main") == tmp_path
    assert asked == {"name": "someone/pusht", "repo_type": "dataset", "revision": "main"}

    def offline(name, **options):
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(DemonstrationsError, match=r"data\.path: .*'someone/pusht'.*no network"):
        local_folder("someone/pusht")
    with pytest.raises(DemonstrationsError, match="OWNER/NAME"):
        local_folder("./nowhere")


def test_videos(tmp_path):
    av = pytest.importorskip("av")
    by_hand(tmp_path / "film")
    folder = tmp_path / "film"
    key, frames = "observation.images.top", np.zeros((5, 32, 48, 3), np.uint8)
    frames[np.arange(5), :, :, 0] = (20 + 50 * np.arange(5))[:, None, None]
    path = folder / f"videos/{key}/chunk-000/file-000.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.gop_size = 2
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features[key] = {
        "dtype": "video",
        "shape": [32, 48, 3],
        "names": ["height", "width", "channel"],
    }
    edit_info(
        folder, features=features,
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )  # fmt: skip
    edit_table(folder, EPISODES, lambda t: pa.Table.from_pylist([
        {**row, f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0,
         f"videos/{key}/from_timestamp": begin / 10, f"videos/{key}/to_timestamp": end / 10}
        for row, begin, end in zip(t.to_pylist(), (0, 2), (2, 5), strict=True)
    ]))  # fmt: skip
    stats = json.loads((folder / "meta/stats.json").read_text())
    stats[key] = stats["observation.image"]
    (folder / "meta/stats.json").write_text(json.dumps(stats))
    assert validate(folder, frames=True) == []
    found = read(folder, {"top": key})
    seen = found.pictures.read([4, 2, 0, 1, 3])["top"][..., 0].mean((1, 2))
    assert np.abs(seen - [220, 120, 20, 70, 170]).max() < 12
    edit_info(folder, features={**features, key: {**features[key], "shape": [9, 9, 3]}})
    with pytest.raises(DemonstrationsError, match=r"wanted frames of \[9, 9, 3\]"):
        read(folder, {"top": key}).pictures.read([0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DemonstrationsError, match="cannot be read as a video"):
        read(folder, {"top": key}).pictures.read([0])
