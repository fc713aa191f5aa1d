"""Observations as tensors: what a vision-language model is asked, and what it is shown.

The token ids of a prompt follow from its words and from the sizes of the images, so they are made
once. Of what a processor makes of images only `pixel_values` follows from their colours; for
processors that change neither size nor order of the pixels a table of colours does it at once. Each
shortcut is compared with the processor itself when images of a new size come, and is dropped where
the two differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from posttrain.tuning.seen import PER_TOKEN, tokenizer_of
from posttrain.vla.observation import Floats, Images, Observations

REMEMBERED = 4096
"""Prompts whose token ids are kept."""
STATE_BINS = 256
Shapes = tuple[tuple[int, ...], ...]


class EyesError(ValueError):
    """An observation that a model cannot be shown, and why."""


@dataclass(frozen=True, slots=True)
class States:
    """Ranges of proprioception, by dimension: numbers are said as 000 to 255 between them."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        ends = np.array([self.low, self.high], dtype=np.float64)
        if not np.isfinite(ends).all() or np.any(ends[0] > ends[1]):
            raise EyesError(f"states: ranges must be finite with low <= high, got {ends.tolist()}")

    @staticmethod
    def of(states: Floats, quantiles: tuple[float, float] = (0.01, 0.99)) -> States:
        """The ranges of the demonstrations' states, `[n, size]`."""
        low, high = np.quantile(np.asarray(states, dtype=np.float64), quantiles, axis=0)
        return States(tuple(low.tolist()), tuple(high.tolist()))

    def say(self, states: Floats) -> list[str]:
        """States as words, one text a row of `[n, size]`.

        >>> import numpy as np
        >>> States((0.0, -1.0), (1.0, 1.0)).say(np.array([[0.5, 2.0]], dtype=np.float32))
        ['128 255']
        """
        if states.ndim != 2 or states.shape[1] != len(self.low):
            raise EyesError(f"states must be shaped [n, {len(self.low)}], got {list(states.shape)}")
        if not np.isfinite(states).all():
            raise EyesError("states must be finite, got NaN or infinity")
        low, high = np.array(self.low), np.array(self.high)
        width = np.where(high > low, high - low, 1.0)
        share = (states.astype(np.float64) - low) / width
        bins = np.clip(np.floor(share * STATE_BINS), 0, STATE_BINS - 1).astype(int)
        return [" ".join(f"{number:03d}" for number in row) for row in bins]


