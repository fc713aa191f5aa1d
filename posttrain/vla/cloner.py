"""TRL's SFTTrainer where a model's head looks only at the places that answer.

TRL scores every place of a row, prompt included, and masks what is no label; it also feeds the last
token, after which nothing is asked. Rows of decisions are padded on the left, so that all answers
stand at the end: their hidden states are all that the head has to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from trl import SFTTrainer

from posttrain.tuning.reference import policy_of
from posttrain.tuning.rolled import Rolled
from posttrain.tuning.seen import PER_TOKEN

COLUMNS = ("input_ids", "attention_mask", *PER_TOKEN)
"""What has a number for each token."""


class AnswerSFTTrainer(SFTTrainer):
    """Cloning of decisions: TRL's loss and metrics, of the answers alone."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's, on a batch cut to what its loss depends on.

        A smoothed loss and one of the user's own read all logits, and are left as they are.
        """
        if self.label_smoother is not None or self.compute_loss_func is not None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        cut, places = answers_only(inputs)
        with last_places(_backbone(policy_of(self)), places):
            return super().compute_loss(model, cut, *args, **kwargs)


class RolledSFTTrainer(Rolled, AnswerSFTTrainer):
    """SFT, evaluated by episodes."""


def answers_only(rows: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Rows without their last token, labels shifted and only where some row has one.

    Args:
        rows: `input_ids`, `attention_mask` and `labels` `[n, length]`, -100 where nothing is asked,
            and whatever goes with images.

    Returns:
        The rows, `[n, length - 1]`, with `shift_labels` `[n, places]`; and `places`.
    """
    labels = rows["labels"]
    asked = (labels != -100).any(dim=0).nonzero()
    places = labels.shape[1] - int(asked[0]) if len(asked) else 1
    cut = {
        name: tensor[:, :-1] if name in COLUMNS else tensor
        for name, tensor in rows.items()
        if name != "labels"
    }
    return {**cut, "shift_labels": labels[:, -places:]}, places


@contextmanager
def last_places(backbone: nn.Module, count: int) -> Iterator[None]:
    """A model's head sees the hidden states of the last `count` places only."""

    def cut(_: nn.Module, __: Any, found: Any) -> Any:
        found["last_hidden_state"] = found["last_hidden_state"][:, -count:]
        return found

    handle = backbone.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def _backbone(model: Any) -> nn.Module:
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    found: nn.Module = plain.base_model
    return found
