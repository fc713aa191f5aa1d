"""TRL's offline trainers, evaluated by rollouts instead of a loss."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer, SFTTrainer

from posttrain.tuning.anchored import Anchored
from posttrain.tuning.keep import KeepData
from posttrain.tuning.rolled import Rolled


class RolledSFTTrainer(Rolled, SFTTrainer):
    """SFT, evaluated by rollouts."""


class PlanDPOTrainer(Rolled, KeepData, Anchored, DPOTrainer):
    """DPO (arXiv 2305.18290), whose `beta` is the anchor, with the demonstrations kept."""

    native = ("exact", "loss")

    _step = 0
    """Micro-batches so far, which TRL's online trainers count and DPO does not."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Count."""
        loss = super().training_step(*args, **kwargs)
        self._step += 1
        return loss
