"""A small PI0 and its tokenizer, made on the spot: pictures of 24 x 24 pixels, no torchvision.

The parts are PI0's: a SigLIP tower and a Gemma that read pictures and words, and a second Gemma,
the action expert, that looks into the first one's cache while it turns noise into actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from posttrain.tuning import tiny
from posttrain.tuning.tiny_vlm import IMAGE, PATCH, SIDE, SPREAD
from posttrain.vla.flow.chain import Chain, FlowError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PI0Config, PreTrainedTokenizerBase

    from posttrain.vla.flow.model import FlowPI0

HEADS = 4
USUAL = Chain()


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer of the words that occur in `texts`, and of pictures."""
    tokenizer = tiny.make_tokenizer(texts)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    return tokenizer


def make_config(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden: int = 64,
    layers: int = 2,
    chunk: int = 1,
    size: int = 2,
    state: int = 1,
    chain: Chain = USUAL,
) -> PI0Config:
    """PI0 of width `hidden`: one layer of vision, `layers` of text, as many of the expert.

    Args:
        tokenizer: of the prompts.
        hidden: width.
        layers: of each Gemma.
        chunk: actions of a decision.
        size: numbers of an action.
        state: numbers of the proprioception; 1, always 0, where there is none.
        chain: of its rollouts.
    """
    from transformers import PI0Config

    from posttrain.vla.flow.model import shape_flow

    if hidden % (2 * HEADS):
        raise FlowError(f"hidden must be a multiple of {2 * HEADS}, got {hidden}")
    gemma: dict[str, Any] = {
        "model_type": "gemma",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": hidden // HEADS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "initializer_range": SPREAD,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": SPREAD,
        "vision_use_head": False,
    }
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma,
            "vision_config": vision,
            "projection_dim": hidden,
            "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE),
            "initializer_range": SPREAD,
        },
        dit_config=dict(gemma),
        chunk_size=chunk,
        max_action_dim=size,
        max_state_dim=state,
        initializer_range=SPREAD,
    )
    return shape_flow(config, size=size, chain=chain)


def make_model(config: PI0Config, *, seed: int = 0) -> FlowPI0:
    """Its weights, drawn from `seed`."""
    from posttrain.vla.flow.model import FlowPI0

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FlowPI0(config)
