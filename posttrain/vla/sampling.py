"""Tokens drawn from logits by given uniform numbers, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.vla.head import BARRED
from posttrain.vla.observation import Tokens


def chosen(
    logits: npt.NDArray[np.float32], draws: npt.NDArray[np.float64], temperature: float
) -> Tokens:
    """Tokens drawn by the inverse of their cumulative distribution, in float64.

    Args:
        logits: `[n, size]`.
        draws: uniform numbers in [0, 1), `[n]`; not looked at when greedy.
        temperature: 0 takes the likeliest token.

    >>> import numpy as np
    >>> even = np.zeros((3, 4), dtype=np.float32)
    >>> chosen(even, np.array([0.0, 0.3, 0.99]), 1.0).tolist()
    [0, 1, 3]
    """
    wide = logits.astype(np.float64)
    if temperature == 0:
        return wide.argmax(axis=1).astype(np.int64)
    weights = np.exp((wide - wide.max(axis=1, keepdims=True)) / temperature)
    below = weights.cumsum(axis=1)
    tokens = (below <= draws[:, None] * below[:, -1:]).sum(axis=1)
    return np.minimum(tokens, logits.shape[1] - 1).astype(np.int64)


class Drawn:
    """Tokens drawn so far, as a model says one after the other."""

    def __init__(
        self, ids: torch.Tensor, draws: npt.NDArray[np.float64], temperature: float
    ) -> None:
        self.ids = ids
        self.draws = draws
        self.temperature = temperature
        self.tokens: list[Tokens] = []

    def draw(self, logits: torch.Tensor) -> None:
        """Draw the next tokens."""
        mine = logits[:, self.ids].float().cpu().numpy()
        draws = self.draws[:, len(self.tokens)] if self.temperature else np.zeros(len(mine))
        self.tokens.append(chosen(mine, draws, self.temperature))

    @property
    def said(self) -> torch.Tensor:
        """The model's ids of the tokens drawn last, `[n, 1]`."""
        return self.ids[torch.from_numpy(self.tokens[-1]).to(self.ids.device)][:, None]

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """As `generate` asks: scores that leave it the drawn tokens alone."""
        self.draw(scores)
        return torch.full_like(scores, BARRED).scatter(1, self.said, 0)


def speak(model: Any, inputs: dict[str, torch.Tensor], drawn: Drawn, tokens: int) -> Tokens:
    """Let a model say some tokens.

    Args:
        model: as it is to be asked, without gradients.
        inputs: prompts, padded on the left, and what belongs to them.
        drawn: what decides.
        tokens: how many.

    Returns:
        Numbers of action tokens, `[n, tokens]`.
    """
    if tokens > 1 and _counts_in_three(model):
        return _generated(model, inputs, drawn, tokens)
    out = model(**inputs, logits_to_keep=1, use_cache=tokens > 1)
    drawn.draw(out.logits[:, -1])
    mask = inputs["attention_mask"]
    for _ in range(tokens - 1):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        out = model(
            input_ids=drawn.said,
            attention_mask=mask,
            past_key_values=out.past_key_values,
            logits_to_keep=1,
            use_cache=True,
        )
        drawn.draw(out.logits[:, -1])
    return np.stack(drawn.tokens, axis=1)


def _counts_in_three(model: Any) -> bool:
    """Whether positions have three axes, as Qwen-VL's: then only `generate` continues them."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return "mrope_section" in rope


def _generated(model: Any, inputs: dict[str, torch.Tensor], drawn: Drawn, tokens: int) -> Tokens:
    from transformers import GenerationConfig, LogitsProcessorList

    settings = GenerationConfig(
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, num_beams=1, use_cache=True
    )
    model.generate(
        **inputs, generation_config=settings, logits_processor=LogitsProcessorList([drawn])
    )
    return np.stack(drawn.tokens, axis=1)
