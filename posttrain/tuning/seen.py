"""Prompts that show pictures: their token ids, and what the model sees beside them.

A processor of transformers writes one place-holder token for each piece of a picture, and makes
tensors of the pictures. `SeenPrompt` stands where a prompt's token ids stand; the tensors are made
when a batch is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import torch

from posttrain.tuning import pictures
from posttrain.tuning.turns import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    Processing: TypeAlias = PreTrainedTokenizerBase | ProcessorMixin

PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
"""What processors say of every token of a prompt; a completion's tokens are text: 0."""


class SightError(ValueError):
    """Pictures that a model cannot be shown, and why."""


def is_processor(processing: Any) -> bool:
    """Whether it reads pictures, or only text."""
    return hasattr(processing, "image_processor")


def tokenizer_of(processing: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor; a tokenizer is its own."""
    return processing.tokenizer if is_processor(processing) else processing


def pad_of(processing: Any) -> int:
    """The padding token."""
    return int(tokenizer_of(processing).pad_token_id)


@dataclass(frozen=True, slots=True, eq=False)
class SeenPrompt(Sequence[int]):
    """The token ids of a prompt with pictures, and where the pictures' tensors come from."""

    ids: tuple[int, ...]
    messages: tuple[Message, ...]
    images: tuple[str, ...]
    processor: Any

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self.ids[index]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def look(self) -> dict[str, torch.Tensor]:
        """Everything that the processor gives the model beside the ids, for this one prompt."""
        shown = encode(self.processor, [self.messages], [self.images])
        return {k: v for k, v in shown.items() if k not in ("input_ids", "attention_mask")}


def seen_prompt(processor: Any, messages: Sequence[Message], images: Sequence[str]) -> SeenPrompt:
    """Read a conversation with pictures, up to where the model is to answer."""
    ids = encode(processor, [messages], [images])["input_ids"][0].tolist()
    return SeenPrompt(tuple(ids), tuple(messages), tuple(images), processor)


def encode(
    processor: Any, prompts: Sequence[Sequence[Message]], images: Sequence[Sequence[str]]
) -> dict[str, torch.Tensor]:
    """A batch of conversations as the model takes it for generation, padded on the left."""
    conversations = [structured(p, i) for p, i in zip(prompts, images, strict=True)]
    return dict(
        processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    )


def structured(messages: Sequence[Message], images: Sequence[str]) -> list[dict[str, Any]]:
    """Messages in parts, with the pictures before the first words of the user, as TRL does it."""
    shown = [{"type": "image", "image": pictures.decode(image)} for image in images]
    parts: list[dict[str, Any]] = []
    for message in messages:
        said = {"type": "text", "text": message["content"]}
        first = message["role"] == "user" and bool(shown)
        parts.append({"role": message["role"], "content": [*shown, said] if first else [said]})
        shown = [] if first else shown
    if shown:
        raise SightError("a prompt with pictures needs a message of the user to show them in")
    return parts


def plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages without their pictures and with their words as one text, as rows hold them."""
    return [
        {**message, "content": "".join(part.get("text", "") for part in message["content"])}
        if isinstance(message.get("content"), list)
        else dict(message)
        for message in messages
    ]


def written(
    processor: Any, messages: Sequence[Message], images: Sequence[str], *, ask: bool
) -> str:
    """The text of a conversation, one place-holder a picture."""
    parts = structured(messages, images)
    text = processor.apply_chat_template(parts, add_generation_prompt=ask, tokenize=False)
    return str(text)


def sights(
    prompts: Sequence[Sequence[int]], length: int, where: torch.device, *, left: bool = False
) -> dict[str, torch.Tensor]:
    """The tensors that belong to a batch of prompts; none for prompts without pictures.

    Args:
        prompts: token ids; those that show pictures are a `SeenPrompt`.
        length: tokens of a row of the batch.
        where: the device.
        left: whether the batch is padded on the left, as for generation.

    Raises:
        SightError: the pictures' tensors differ in shape.
    """
    once = {id(prompt): prompt.look() for prompt in prompts if isinstance(prompt, SeenPrompt)}
    looks = [once.get(id(prompt), {}) for prompt in prompts]
    names = sorted({name for look in looks for name in look})
    found = {}
    for name in names:
        if name in PER_TOKEN:
            found[name] = _of_tokens(name, looks, length, left=left)
            continue
        tensors = [look[name] for look in looks if name in look]
        if len({tensor.shape[1:] for tensor in tensors}) > 1:
            raise SightError(
                f"{name}: the pictures of a batch differ in shape "
                f"({sorted({tuple(t.shape[1:]) for t in tensors})}); give them one size"
            )
        found[name] = torch.cat(tensors)
    return {name: tensor.to(where) for name, tensor in found.items()}


def _of_tokens(
    name: str, looks: Sequence[Mapping[str, torch.Tensor]], length: int, *, left: bool
) -> torch.Tensor:
    kinds = torch.zeros((len(looks), length), dtype=torch.long)
    for i, look in enumerate(looks):
        if name in look:
            start = length - look[name].shape[1] if left else 0
            kinds[i, start : start + look[name].shape[1]] = look[name][0]
    return kinds


def place_holders(model: PreTrainedModel) -> list[int] | None:
    """Tokens that stand for pictures: the policy must not say them, since none belongs to them."""
    token = getattr(model.config, "image_token_id", None)
    return None if token is None else [int(token)]
