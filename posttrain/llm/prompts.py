"""Models and tokenizers: made on the spot, from an asset, a folder or the Hub; no remote code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.llm.data import Message, Row
from posttrain.llm.settings import ModelSettings
from posttrain.tuning import tiny, tiny_vlm
from posttrain.tuning.adapted import base_of, is_adapter
from posttrain.tuning.model import ModelError, load, processing_of, sees, trim_after_end
from posttrain.tuning.seen import is_processor, seen_prompt, tokenizer_of, written
from posttrain.tuning.turns import Turns, TurnsError, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain.tuning.seen import Processing


def load_base(
    settings: ModelSettings, *, texts: Iterable[str], seed: int, tools: bool = False
) -> tuple[PreTrainedModel, Processing]:
    """The model that SFT starts from. `texts` give the tiny model its words, `tools` its calls."""
    if settings.path == "tiny_vlm":
        processor = tiny_vlm.make_processor(texts)
        return tiny_vlm.make_model(
            processor, hidden=settings.hidden, layers=settings.layers, seed=seed
        ), processor
    if settings.path == "tiny":
        tokenizer = tiny.make_tokenizer(texts, tools=tools)
        model = tiny.make_model(
            tokenizer, hidden=settings.hidden, layers=settings.layers, seed=seed
        )
        return model, tokenizer
    return load(
        _resolve(settings.path),
        dtype=settings.dtype,
        revision=settings.revision,
        quantization=settings.quantization,
    )


def load_tokenizer(
    settings: ModelSettings, *, texts: Iterable[str], tools: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of `load_base`, without the model."""
    if settings.path == "tiny":
        return tiny.make_tokenizer(texts, tools=tools)
    if settings.path == "tiny_vlm":
        return tokenizer_of(tiny_vlm.make_processor(texts))
    path = _resolve(settings.path)
    seeing = sees(base_of(path) if is_adapter(path) else path, settings.revision)
    return tokenizer_of(processing_of(path, settings.revision, sees=seeing))


def _resolve(path: str) -> str:
    if path.startswith("asset:"):
        from posttrain.assets import resolve

        return str(resolve(path))
    return path


def check_sight(processing: Processing, *, shown: bool) -> None:
    """Refuse pictures for a model that reads only text.

    Raises:
        ModelError: it would learn to answer without seeing them.
    """
    if shown and not is_processor(processing):
        raise ModelError(
            "the data shows pictures, and model.path reads only text; name a vision-language "
            "model (model.path: tiny_vlm is one), or drop the column from the data"
        )


def prompt_ids(
    processing: Processing,
    prompt: Sequence[Message],
    images: Sequence[str] = (),
    tools: Sequence[Mapping[str, Any]] = (),
) -> Sequence[int]:
    """Token ids of a conversation, up to where the model is to answer.

    Raises:
        ModelError: pictures for a model that reads only text.
    """
    if is_processor(processing):
        return seen_prompt(processing, prompt, images)
    check_sight(processing, shown=bool(images))
    encoded = processing.apply_chat_template(
        list(prompt),
        tools=list(tools) or None,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    return list(encoded["input_ids"])


def demonstration_ids(processing: Processing, row: Row) -> tuple[Sequence[int], Sequence[int]]:
    """Token ids of a row's prompt and of its completion, up to and with its end token.

    What a template writes behind the end token (often a line break) is not the model's to say.
    A completion of several turns (`Turns`) knows which of its tokens are.

    Raises:
        ModelError: the template does not keep the prompt as a prefix of the conversation.
    """
    if row.turns or row.tools:
        return _turn_ids(processing, row)
    prompt = prompt_ids(processing, row.prompt, row.images)
    answered = [*row.prompt, {"role": "assistant", "content": row.completion}]
    tokenizer = tokenizer_of(processing)
    asked: Sequence[int] | str = prompt
    full: Sequence[int] | str
    if is_processor(processing):
        asked = written(processing, row.prompt, row.images, ask=True)
        full = written(processing, answered, row.images, ask=False)
    else:
        full = tokenizer.apply_chat_template(answered, tokenize=True, return_dict=True)["input_ids"]
    if full[: len(asked)] != asked:
        raise ModelError(
            f"chat template: the prompt of unit {row.unit!r} is not a prefix of the conversation "
            "with its answer, so SFT and RL would not see the same prompt"
        )
    said = full[len(asked) :]
    if isinstance(said, str):
        said = tokenizer(said, add_special_tokens=False)["input_ids"]
    return prompt, trim_after_end(said, [tokenizer.eos_token_id])[0]


def _turn_ids(processing: Processing, row: Row) -> tuple[list[int], Turns]:
    if is_processor(processing):
        raise ModelError(
            "environments are for models that read only text; this one has a processor"
        )
    turns = row.turns or ({"role": "assistant", "content": row.completion},)
    end = int(tokenizer_of(processing).eos_token_id)
    try:
        return encode(processing, row.prompt, turns, tools=row.tools, end=end)
    except TurnsError as error:
        raise ModelError(f"unit {row.unit!r}: {error}") from error
