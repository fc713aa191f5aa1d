"""What a model is shown is what its processor makes of it, quickly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from posttrain.tuning import tiny_vlm
from posttrain.tuning.seen import encode
from posttrain.vla import eyes as eyes_of
from posttrain.vla.eyes import Eyes, EyesError, States
from posttrain.vla.observation import Observations

WORDS = ("go to the red block", "go to the blue one now please", "state wall")


def seen(n=5, side=24, cameras=("top",), states=None):
    rng = np.random.default_rng(n)
    images = {c: rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for c in cameras}
    return Observations(images=images, instructions=[WORDS[i % 2] for i in range(n)], states=states)


@pytest.fixture
def eyes():
    return Eyes(processor=tiny_vlm.make_processor(WORDS))


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("cameras", [("top",), ("top", "wrist")])
@pytest.mark.parametrize("side", [24, 40])
def test_bit_for_bit_what_the_processor_says_of_a_batch(eyes, cameras, side):
    shown = seen(cameras=cameras, side=side)
    for _ in range(2):
        same(eyes.encode(shown), eyes._whole(eyes.say(shown), shown))
    assert {look.how for look in eyes._looks.values()} == {"table" if side == 24 else "images"}


def test_the_conversation_is_that_of_every_other_trainer(eyes, monkeypatch):
    """Fine-tuning with posttrain.tuning.seen reads the same prompt."""
    from PIL import Image

    from posttrain.tuning import pictures

    shown = seen(1)
    text = pictures.encode(Image.fromarray(shown.images["top"][0]))
    messages = ({"role": "user", "content": WORDS[0]},)
    same(eyes.encode(shown), encode(eyes.processor, [messages], [[text]]))


def test_rows_do_not_depend_on_their_neighbours(eyes):
    shown = seen()
    whole = eyes.encode(shown)
    one = eyes.encode(shown.take([1]))
    length = one["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][1, -length:], one["input_ids"][0])
    assert torch.equal(whole["pixel_values"][1], one["pixel_values"][0])
    assert whole["attention_mask"][0, 0] == 0
    assert whole["input_ids"][0, 0] == eyes.pad


class Stretched(SiglipImageProcessorPil):
    """It looks at a picture as a whole: no table of colours can do this."""

    def rescale(self, image, scale, **kwargs):
        return super().rescale(image, scale) * (1 + image.mean() / 1000)


def test_a_shortcut_that_would_differ_is_not_taken(eyes):
    eyes.processor.image_processor = Stretched(size={"height": 24, "width": 24})
    shown = seen()
    same(eyes.encode(shown), eyes._whole(eyes.say(shown), shown))
    assert {look.how for look in eyes._looks.values()} == {"images"}


def test_where_no_shortcut_is_right_the_processor_does_it_all(eyes, monkeypatch):
    monkeypatch.setattr(eyes_of, "_same", lambda *_: False)
    shown = seen()
    same(eyes.encode(shown), eyes._whole(eyes.say(shown), shown))
    assert {look.how for look in eyes._looks.values()} == {"processor"}


def test_prompts_are_read_once_and_forgotten_at_last(eyes, monkeypatch):
    monkeypatch.setattr(eyes_of, "REMEMBERED", 3)
    eyes.encode(seen())
    assert len(eyes._prompts) == 2
    calls = []
    monkeypatch.setattr(Eyes, "_whole", lambda *a: calls.append(a))
    eyes.encode(seen())
    assert not calls
    monkeypatch.undo()
    monkeypatch.setattr(eyes_of, "REMEMBERED", 3)
    for word in ("red", "blue", "go", "now"):
        eyes.encode(replace(seen(1), instructions=[word]))
    assert [text for text, _ in eyes._prompts] == ["blue", "go", "now"]


def test_without_a_chat_template_images_stand_before_the_words(eyes):
    eyes.processor.chat_template = None
    asked = replace(eyes, prompt="go {instruction} now")
    found = asked.encode(seen(1, cameras=("top", "wrist")))
    image = eyes.processor.image_token_id
    words = eyes.processor.tokenizer("go go to the red block now")["input_ids"]
    assert found["input_ids"][0].tolist() == [image] * 18 + words
    assert found["pixel_values"].shape == (2, 3, 24, 24)


def test_or_where_the_prompt_names_them(eyes):
    eyes.processor.chat_template = None
    asked = replace(eyes, prompt="go <image> {instruction}")
    ids = asked.encode(seen(1))["input_ids"][0].tolist()
    go = eyes.processor.tokenizer.convert_tokens_to_ids("go")
    assert ids[:10] == [go] + [eyes.processor.image_token_id] * 9


def test_states_are_words_between_the_ranges_of_d(eyes):
    held = np.array([[0.0, -1.0], [1.0, 1.0]], dtype=np.float32)
    states = States.of(held, (0.0, 1.0))
    assert states.say(np.array([[0.5, 0.0], [-9.0, 9.0]], dtype=np.float32)) == [
        "128 128",
        "000 255",
    ]
    asked = replace(eyes, prompt="state {state} {instruction}", states=states)
    shown = seen(2, states=held)
    assert asked.say(shown)[1] == "state 255 255 go to the blue one now please"
    same(asked.encode(shown), asked._whole(asked.say(shown), shown))


def test_a_state_that_never_changes_is_said_all_the_same():
    states = States((1.0,), (1.0,))
    assert states.say(np.array([[1.0], [2.0]], dtype=np.float32)) == ["000", "255"]


def test_states_and_prompt_must_agree(eyes):
    held = np.zeros((2, 1), dtype=np.float32)
    with pytest.raises(EyesError, match=r"does not name \{state\}"):
        eyes.encode(seen(2, states=held))
    asked = replace(eyes, prompt="{state} {instruction}")
    with pytest.raises(EyesError, match=r"set environment\.state"):
        asked.encode(seen(2))
    with pytest.raises(EyesError, match="ranges"):
        asked.encode(seen(2, states=held))
    with pytest.raises(EyesError, match=r"shaped \[n, 2\]"):
        replace(asked, states=States((0, 0), (1, 1))).encode(seen(2, states=held))


def test_nothing_to_see_is_refused(eyes):
    with pytest.raises(EyesError, match="one image or more"):
        eyes.encode(Observations(images={}, instructions=["go"]))
    with pytest.raises(EyesError, match="one observation"):
        eyes.encode(seen(2).take([]))


def test_a_state_that_is_no_number_is_refused():
    with pytest.raises(EyesError, match="finite"):
        States((0.0,), (1.0,)).say(np.array([[np.nan]], dtype=np.float32))


def test_instructions_may_hold_braces(eyes):
    assert eyes.say(replace(seen(1), instructions=["go {state} {x}"])) == ["go {state} {x}"]
