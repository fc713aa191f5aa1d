"""LeRobot datasets of other hands, of the Hub and with videos."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from lerobot_sets import EPISODES, by_hand, edit_info, edit_table, make, same

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.lerobot import local_folder, read, validate, write
from posttrain.vla.lerobot.stored import StoredPictures

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
