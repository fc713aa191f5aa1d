"""Models and their processors from folders or the Hub, and what a model says of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.intervention.replay import label_logp
from posttrain.tuning.adapted import base_of, is_adapter, merged
from posttrain.tuning.quantized import config_of
from posttrain.tuning.seen import sights, tokenizer_of
from posttrain.tuning.settings import Quantization
from posttrain.tuning.turns import spoken

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.tuning.seen import Processing


class ModelError(ValueError):
    """A model or tokenizer that cannot be used, and why."""


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.accelerator.is_available():
        return torch.device(torch.accelerator.current_accelerator() or "cpu")
    return torch.device("cpu")


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    quantization: Quantization | None = None,
    chat: bool = True,
) -> tuple[PreTrainedModel, Processing]:
    """A language model with its tokenizer, from a folder or the Hub (safetensors only).

    A folder that holds an adapter is read with its base, and merged. What was quantised when it
    was saved is so again.

    A model whose configuration says that it answers with text to pictures and text comes with its
    processor instead. `chat` asks for a chat template.

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
        model = merged(path, lambda base: load(base, dtype=dtype, chat=chat)[0])
        return model, processing_of(str(path), None, sees=sees(base_of(path)), chat=chat)
    quantized = {} if quantization is None else {"quantization_config": config_of(quantization)}
    seeing = sees(path, revision)
    maker: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    try:
        model = maker.from_pretrained(
            str(path), dtype=dtype, revision=revision, use_safetensors=True, **quantized
        )
    except (OSError, ValueError, KeyError) as error:
        raise _missing(path, error) from error
    return model, processing_of(str(path), revision, sees=seeing, chat=chat)


def load_processing(path: str | Path) -> Processing:
    """The tokenizer or processor of `load`, without the model.

    Raises:
        ModelError: as `load`.
    """
    return processing_of(str(path), None, sees=sees(base_of(path) if is_adapter(path) else path))


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


def processing_of(path: str, revision: str | None, *, sees: bool, chat: bool = True) -> Processing:
    """The processor of a model that sees, else the tokenizer, with a padding token.

    Raises:
        ModelError: it cannot be read, or has no chat template.
    """
    from transformers import AutoProcessor, AutoTokenizer

    maker: Any = AutoProcessor if sees else AutoTokenizer
    try:
        processing = maker.from_pretrained(path, revision=revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _missing(path, error) from error
    if chat and not processing.chat_template:
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


def end_ids(model: PreTrainedModel, processing: Processing) -> list[int]:
    """Every token that ends a completion for this model."""
    config: Any = model.generation_config
    ends = config.eos_token_id if config is not None else None
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return sorted({*ends, tokenizer_of(processing).eos_token_id})


def trim_after_end(ids: Sequence[int], end: Sequence[int]) -> tuple[list[int], bool]:
    """Cut behind the first end token; say whether there was one."""
    for i, token in enumerate(ids):
        if token in end:
            return list(ids[: i + 1]), True
    return list(ids), False


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
    if getattr(model, "scores_labels", False):  # its tokens are numbers, of which it has no logits
        return model(**batch).log_probs, batch["labels"][:, 1:] != -100
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logp, mask = label_logp(model(**inputs).logits, batch["labels"])
    return torch.where(mask, logp, 0), mask
