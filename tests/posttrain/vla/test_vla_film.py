import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from posttrain.record import Record, read_json, write_jsonl
from posttrain.vla import reel as shown_as
from posttrain.vla.demonstrations import Demonstrations, Episode, Held
from posttrain.vla.environments.make import make_fleet
from posttrain.vla.film import film_data, film_policy, write_films
from posttrain.vla.observation import Decisions
from posttrain.vla.reel import LARGEST, Reel
from posttrain.vla.settings import DiagnoseSettings, VlaRecipe
from posttrain.vla.starts import Start

GREEN, RED = (0, 115, 79), (196, 43, 43)


def _reel(frames, success=True, unit="go/1"):
    cameras = frames if isinstance(frames, dict) else {"front": frames}
    length = len(next(iter(cameras.values())))
    return Reel(
        unit=unit, instruction="go", success=success, value=1.0, steps=length - 1,
        frames=lambda some: {k: v[list(some)] for k, v in cameras.items()}, length=length,
    )  # fmt: skip


def _numbered(count, size=24):
    """Frames that tell their number by their red, and by nothing else."""
    frames = np.zeros((count, size, size, 3), np.uint8)
    frames[..., 0] = (np.arange(count) * 16)[:, None, None]
    return frames


def _frames(content):
    image = Image.open(io.BytesIO(content))
    for i in range(image.n_frames):
        image.seek(i)
        yield image.convert("RGB")