@dataclass(frozen=True, slots=True)
class _Prompt:
    ids: tuple[int, ...]
    kinds: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """How images of some sizes become tensors, and what goes with them whatever their colours."""

    how: Literal["table", "images", "processor"]
    shape: tuple[int, ...]
    beside: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Eyes:
    """Observations as a model of transformers takes them."""

    processor: Any
    prompt: str = "{instruction}"
    """`{instruction}` and `{state}` stand for the observation's. Where it names the processor's own
    image token, images stand there; else they stand before the words."""
    states: States | None = None
    suffix: int = 0
    """What `token_type_ids` say of the tokens that answer: 1 for PaliGemma, which lets tokens
    marked 0 see what follows them."""
    _prompts: OrderedDict[tuple[str, Shapes], _Prompt] = field(default_factory=OrderedDict)
    _looks: dict[Shapes, _Look] = field(default_factory=dict)

    @property
    def pad(self) -> int:
        """The padding token."""
        return int(tokenizer_of(self.processor).pad_token_id)

    def encode(self, seen: Observations) -> dict[str, torch.Tensor]:
        """Prompts padded on the left, `[n, length]`, and everything that goes with their images.

        Raises:
            EyesError: no observations, no images, or states where the prompt has none, or none
                where it has some.
        """
        if not len(seen) or not seen.images:
            raise EyesError("a policy needs one observation or more, with one image or more each")
        shapes = tuple(tuple(pixels.shape[1:]) for pixels in seen.images.values())
        said = self.say(seen)
        places: dict[str, int] = {}
        which = [places.setdefault(text, len(places)) for text in said]
        look = self._looks.get(shapes) or self._looks.setdefault(shapes, self._learn(said[0], seen))
        if look.how == "processor":
            return self._whole(said, seen)
        prompts = [self._read(text, shapes, seen) for text in places]
        return {**self._padded(prompts, which), **self._shown(look, seen)}

    def answered(self, batch: dict[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
        """A batch of `encode` where each column of kinds of tokens is longer by an answer."""
        kinds = {name: self.suffix * (name == "token_type_ids") for name in PER_TOKEN}
        longer = {
            name: torch.nn.functional.pad(batch[name], (0, tokens), value=kind)
            for name, kind in kinds.items()
            if name in batch
        }
        return {**batch, **longer}

    def say(self, seen: Observations) -> list[str]:
        """The words of the prompts."""
        if ("{state}" in self.prompt) != (seen.states is not None):
            raise EyesError(
                "model.prompt names {state}, but observations have none; set environment.state"
                if seen.states is None
                else "observations have a state, but model.prompt does not name {state}"
            )
        texts = [self.prompt.replace("{instruction}", words) for words in seen.instructions]
        if seen.states is None:
            return texts
        if self.states is None:
            raise EyesError("{state} needs the ranges of the demonstrations' states")
        numbers = self.states.say(seen.states)
        return [text.replace("{state}", state) for text, state in zip(texts, numbers, strict=True)]

    def _read(self, text: str, shapes: Shapes, seen: Observations) -> _Prompt:
        key = (text, shapes)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        found = self._whole([text], seen.take([0]))
        kinds = {name: tuple(found[name][0].tolist()) for name in PER_TOKEN if name in found}
        self._prompts[key] = _Prompt(tuple(found["input_ids"][0].tolist()), kinds)
        if len(self._prompts) > REMEMBERED:
            self._prompts.popitem(last=False)
        return self._prompts[key]

    def _whole(self, texts: Sequence[str], seen: Observations) -> dict[str, torch.Tensor]:
        """What the processor itself makes of a batch; labels are not its business."""
        found = self._processed(texts, seen)
        return {name: tensor for name, tensor in found.items() if name != "labels"}

    def _processed(self, texts: Sequence[str], seen: Observations) -> dict[str, torch.Tensor]:
        images = _pictures(seen)
        padding = {"padding": True, "padding_side": "left"}
        if not self.processor.chat_template:
            token = self.processor.image_token
            before = [[] if token in text else [token] * len(images[0]) for text in texts]
            words = ["".join([*marks, text]) for marks, text in zip(before, texts, strict=True)]
            return dict(self.processor(text=words, images=images, return_tensors="pt", **padding))
        talks = [_talk(text, shown) for text, shown in zip(texts, images, strict=True)]
        return dict(
            self.processor.apply_chat_template(
                talks,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=padding,
            )
        )

    def _learn(self, text: str, seen: Observations) -> _Look:
        """Find the quickest way that gives what the processor gives."""
        one = seen.take([0])
        other = {name: 255 - pixels for name, pixels in one.images.items()}
        both = {name: np.concatenate([one.images[name], other[name]]) for name in other}
        pair = Observations(images=both, instructions=[one.instructions[0]] * 2)
        wanted = {
            name: tensor
            for name, tensor in self._whole([text, text], pair).items()
            if name not in {"input_ids", "attention_mask", *PER_TOKEN}
        }
        halves = {name: tensor[: len(tensor) // 2] for name, tensor in wanted.items()}
        pixels = halves.pop("pixel_values", torch.empty(0))
        for how in ("table", "images"):
            look = _Look(how, tuple(pixels.shape), halves)
            if _same(wanted, self._shown(look, pair)):
                return look
        return _Look("processor", (), {})

    def _shown(self, look: _Look, seen: Observations) -> dict[str, torch.Tensor]:
        n = len(seen)
        maker = self.processor.image_processor
        if look.how == "table":
            pixels = _coloured(maker, seen)
        else:
            pixels = maker(images=_pictures(seen), return_tensors="pt")["pixel_values"]
        if pixels is None or not look.shape or pixels.numel() != n * int(np.prod(look.shape)):
            return {}
        first, *rest = look.shape
        beside = {k: v.repeat(n, *[1] * (v.ndim - 1)) for k, v in look.beside.items()}
        return {"pixel_values": pixels.reshape(n * first, *rest), **beside}

    def _padded(self, prompts: Sequence[_Prompt], which: list[int]) -> dict[str, torch.Tensor]:
        """The columns of rows, each of which has one of the prompts."""
        length = max(len(prompt.ids) for prompt in prompts)
        names = sorted({name for prompt in prompts for name in prompt.kinds})
        ids = np.full((len(prompts), length), self.pad, dtype=np.int64)
        columns = {name: np.zeros_like(ids) for name in ("attention_mask", *names)}
        for row, prompt in enumerate(prompts):
            start = length - len(prompt.ids)
            ids[row, start:] = prompt.ids
            columns["attention_mask"][row, start:] = 1
            for name, kinds in prompt.kinds.items():
                columns[name][row, start:] = kinds
        return {k: torch.from_numpy(v[which]) for k, v in {"input_ids": ids, **columns}.items()}


def _talk(text: str, images: Sequence[Any]) -> list[dict[str, Any]]:
    shown = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def _pictures(seen: Observations) -> list[list[Any]]:
    """Images of PIL, by row and camera."""
    from PIL import Image

    return [
        [Image.fromarray(pixels[row]) for pixels in seen.images.values()]
        for row in range(len(seen))
    ]


def _coloured(maker: Any, seen: Observations) -> torch.Tensor | None:
    """Colours looked up in a table, `[n * cameras, 3, height, width]`; None for mixed sizes."""
    if len({pixels.shape for pixels in seen.images.values()}) > 1 or not maker.do_normalize:
        return None
    mean, spread = tuple(maker.image_mean), tuple(maker.image_std)
    table = _table(float(maker.rescale_factor), mean, spread)
    images: Images = np.stack(list(seen.images.values()), axis=1)
    images = images.reshape(-1, *images.shape[2:])
    coloured = np.empty((len(images), len(table), *images.shape[1:3]), np.float32)
    for channel, row in enumerate(table):
        np.take(row, images[..., channel], out=coloured[:, channel], mode="clip")
    return torch.from_numpy(coloured)


@lru_cache(maxsize=16)
def _table(
    scale: float, mean: tuple[float, ...], spread: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    """What each of 256 intensities becomes, `[3, 256]`, in the arithmetic of the processors."""
    steps = (np.arange(256, dtype=np.float64) * scale).astype(np.float32)
    middle = np.array(mean, dtype=np.float32)[:, None]
    return (steps[None] - middle) / np.array(spread, dtype=np.float32)[:, None]


def _same(wanted: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]) -> bool:
    return set(wanted) == set(got) and all(
        got[k].shape == v.shape
        and got[k].dtype == v.dtype
        and torch.allclose(got[k], v, rtol=0, atol=1e-6)
        for k, v in wanted.items()
    )
