"""A decoding loop for many samples of few prompts: same distribution as `generate`, less work.

A prompt is read once, whatever the number of its samples; keys and values are written into room
that was made once instead of being copied at every token; answers that have ended leave the
batch; and a token costs one random number instead of one for each entry of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationMixin,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from posttrain.llm.settings import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS = frozenset(
    ("max_new_tokens", "max_length", "do_sample", "temperature", "top_p", "top_k", "min_p",
     "repetition_penalty", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
     "transformers_version", "output_attentions", "output_hidden_states", "_from_model_config")
)  # fmt: skip
"""Fields of a model's generation configuration that a recipe decides, or that change no answer."""

LEAVE = 8
"""A batch shrinks once one in so many of its answers has ended."""

LOOK = 16
"""Tokens between two looks at what has ended, on an accelerator: a look waits for the device."""


def why_not(model: PreTrainedModel) -> str | None:
    """What keeps a model from this loop, so that it goes through its own `generate`; or None.

    The loop knows causal language models with a plain cache and no rule of their own about the
    next token.
    """
    config, own = model.config, model.generation_config
    if config.is_encoder_decoder or config.get_text_config() is not config:
        return "it is an encoder-decoder, or takes more than text"
    takes = set(inspect.signature(model.forward).parameters)
    extra = set() if own is None else set(own.to_diff_dict()) - OURS
    plain = {type(layer) for layer in DynamicCache(config=config).layers} == {DynamicLayer}
    prepares = type(model).prepare_inputs_for_generation
    against = {
        "it prepares its inputs in its own way": (
            prepares is not GenerationMixin.prepare_inputs_for_generation
        ),
        "its forward pass has no logits_to_keep or no position_ids": (
            not {"logits_to_keep", "position_ids"} <= takes
        ),
        "its cache is not plain (sliding window, hybrid, linear attention)": not plain,
        "its device has no double precision": model.device.type == "mps",
        f"its generation configuration asks for {', '.join(sorted(extra))}": bool(extra),
    }
    return next((reason for reason, holds in against.items() if holds), None)


class Room(DynamicLayer):
    """Keys and values of one layer in a buffer that has room for all that will come."""

    def __init__(self, prompt: DynamicLayer, *, repeats: int, room: int) -> None:
        """Copy each prompt's keys and values [n, heads, length, width] `repeats` times."""
        super().__init__()
        self.lazy_initialization(prompt.keys, prompt.values)
        self._keys = _spread(prompt.keys, repeats, room)
        self._values = _spread(prompt.values, repeats, room)
        self._show(prompt.keys.shape[-2])

    def _show(self, length: int) -> None:
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there; return all of it."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows, in place: `indices` ascend, so no row is overwritten before its turn."""
        length, kept = self.keys.shape[-2], len(indices)
        for name in ("_keys", "_values"):
            buffer = getattr(self, name)
            buffer[:kept, :, :length] = buffer[indices, :, :length]
            setattr(self, name, buffer[:kept])
        self._show(length)


def _spread(states: torch.Tensor, repeats: int, room: int) -> torch.Tensor:
    n, heads, length, width = states.shape
    buffer = states.new_empty((n * repeats, heads, length + room, width))
    buffer.view(n, repeats, heads, length + room, width)[:, :, :, :length] = states[:, None]
    return buffer


Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def processors(decoding: Decoding) -> list[Scores]:
    """What transformers does to the logits of a sampler, by the same classes, in its order."""
    found: list[Scores] = []
    if decoding.temperature not in {0, 1}:
        found.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k and decoding.temperature:
        found.append(TopKLogitsWarper(top_k=decoding.top_k))
    if decoding.top_p < 1 and decoding.temperature:
        found.append(TopPLogitsWarper(top_p=decoding.top_p))
    return found