def test_a_film_shows_all_frames_in_their_order_and_the_strip_some_of_them():
    reel = _reel(_numbered(13))
    shown = [picture.getpixel((70, 70)) for picture in _frames(shown_as.moving(reel, 48, 128, 144))]
    assert [round(red / 16) for red, _, _ in shown] == list(range(13))
    assert not any(green or blue for _, green, blue in shown)
    strip = Image.open(io.BytesIO(shown_as.strip(reel, 48, 128, 144))).convert("RGB")
    wide = strip.width // 8
    found = [round(strip.getpixel((i * wide + wide // 2, 40))[0] / 16) for i in range(8)]
    assert found[0] == 0
    assert found[-1] == 12
    assert found == sorted(set(found))


def test_a_long_film_is_thinned_evenly_with_both_ends():
    frames = np.zeros((200, 24, 24, 3), np.uint8)
    frames[..., 0] = np.arange(200)[:, None, None]
    seen = []
    reel = _reel(frames)
    whole = reel.frames
    told = shown_as.moving(
        Reel(**{k: getattr(reel, k) for k in Reel.__slots__} | {
            "frames": lambda some: (seen.extend(some), whole(some))[1]}),
        48, 128, 144,
    )  # fmt: skip
    assert len(list(_frames(told))) == 48
    assert (seen[0], seen[-1]) == (0, 199)
    assert set(np.diff(seen)) <= {4, 5}


@pytest.mark.parametrize(
    ("success", "colour"), [(True, GREEN), (False, RED), (None, shown_as.DONE)]
)
def test_only_the_last_frame_says_how_it_ended_and_never_over_the_picture(success, colour):
    frames = np.full((3, 24, 24, 3), 200, np.uint8)
    first, *_, last = _frames(shown_as.moving(_reel(frames, success), 48, 128, 144))
    assert first.getpixel((1, 1)) == shown_as.GROUND
    assert last.getpixel((1, 1)) == colour
    inside = np.asarray(last)[4 : 4 + 144, 4 : 4 + 144]
    assert (inside == 200).all()


def test_a_tick_differs_from_a_cross_without_its_colour():
    frames = np.full((3, 24, 24, 3), 200, np.uint8)
    marks = []
    for success in (True, False, None):
        *_, last = _frames(shown_as.moving(_reel(frames, success), 48, 128, 144))
        corner = np.asarray(last.crop((last.width - 14, last.height - 14, last.width, last.height)))
        marks.append((corner != shown_as.GROUND).any(-1))
    assert not (marks[0] == marks[1]).all()
    assert not (marks[1] == marks[2]).all()
    assert all(mark.sum() > 8 for mark in marks)


@pytest.mark.parametrize(("side", "shown"), [(24, 144), (56, 112), (96, 96), (256, 144)])
def test_pictures_grow_by_whole_factors_and_large_ones_shrink(side, shown):
    reel = _reel(np.zeros((2, side, side, 3), np.uint8))
    picture = next(_frames(shown_as.last(reel, 1, 128, 144)))
    assert picture.size == (shown + 8, shown + 8 + 14)


def test_noise_of_three_cameras_stays_within_bounds_and_repeats():
    rng = np.random.default_rng(0)
    reel = _reel({n: rng.integers(0, 256, (60, 200, 200, 3), np.uint8) for n in "abc"})
    for make in (shown_as.moving, shown_as.strip):
        content = shown_as.small(reel, make)
        assert len(content) <= LARGEST
        assert content == shown_as.small(reel, make)


def test_sides_share_one_index_and_a_side_that_is_filmed_again_takes_its_place(tmp_path):
    frames = _numbered(4)
    write_films(tmp_path, "finetuned", [_reel(frames)])
    write_films(tmp_path, "data", [_reel(frames, None)])
    write_films(tmp_path, "pi0", [_reel(frames, False), _reel(frames, False, "go/2")])
    write_films(tmp_path, "pi0", [_reel(frames, True)])
    rows = read_json(tmp_path / "index.json")
    assert [(r["side"], r["success"]) for r in rows] == [
        ("data", None), ("pi0", True), ("finetuned", True),
    ]  # fmt: skip
    assert all((tmp_path / row[key]).exists() for row in rows for key in ("gif", "strip", "still"))


class _Rightwards:
    tokens = 1

    def decide(self, seen, draws, *, temperature):
        choices = (draws * 4).astype(np.int64) if temperature else np.ones_like(draws, np.int64)
        return Decisions(tokens=choices, actions=choices)


def _work(folder, demonstrations=None, film=2):
    recipe = VlaRecipe(kind="vla", name="x", diagnose=DiagnoseSettings(film=film))
    return SimpleNamespace(
        recipe=recipe, record=Record(folder), demonstrations=demonstrations, heldout=demonstrations
    )


def _demonstrations(seeds, tasks):
    return Demonstrations(
        name="d",
        episodes=tuple(
            Episode(begin=3 * i, length=3, instruction="go", task=t, seed=s, success=True)
            for i, (s, t) in enumerate(zip(seeds, tasks, strict=True))
        ),
        actions=np.zeros(3 * len(seeds), np.int64),
        pictures=Held({"front": _numbered(3 * len(seeds))}),
    )


def test_all_sides_are_filmed_from_the_same_starts(tmp_path):
    fleet = make_fleet(VlaRecipe(kind="vla", name="x").environment)
    try:
        starts = [Start(7), Start(3), Start(11)]
        work = _work(tmp_path)
        film_policy(work, _Rightwards(), fleet, starts, side="pi0")
        rows = read_json(tmp_path / "films" / "index.json")
        assert [row["unit"].rsplit("/", 1)[1] for row in rows] == ["7", "3"]
        before = (tmp_path / "films" / "pi0_0.gif").read_bytes()
        named = [Start(int(r["unit"].rsplit("/", 1)[1]), r["unit"].rsplit("/", 1)[0]) for r in rows]
        others = [Start(11, "nowhere"), *reversed(named)]
        film_policy(work, _Rightwards(), fleet, others, side="finetuned")
        films = read_json(tmp_path / "films" / "index.json")
        units = {s: [f["unit"] for f in films if f["side"] == s] for s in ("pi0", "finetuned")}
        assert units["finetuned"] == units["pi0"]
        assert (tmp_path / "films" / "finetuned_0.gif").read_bytes() == before
        work = _work(tmp_path, _demonstrations([3, 5, 7], [named[1].task, "t", named[0].task]))
        film_data(work)
        films = read_json(tmp_path / "films" / "index.json")
        assert [f["unit"] for f in films if f["side"] == "data"] == units["pi0"]
    finally:
        fleet.close()


def test_demonstrations_without_seeds_are_filmed_from_the_first_on(tmp_path):
    write_jsonl(
        tmp_path / "data" / "demonstration_scores.jsonl",
        [{"unit": "D/0", "return": 0.25, "success": False}],
    )
    write_films(tmp_path / "films", "pi0", [_reel(_numbered(3))])
    film_data(_work(tmp_path, _demonstrations([None] * 3, ["t"] * 3)))
    films = [f for f in read_json(tmp_path / "films" / "index.json") if f["side"] == "data"]
    assert [(f["unit"], f["return"], f["success"]) for f in films] == [
        ("D/0", 0.25, False), ("D/1", None, True),
    ]  # fmt: skip


def test_no_films_leave_no_folder(tmp_path):
    work = _work(tmp_path, _demonstrations([1], ["t"]), film=0)
    film_data(work)
    film_policy(work, None, None, [Start(1)], side="pi0")
    assert not (tmp_path / "films").exists()
