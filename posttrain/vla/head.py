"""The softmax over action tokens alone, as a constant bias of the model's output embedding.

Whatever computes logits from this model computes them restricted: its own forward, generation, the
losses of TRL (which read the head's weight and bias themselves), a divergence from pi_0, probes.
The bias is finite, so that no product with a probability of 0 is NaN, and low enough that the
probability is 0 exactly in every precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

BARRED = -1e4
"""Added to the logits of all other tokens; finite in float16."""


class HeadError(ValueError):
    """A model whose softmax cannot be restricted, and why."""


def restrict(model: Any, ids: Sequence[int]) -> None:
    """Let a model give probability to some tokens only, from now on.

    The bias is a buffer: it is not trained, not saved with the weights, and moves, casts and copies
    with the model. Restricting a model again replaces the tokens.

    Args:
        model: a transformers model with an output embedding, or one wrapped by PEFT.
        ids: the tokens that keep their logits.

    Raises:
        HeadError: no linear output embedding, a trained bias, logits that are squashed behind it,
            or tokens outside the vocabulary.
    """
    head = _head(model)
    size = head.weight.shape[0]
    if not ids or min(ids) < 0 or max(ids) >= size:
        raise HeadError(f"ids must be tokens of a vocabulary of {size}, got {list(ids)[:8]}")
    text = model.config.get_text_config()
    if getattr(text, "final_logit_softcapping", None):
        raise HeadError(
            f"{text.model_type}: final_logit_softcapping = {text.final_logit_softcapping} squashes "
            "the logits behind the head, so that no bias can bar a token; use a model without it"
        )
    bias = torch.full((size,), BARRED, dtype=head.weight.dtype, device=head.weight.device)
    bias[list(ids)] = 0
    head._parameters.pop("bias", None)  # noqa: SLF001  an empty slot, where a buffer is to stand
    head.register_buffer("bias", bias, persistent=False)


def unrestrict(model: Any) -> None:
    """Give all tokens their logits back; nothing happens to a model that is not restricted."""
    if is_restricted(model):
        head = _head(model)
        del head.bias
        head.register_parameter("bias", None)


def is_restricted(model: Any) -> bool:
    """Whether `restrict` holds on this model."""
    return "bias" in dict(_head(model).named_buffers(recurse=False))


def _head(model: Any) -> torch.nn.Linear:
    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    if not isinstance(head, torch.nn.Linear):
        raise HeadError(
            f"the output embedding of {type(model).__name__} must be a linear layer, got "
            f"{type(head).__name__}"
        )
    if isinstance(head.bias, torch.nn.Parameter):
        raise HeadError(
            f"the output embedding of {type(model).__name__} has a trained bias; actions are "
            "restricted by a constant one, and both cannot stand there"
        )
    return head