def choose(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw from softmax(scores) by inverting the distribution function.

    Args:
        scores: [n, vocabulary]; -inf is never drawn.
        uniform: [n] in [0, 1), double precision, so that no token is too rare to be drawn.

    Returns:
        tokens [n].
    """
    total = torch.softmax(scores, dim=-1).cumsum(dim=-1, dtype=torch.float64)
    at = (uniform * total[:, -1]).unsqueeze(-1)
    return torch.searchsorted(total, at, right=True).squeeze(-1)


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    samples: int,
    ends: Sequence[int],
    pad: int,
    uniform: torch.Tensor,
) -> list[list[int]]:
    """Answer every prompt `samples` times, all at once.

    Args:
        model: one that `why_not` has nothing against.
        prompts: token ids; the closer their lengths, the less padding is computed.
        decoding: the sampler.
        samples: answers a prompt.
        ends: tokens that end an answer.
        pad: what fills prompts on the left.
        uniform: [prompts * samples, max_new_tokens] in [0, 1): the randomness of every token, so
            that an answer does not depend on what else is in the batch. Greedy reads none.

    Returns:
        token ids of prompt 0's answers, then of prompt 1's, ...; behind an end token there may be
        more, which is not part of the answer.
    """
    batch, logits = _read(model, prompts, samples=samples, room=decoding.max_new_tokens, pad=pad)
    warp, stop = processors(decoding), torch.tensor(ends, device=logits.device)
    uniform = uniform.to(logits.device)
    look = 1 if logits.device.type == "cpu" else LOOK
    for step in range(decoding.max_new_tokens):
        scores = logits.float()
        for processor in warp:
            scores = processor(batch.tokens, scores)
        greedy = decoding.temperature == 0
        chosen = scores.argmax(-1) if greedy else choose(scores, uniform[batch.rows, step])
        batch.tokens[batch.rows, step] = chosen
        batch.ended |= torch.isin(chosen, stop)
        if step + 1 == decoding.max_new_tokens:
            break
        if (step + 1) % look == 0:
            left = (~batch.ended).nonzero().squeeze(-1)
            if not len(left):
                break
            if (len(batch.rows) - len(left)) * LEAVE >= len(batch.rows):
                chosen = chosen[left]
                batch.keep(left)
        logits = batch.step(model, chosen)
    return batch.tokens.tolist()


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Answers in the making.

    `tokens` [all, max_new_tokens] holds every answer; the rest speaks of the `rows` that are
    still in the batch. `mask` [rows, prompt + answer] and `position` [rows] are None where no
    prompt is padded.
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    ended: torch.Tensor
    cache: Cache
    mask: torch.Tensor | None
    position: torch.Tensor | None

    def keep(self, left: torch.Tensor) -> None:
        """Let all but some rows go."""
        self.rows, self.ended = self.rows[left], self.ended[left]
        self.cache.batch_select_indices(left)
        if self.mask is not None and self.position is not None:
            self.mask, self.position = self.mask[left], self.position[left]

    def step(self, model: PreTrainedModel, chosen: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of the token behind the `chosen` ones [rows]."""
        mask = position = None
        if self.mask is not None and self.position is not None:
            mask = self.mask[:, : self.cache.get_seq_length() + 1]
            position = self.position.unsqueeze(-1)
            self.position = self.position + 1
        out = model(
            input_ids=chosen.unsqueeze(-1),
            attention_mask=mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1]


def _read(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, samples: int, room: int, pad: int
) -> tuple[_Batch, torch.Tensor]:
    """Run every prompt through the model once. Returns the batch and logits [rows, vocabulary]."""
    where, lengths = model.device, [len(prompt) for prompt in prompts]
    longest, rows = max(lengths), len(prompts) * samples
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=where)
    mask = position = None
    if min(lengths) < longest:
        count = torch.tensor(lengths, device=where).unsqueeze(-1)
        mask = torch.arange(longest, device=where) >= longest - count
        position = (torch.arange(longest, device=where) - (longest - count)).clamp(min=0)
    cache = DynamicCache(config=model.config)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    layers = [Room(layer, repeats=samples, room=room - 1) for layer in cache.layers]
    batch = _Batch(
        tokens=torch.full((rows, room), pad, device=where),
        rows=torch.arange(rows, device=where),
        ended=torch.zeros(rows, dtype=torch.bool, device=where),
        cache=Cache(layers=layers),
        mask=None if mask is None else _answers(mask, samples, room),
        position=None if mask is None else count.squeeze(-1).repeat_interleave(samples),
    )
    return batch, out.logits[:, -1].repeat_interleave(samples, dim=0)


def _answers(mask: torch.Tensor, samples: int, room: int) -> torch.Tensor:
    """A prompt's mask for all its answers, with `room` open places behind it."""
    return torch.nn.functional.pad(mask, (0, room), value=True).repeat_interleave(samples, dim=0)
