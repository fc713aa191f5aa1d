"""LeRobot datasets for tests: made by our writer's means, and by other hands."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from posttrain.vla.demonstrations import Demonstrations, Episode, Held

FRAMES, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


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
