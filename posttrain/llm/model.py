"""Models and tokenizers: made on the spot, from an asset, a folder or the Hub; no remote code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.intervention.replay import label_logp
from posttrain.llm import tiny, tiny_vlm
from posttrain.llm.adapted import base_of, is_adapter, merged
from posttrain.llm.data import Message, Row
from posttrain.llm.quantized import config_of
from posttrain.llm.seen import is_processor, seen_prompt, sights, tokenizer_of, written
from posttrain.llm.settings import ModelSettings, Quantization
from posttrain.llm.turns import Turns, TurnsError, encode, spoken

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain.llm.seen import Processing


class ModelError(ValueError):
    """A model or tokenizer that cannot be used, and why."""


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.accelerator.is_available():
        return torch.device(torch.accelerator.current_accelerator() or "cpu")
    return torch.device("cpu")


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
    return tokenizer_of(_processing(path, settings.revision, sees=seeing))


def _resolve(path: str) -> str:
    if path.startswith("asset:"):
        from posttrain.assets import resolve

        return str(resolve(path))
    return path


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    quantization: Quantization | None = None,
) -> tuple[PreTrainedModel, Processing]:
    """A language model with its tokenizer, from a folder or the Hub (safetensors only).

    A folder that holds an adapter is read with its base, and merged. What was quantised when it
    was saved is so again.

    A model whose configuration says that it answers with text to pictures and text comes with its
    processor instead.

    Raises:
        ModelError: nothing there, no safetensors, no chat template, or no padding token.
        AdapterError: an adapter without its base, or that does not fit it.
        QuantizationError: bitsandbytes or a GPU is missing.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if is_adapter(path):
        if quantization is not None:
            raise ModelError(
                f"model.quantization: {str(path)!r} is an adapter, and is merged into its base in "
                "full precision; leave quantization out, or name the base"
            )
        model = merged(path, lambda base: load(base, dtype=dtype)[0])
        return model, _processing(str(path), None, sees=sees(base_of(path)))
    quantized = {} if quantization is None else {"quantization_config": config_of(quantization)}
    seeing = sees(path, revision)
    maker: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    try:
        model = maker.from_pretrained(
            str(path), dtype=dtype, revision=revision, use_safetensors=True, **quantized
        )
    except (OSError, ValueError, KeyError) as error:
        raise _missing(path, error) from error
    return model, _processing(str(path), revision, sees=seeing)


def load_processing(path: str | Path) -> Processing:
    """The tokenizer or processor of `load`, without the model.

    Raises:
        ModelError: as `load`.
    """
    return _processing(str(path), None, sees=sees(base_of(path) if is_adapter(path) else path))


def sees(path: str | Path, revision: str | None = None) -> bool:
    """Whether the model there reads pictures, by the class that its configuration names.

    Raises:
        ModelError: there is no configuration.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
    )

    try:
        config = AutoConfig.from_pretrained(str(path), revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise _missing(path, error) from error
    return any(
        name in NAMES.values() and not name.endswith("ForCausalLM")
        for name in config.architectures or ()
    )


def _missing(path: str | Path, error: Exception) -> ModelError:
    first = str(error).strip().splitlines()[0]
    return ModelError(f"model.path: cannot load {str(path)!r}: {first}")


def _processing(path: str, revision: str | None, *, sees: bool) -> Processing:
    from transformers import AutoProcessor, AutoTokenizer

    maker: Any = AutoProcessor if sees else AutoTokenizer
    try:
        processing = maker.from_pretrained(path, revision=revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _missing(path, error) from error
    if not processing.chat_template:
        raise ModelError(
            f"model.path: the {'processor' if sees else 'tokenizer'} of {path!r} has no chat "
            "template, so SFT and RL would not see the same text; add chat_template.jinja to the "
            "model's folder"
        )
    tokenizer = tokenizer_of(processing)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"model.path: the tokenizer of {path!r} has no EOS token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return processing


def save(model: PreTrainedModel, processing: Processing, path: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer or processor."""
    model.save_pretrained(path)
    processing.save_pretrained(path)


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


def trim_after_end(ids: Sequence[int], end: Sequence[int]) -> tuple[list[int], bool]:
    """Cut behind the first end token; say whether there was one."""
    for i, token in enumerate(ids):
        if token in end:
            return list(ids[: i + 1]), True
    return list(ids), False


def end_ids(model: PreTrainedModel, processing: Processing) -> list[int]:
    """Every token that ends a completion for this model."""
    config: Any = model.generation_config
    ends = config.eos_token_id if config is not None else None
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return sorted({*ends, tokenizer_of(processing).eos_token_id})


def batch_of(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int, where: torch.device
) -> dict[str, torch.Tensor]:
    """Pad (prompt, completion) ids on the right. Returns tensors of shape [n, length].

    `labels` is -100 on prompts, padding and what tools answered. Prompts that show pictures
    (`SeenPrompt`) bring the pictures' tensors along, as the model's processor made them.
    """
    length = max(len(p) + len(c) for p, c in pairs)
    ids = torch.full((len(pairs), length), pad)
    mask = torch.zeros((len(pairs), length), dtype=torch.long)
    labels = torch.full((len(pairs), length), -100)
    for i, (prompt, completion) in enumerate(pairs):
        n, m = len(prompt), len(prompt) + len(completion)
        ids[i, :m] = torch.tensor([*prompt, *completion])
        mask[i, :m] = 1
        said = torch.tensor(list(spoken(completion)))
        labels[i, n:m] = torch.where(said, ids[i, n:m], -100)
    return {
        "input_ids": ids.to(where),
        "attention_mask": mask.to(where),
        "labels": labels.to(where),
        **sights([prompt for prompt, _ in pairs], length, where),
    }


def token_logps(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every label token at temperature 1, and which positions count.

    Returns:
        logps [n, length - 1] (0 where masked) and mask [n, length - 1].
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logp, mask = label_logp(model(**inputs).logits, batch["labels"])
    return torch.where(mask, logp, 0), mask
