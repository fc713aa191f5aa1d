"""Going on from a checkpoint with the weights that it holds.

transformers writes some models, most vision-language models among them, under other names than
their modules have. `from_pretrained` knows both; its Trainer, which resumes by module names, finds
none, warns, and goes on from the weights that training started with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def go_on(trainer: Any, checkpoint: Path | None) -> None:
    """Train to the end, from a checkpoint or, with None, from the start."""
    if checkpoint is not None:
        give_weights(trainer.accelerator.unwrap_model(trainer.model), checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def give_weights(model: Any, checkpoint: Path) -> bool:
    """Put a checkpoint's weights into `model` if the Trainer would not find them by name.

    Adapters and sharded states have no whole model in their checkpoints, and are left to it.

    Returns:
        Whether it was needed.
    """
    from safetensors import safe_open

    names: set[str] = set()
    for file in checkpoint.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            names.update(stored.keys())
    if names <= set(model.state_dict()):
        return False
    whole = type(model).from_pretrained(str(checkpoint), dtype=model.dtype)
    model.load_state_dict(whole.state_dict())
    return True
