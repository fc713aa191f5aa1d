"""Prompts come in the same order after a resume, also in later epochs.

TRL's sampler shuffles anew at the beginning of each epoch, from a generator that a resumed run
starts afresh: its second epoch would be ordered like the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class Ordered:
    """Remembers the sampler of an online trainer of TRL, whose methods it extends."""

    prompt_order: Any = None

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        self.prompt_order = super()._get_train_sampler(*args, **kwargs)  # type: ignore[misc]
        return self.prompt_order


class GoOnInOrder(TrainerCallback):
    """Shuffle as often as the epochs that are over have done."""

    def __init__(self, trainer: Any) -> None:
        """Set the order of `trainer`'s prompts."""
        self.trainer = trainer

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """After the step has been read from a checkpoint, before the first batch is dealt."""
        del control
        sampler = self.trainer.prompt_order
        updates = max(1, -(-len(train_dataloader) // int(args.gradient_accumulation_steps)))
        if getattr(sampler, "shuffle", False):
            for _epoch in range(int(state.global_step) // updates):
                torch.randperm(sampler.num_samples, generator=sampler.generator)
