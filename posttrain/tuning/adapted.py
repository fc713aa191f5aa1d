"""Checkpoints that are an adapter: read together with their base, and merged.

transformers reads such a folder as the base with frozen adapter layers inside. TRL then trains
nothing, and takes the base without the adapter as its reference. Merged, pi_0 is one model like any
other, and the reference is pi_0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterError(ValueError):
    """An adapter's folder that cannot be read, and why."""


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    folder = Path(path)
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(path: str | Path) -> str:
    """The model that an adapter was trained on, as its folder names it.

    Raises:
        AdapterError: the folder does not say.
    """
    file = Path(path) / CONFIG
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterError(f"{file}: cannot be read: {error}") from None
    if not base:
        raise AdapterError(
            f"{file}: base_model_name_or_path: wanted the folder or the Hub name of the base, got "
            f"{base!r}; write it there"
        )
    return str(base)


def merged(path: str | Path, load: Callable[[str], Any]) -> PreTrainedModel:
    """An adapter's base with the adapter merged into its weights.

    Args:
        path: the adapter's folder.
        load: reads a model by folder or name.

    Raises:
        AdapterError: no safetensors, or weights that do not fit the base.
    """
    from peft import PeftModel

    if not (Path(path) / WEIGHTS).is_file():
        raise AdapterError(f"{path}: no {WEIGHTS}; adapters are read from safetensors only")
    base = load(base_of(path))
    try:
        adapted = PeftModel.from_pretrained(base, str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise AdapterError(f"{path}: does not fit its base {base_of(path)!r}: {first}") from error
    # peft froze the base, and a trainer would take that for the wish to train nothing.
    return adapted.merge_and_unload().requires_grad_(True)
