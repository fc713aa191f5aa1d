"""Minari datasets with pictures and missions."""

import warnings

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.minari_data import MinariPictures, read_minari

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

LENGTHS = (3, 2, 4)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.fixture(autouse=True)
def _local(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def frames_of(episode, size=(8, 8)):
    rng = np.random.default_rng(episode)
    return rng.integers(0, 256, (LENGTHS[episode] + 1, *size, 3), dtype=np.uint8)


def make(name="local/grid-v0", *, spaces=None, infos=True, actions=None, text="mission"):
    from minari.data_collector import EpisodeBuffer

    spaces = spaces or {
        "image": Box(0, 255, (8, 8, 3), np.uint8),
        "direction": Discrete(4),
        text: Text(40, charset=CHARACTERS),
    }
    buffers = []
    for i, length in enumerate(LENGTHS):
        seen = {
            "image": frames_of(i), "direction": np.full(length + 1, i),
            "mission": [f"go {'ab'[i % 2]}"] * (length + 1),
        }  # fmt: skip
        seen["words"] = seen["mission"]
        seen["state"] = np.full((length + 1, 2), i, np.float32)
        last = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                id=i, seed=70 + i if i else None,
                observations={key: seen[key] for key in spaces},
                actions=np.arange(length) % 3 if actions is None else np.ones((length, 2), "f4"),
                rewards=0.5 * last, terminations=last, truncations=np.zeros(length, bool),
                infos={"success": last & (i != 1)} if infos else None,
            )
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            dataset_id=name, buffer=buffers, observation_space=Dict(spaces),
            action_space=Discrete(3) if actions is None else Box(-1, 1, (2,)),
            algorithm_name="x", author="x", author_email="x", code_permalink="x", description="x",
        )  # fmt: skip
    return name


def test_missions_and_pictures():
    d = read_minari(make())
    assert dict(d.pictures.shapes) == {"image": (8, 8, 3)}
    assert [(e.begin, e.length) for e in d.episodes] == [(0, 3), (3, 2), (5, 4)]
    assert [e.instruction for e in d.episodes] == ["go a", "go b", "go a"]
    assert [e.success for e in d.episodes] == [True, False, True]
    assert [e.seed for e in d.episodes] == [None, 71, 72]
    assert d.actions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0]
    assert d.rewards.tolist() == [0, 0, 0.5, 0, 0.5, 0, 0, 0, 0.5]
    assert d.states is None
    wanted = np.concatenate([frames_of(i)[:-1] for i in range(3)])
    rows = [8, 3, 0, 4, 2, 5]
    assert (d.pictures.read(rows)["image"] == wanted[rows]).all()


def test_a_small_cache_shows_the_same():
    d = read_minari(make())
    assert isinstance(d.pictures, MinariPictures)
    d.pictures._recent.limit = 1
    wanted = d.pictures.read(range(9))["image"]
    assert (d.pictures.read([8, 0, 4])["image"] == wanted[[8, 0, 4]]).all()


def test_names_and_continuous_actions():
    spaces = {
        "image": Box(0, 255, (8, 8, 3), np.uint8),
        "state": Box(-9, 9, (2,), np.float32),
        "words": Text(40, charset=CHARACTERS),
    }
    name = make(spaces=spaces, actions="continuous", infos=False)
    with pytest.raises(
        DemonstrationsError, match=r"data\.columns\.instruction: .*image, state, words"
    ):
        read_minari(name)
    d = read_minari(name, {"instruction": "words", "front": "image"})
    assert list(d.pictures.shapes) == ["front"]
    assert d.actions.shape == (9, 2)
    assert d.actions.dtype == np.float32
    assert d.states[:, 0].tolist() == [0] * 3 + [1] * 2 + [2] * 4
    assert [(e.success, e.origin) for e in d.episodes] == [(None, "unknown")] * 3
    with pytest.raises(DemonstrationsError, match=r"data\.columns\.success: .*'won'"):
        read_minari(name, {"instruction": "words", "success": "won"})
    with pytest.raises(DemonstrationsError, match=r"data\.columns\.seed: .*'start'"):
        read_minari(name, {"instruction": "words", "seed": "start"})


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DemonstrationsError, match=r"Minari has no 'a/b-v0'.*only nothing"):
        read_minari("a/b-v0")
    blind = make(spaces={"direction": Discrete(4), "mission": Text(40, charset=CHARACTERS)})
    with pytest.raises(DemonstrationsError, match="has no pictures"):
        read_minari(blind)
    folder = tmp_path / "minari" / blind
    with pytest.raises(DemonstrationsError, match="has no pictures"):
        read_minari(str(folder))
