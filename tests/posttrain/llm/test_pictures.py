"""Pictures in rows: what is read is what was drawn, and nothing is lost on the way."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posttrain.llm import shapes
from posttrain.llm.data import DataError, load_rows, row_from_dict, unit_of
from posttrain.llm.settings import Corruption, DataSettings
from posttrain.tuning import pictures


def noise(seed=0, side=7):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def pixels(image):
    return np.asarray(image).tolist()


def test_pixels_survive_a_row_that_is_written_and_read():
    rows, _ = load_rows(DataSettings(path="shapes", size=20, heldout=5))
    row = row_from_dict(json.loads(json.dumps(rows[0].to_dict())))
    assert row == rows[0]
    noisy = pictures.encode(noise())
    assert pixels(pictures.decode(noisy)) == pixels(noise())


@pytest.mark.parametrize("form", ["image", "bytes", "path", "mapping", "mapping_path", "uri"])
def test_a_picture_is_the_same_in_whatever_form_it_comes(form, tmp_path):
    import base64

    file = tmp_path / "one.png"
    noise().save(file)
    value = {
        "image": noise(),
        "bytes": file.read_bytes(),
        "path": "one.png",
        "mapping": {"bytes": file.read_bytes(), "path": None},
        "mapping_path": {"bytes": None, "path": "one.png"},
        "uri": "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
    }[form]
    assert pixels(pictures.decode(pictures.read(value, folder=tmp_path))) == pixels(noise())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("none.png", "no such picture"),
        (3, "got int"),
        (b"abc", "not a picture"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(value, words):
    with pytest.raises(pictures.PictureError, match=words):
        pictures.read(value, folder=Path())


def everything(settings):
    return list(chain.from_iterable(load_rows(settings)))


def source(folder, **columns):
    for i in range(6):
        noise(i).save(folder / f"{i}.png")
    records = [
        {"prompt": "Which?", "completion": str(i), "image": f"{i}.png", **columns} for i in range(6)
    ]
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, records)))
    return str(file)


def test_a_file_with_paths_to_pictures_gives_a_unit_for_each_picture(tmp_path):
    rows, heldout = load_rows(DataSettings(path=source(tmp_path), heldout=2))
    found = {row.completion: row for row in (*rows, *heldout)}
    assert len({row.unit for row in found.values()}) == 6  # the words are the same in all
    assert all(
        pixels(row.reward_columns()["images"][0]) == pixels(noise(int(name)))
        for name, row in found.items()
    )
    assert all("image" not in row.columns for row in rows)


def test_a_data_set_of_datasets_gives_the_same_rows_as_the_files(tmp_path):
    import datasets

    path = source(tmp_path)
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    stored = datasets.Dataset.from_list(
        [{**r, "image": noise(i)} for i, r in enumerate(records)]
    ).rename_column("image", "picture")
    stored.save_to_disk(str(tmp_path / "saved"))
    stored.to_parquet(str(tmp_path / "saved.parquet"))
    plain = everything(DataSettings(path=path, heldout=2))
    shown = {row.completion: pixels(pictures.decode(row.images[0])) for row in plain}
    for name in ("saved", "saved.parquet"):
        settings = DataSettings(path=str(tmp_path / name), heldout=2, columns={"images": "picture"})
        rows = everything(settings)
        assert {r.completion: pixels(pictures.decode(r.images[0])) for r in rows} == shown


def test_messages_in_parts_are_read_where_trl_would_show_the_picture(tmp_path):
    said = {"type": "text", "text": "Which?"}
    ask = [{"role": "user", "content": [{"type": "image"}, said]}]
    (row, *_), _ = load_rows(DataSettings(path=source(tmp_path, prompt=ask), heldout=2))
    assert row.prompt == ({"role": "user", "content": "Which?"},)
    behind = [{"role": "user", "content": [said, {"type": "image"}]}]
    with pytest.raises(DataError, match="in front of the first user message"):
        load_rows(DataSettings(path=source(tmp_path, prompt=behind), heldout=2))


def test_rows_with_and_without_pictures_do_not_mix(tmp_path):
    file = Path(source(tmp_path))
    file.write_text(file.read_text() + "\n" + json.dumps({"prompt": "a", "completion": "b"}))
    with pytest.raises(DataError, match="1 of 7 rows show no picture"):
        load_rows(DataSettings(path=str(file), heldout=2))


def test_the_answer_is_what_the_pixels_show():
    names = {colour: name for name, colour in shapes.COLOURS.items()}
    options = {"objects": 3, "questions": ["colour", "count"]}
    rows, heldout = load_rows(DataSettings(path="shapes", size=60, heldout=10, options=options))
    for row in (*rows, *heldout):
        picture = np.asarray(pictures.decode(row.images[0]))
        cells = picture.reshape(3, 8, 3, 8, 3).swapaxes(1, 2).reshape(9, 8, 8, 3)
        things = []
        for cell in cells:
            painted = (cell != 255).any(axis=-1)
            if painted.any():
                (shape,) = [s for s in shapes.SHAPES if (shapes.mask(s) == painted).all()]
                (colour,) = {names[tuple(map(int, p))] for p in cell[painted]}
                things.append((shape, colour))
        assert len(things) == 3
        if row.columns["kind"] == "colour":
            assert [c for s, c in things if s in row.text] == [row.answer]
        else:
            assert str(sum(c in row.text for _, c in things)) == row.answer


def test_the_same_seed_draws_the_same_shapes_and_another_does_not():
    one, two, other = (
        load_rows(DataSettings(path="shapes", size=30, heldout=5, seed=seed))[0]
        for seed in (1, 1, 2)
    )
    assert one == two
    assert {row.unit for row in one}.isdisjoint({row.unit for row in other})
    assert {row.unit for row in one} == {unit_of(row.prompt, row.images) for row in one}


def test_careless_demonstrators_answer_pictures_too():
    settings = DataSettings(
        path="shapes", size=300, heldout=5, corruption=Corruption(share=0.4, how="shuffle")
    )
    rows, _ = load_rows(settings)
    right = sum(row.completion == row.answer for row in rows) / len(rows)
    assert right == pytest.approx(0.6 + 0.4 / 4, abs=0.08)  # a random one of four is right, too


@pytest.mark.parametrize(
    ("options", "words"),
    [({"object": 2}, "no option 'object'"), ({"objects": 9}, "1..4"), ({"questions": ["x"]}, "x")],
)
def test_an_option_of_shapes_that_does_not_exist_is_refused(options, words):
    with pytest.raises(DataError, match=words):
        load_rows(DataSettings(path="shapes", options=options))
