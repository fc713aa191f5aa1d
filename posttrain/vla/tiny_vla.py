"""A small LLaVA that acts, made on the spot: square images of any multiple of 8 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain.tuning import tiny_vlm

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor


class TinyError(ValueError):
    """Images that the small model cannot see, and why."""


def make_tiny(
    texts: Sequence[str],
    extra: Sequence[str],
    *,
    shape: tuple[int, ...],
    hidden: int = 64,
    layers: int = 2,
    seed: int = 0,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A model with weights drawn from `seed`, and its processor.

    Args:
        texts: every instruction and prompt: their words are its vocabulary.
        extra: tokens that are added to it: the actions.
        shape: height, width and channels of the images.
        hidden: its width.
        layers: of its text half; its eye has one.
        seed: of the weights.

    Raises:
        TinyError: images that are not square, or not cut into whole patches.
    """
    height, width = shape[:2]
    if height != width or height % tiny_vlm.PATCH:
        raise TinyError(
            f"model.path: tiny sees square images whose side is a multiple of {tiny_vlm.PATCH} "
            f"pixels, got {height} x {width}; let the environment render such ones, or name "
            "another model"
        )
    processor = tiny_vlm.make_processor(texts, side=height)
    processor.tokenizer.add_tokens(list(extra), special_tokens=True)
    return tiny_vlm.make_model(processor, hidden=hidden, layers=layers, seed=seed), processor
