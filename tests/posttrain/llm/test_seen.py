"""Processors of other families: what they give beside the ids reaches batches and `generate`."""

from dataclasses import replace

import pytest
import torch

from posttrain.llm import prompts
from posttrain.llm.data import load_rows
from posttrain.llm.data import texts as words_of
from posttrain.llm.sampling import transformers_generator
from posttrain.llm.settings import DataSettings, Decoding
from posttrain.tuning import model, seen, tiny
from posttrain.tuning.tiny_vlm import TEMPLATE

CPU = torch.device("cpu")
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
        "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.2}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Prompts of different lengths, each with its picture."""
    found = load_rows(DataSettings(path="shapes", size=30, heldout=5))[0][:4]
    return [replace(row, prompt=_repeated(row, 1 + i % 3)) for i, row in enumerate(found)]


def _repeated(row, times):
    return ({"role": "user", "content": " ".join([row.text] * times)},)


def _tokenizer(rows, special):
    tokenizer = tiny.make_tokenizer(words_of(rows))
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.chat_template = None
    return tokenizer


def idefics3(rows):
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    edge = {"longest_edge": 28}
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            do_image_splitting=False, size=edge, max_image_size=edge
        ),
        tokenizer=_tokenizer(rows, special),
        image_seq_len=4,
        chat_template=TEMPLATE,
    )
    tokenizer = processor.tokenizer
    config = Idefics3Config(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "image_size": 28, "patch_size": 7},
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return Idefics3ForConditionalGeneration(config), processor


def qwen(rows):
    """Without torchvision its processor has no video part, and must be told that this is meant."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    class ImagesOnly(Qwen2_5_VLProcessor):
        def check_argument_for_proper_class(self, name, argument):
            if name == "video_processor" and argument is None:
                return None
            return super().check_argument_for_proper_class(name, argument)

    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    around = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = ImagesOnly(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=6, merge_size=2, temporal_patch_size=2,
            size={"shortest_edge": 144, "longest_edge": 1152},
        ),
        tokenizer=_tokenizer(rows, special),
        video_processor=None,
        chat_template=TEMPLATE.replace("<image>", around),
    )  # fmt: skip
    token = processor.tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_heads": 2,
                       "patch_size": 6, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       "out_hidden_size": 32, "window_size": 24, "fullatt_block_indexes": [0]},
        text_config={"vocab_size": len(processor.tokenizer), **TEXT, "rope_parameters": {
            "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"), pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config), processor


FAMILIES = [idefics3, qwen]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_padded_batch_scores_each_row_as_alone(family, rows):
    policy, processor = family(rows)
    pairs = [prompts.demonstration_ids(processor, row) for row in rows]
    together = model.batch_of(pairs, seen.pad_of(processor), CPU)
    logps, _ = model.token_logps(policy.eval(), together)
    for pair, row, got in zip(pairs, rows, logps, strict=True):
        alone = model.batch_of([pair], seen.pad_of(processor), CPU)
        kept = alone["input_ids"][0, : len(pair[0])].tolist()
        told = seen.encode(processor, [row.prompt], [row.images])
        assert kept == told["input_ids"][0].tolist()
        assert float(got.sum()) == pytest.approx(
            float(model.token_logps(policy, alone)[0].sum()), abs=1e-4
        )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_picture_reaches_the_model(family, rows):
    policy, processor = family(rows)
    pair = prompts.demonstration_ids(processor, rows[0])
    other = prompts.demonstration_ids(processor, replace(rows[0], images=rows[1].images))
    one, two = (
        model.token_logps(policy.eval(), model.batch_of([p], seen.pad_of(processor), CPU))[0]
        for p in (pair, other)
    )
    assert not torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padded_generation_says_what_each_row_says_alone(family, rows):
    policy, processor = family(rows)
    decoding = Decoding(temperature=0.0, max_new_tokens=4)
    ours = transformers_generator(policy, processor)(rows, decoding, samples=1, seed=0)
    for row, (completion,) in zip(rows, ours, strict=True):
        alone = seen.encode(processor, [row.prompt], [row.images])
        out = policy.generate(
            **alone, max_new_tokens=4, do_sample=False,
            suppress_tokens=seen.place_holders(policy),
        )  # fmt: skip
        said = out[0, alone["input_ids"].shape[1] :].tolist()
        assert completion.ids == model.trim_after_end(said, [1])[0]


def test_what_a_processor_says_of_each_token_follows_the_padding(rows):
    _, processor = qwen(rows)
    asked = [prompts.prompt_ids(processor, row.prompt, row.images) for row in rows[:2]]
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    length = max(map(len, asked)) + 3
    for left in (False, True):
        kinds = seen.sights(asked, length, CPU, left=left)["mm_token_type_ids"]
        for prompt, row in zip(asked, kinds.tolist(), strict=True):
            pad = [0] * (length - len(prompt))
            wanted = [int(token == image) for token in prompt]
            assert row == ([*pad, *wanted] if left else [*wanted, *pad])


def test_pictures_of_different_shape_are_refused_in_one_batch(rows):
    class Odd:
        def __init__(self, side):
            self.side = side

        def apply_chat_template(self, *_args, **_kwargs):
            return {"input_ids": torch.ones(1, 3), "pixel_values": torch.ones(1, self.side)}

    prompts = [
        seen.SeenPrompt((1, 1, 1), rows[0].prompt, rows[0].images, Odd(side)) for side in (2, 3)
    ]
    with pytest.raises(seen.SightError, match="differ in shape"):
        seen.sights(prompts, 3, CPU)


def test_a_picture_needs_words_of_the_user(rows):
    with pytest.raises(seen.SightError, match="message of the user"):
        seen.structured([{"role": "system", "content": "Look."}], rows[0].images)
