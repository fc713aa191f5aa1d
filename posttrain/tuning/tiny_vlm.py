"""A small LLaVA and its processor, made on the spot: pictures of 24 x 24 pixels, no torchvision.

A SigLIP tower cuts a picture into patches of 8 x 8 pixels, a projector makes a token of each,
and a Llama reads them before the text. Words are whole tokens, as in `posttrain.tuning.tiny`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from posttrain.tuning import tiny

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import LlavaForConditionalGeneration, LlavaProcessor

SIDE, PATCH = 24, 8
"""Pixels along a picture's edge and along a patch'."""

IMAGE = "<image>"
SPREAD = 0.1
"""Standard deviation of the first weights: at a width of 64 the usual 0.02 does not learn."""

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_processor(texts: Iterable[str], *, side: int = SIDE) -> LlavaProcessor:
    """A processor of pictures of `side` pixels and of the words that occur in `texts`."""
    from transformers import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = tiny.make_tokenizer(texts)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    tokenizer.chat_template = None
    pictures = SiglipImageProcessorPil(size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=TEMPLATE,
    )


def make_model(
    processor: LlavaProcessor, *, hidden: int = 64, layers: int = 2, seed: int = 0
) -> LlavaForConditionalGeneration:
    """A LLaVA of one vision layer and `layers` text layers, all of width `hidden`."""
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    tokenizer = processor.tokenizer
    side = int(processor.image_processor.size["height"])
    vision = SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=side,
        patch_size=PATCH,
        initializer_range=SPREAD,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=(side // PATCH) ** 2,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config)
