"""The KL to the reference where TRL has no KL of its own: k2 beside the loss, any in the reward.

Nothing is computed twice: what a model says in TRL's own forward passes is heard by a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.intervention.kl import estimate
from posttrain.intervention.parts import REFERENCE_ADAPTER
from posttrain.intervention.plan import Estimator


@dataclass(frozen=True, slots=True)
class Heard:
    """A forward pass of TRL: what went in, and the log-probabilities that came out."""

    inputs: Mapping[str, Any]
    log_probs: Tensor
    """`[n, length - 1]`, 0 where a token is no part of a completion."""


@contextmanager
def listening(model: nn.Module, when: Callable[[], bool] | None = None) -> Iterator[list[Heard]]:
    """Hear every pass of `model` that scores completions, while the context lasts.

    Args:
        model: as TRL calls it, wrapped or not.
        when: passes at which this is false are not heard.
    """
    heard: list[Heard] = []

    def hook(_: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        del args
        log_probs = getattr(output, "log_probs", None)
        if log_probs is not None and (when is None or when()):
            heard.append(Heard(dict(kwargs), log_probs))

    handle = model.register_forward_hook(hook, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def completion_logps(heard: Sequence[Heard], length: int) -> Tensor:
    """Log-probabilities of completions of `length` padded tokens, `[n, length]`."""
    return torch.cat([one.log_probs[:, -length:] for one in heard])


def token_kl(
    estimator: Estimator, logp: Tensor, ref_logp: Tensor, mask: Tensor, old: Tensor | None = None
) -> Tensor:
    """Estimate the KL to the reference at every completion token; 0 where the mask is.

    Tokens that an older policy sampled count with their importance ratio, held constant: then
    the expected gradient of k2 stays that of the KL.

    Args:
        estimator: k1, k2 or k3.
        logp: of the policy, `[n, T]`.
        ref_logp: of the reference.
        mask: which tokens are the policy's own, 0/1.
        old: log-probabilities when they were sampled; None when that was now.
    """
    found = estimate(estimator, logp, ref_logp)
    if old is not None:
        found = found * (logp - old).detach().exp()
    return torch.where(mask.bool(), found, 0)


def rollout_kl(estimator: Estimator, policy: Sequence[Tensor], heard: Sequence[Heard]) -> Tensor:
    """Sum the KL over the tokens of each rollout, `[n]`.

    Args:
        estimator: k1, k2 or k3.
        policy: log-probabilities of the passes in `heard`, under the policy.
        heard: the reference's passes.
    """
    parts = [
        token_kl(estimator, logp, one.log_probs, _scored(one)).sum(-1)
        for logp, one in zip(policy, heard, strict=True)
    ]
    return torch.cat(parts)


def rollout_tokens(heard: Sequence[Heard]) -> Tensor:
    """Count the tokens of each rollout, `[n]`."""
    return torch.cat([_scored(one).sum(-1) for one in heard])


def _scored(one: Heard) -> Tensor:
    labels: Tensor = one.inputs["labels"]
    return labels[:, 1:] != -100


def speaks_as_reference(model: nn.Module) -> bool:
    """Whether a model with adapters has them switched off, or to the reference's."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = next(m for m in model.modules() if isinstance(m, BaseTunerLayer))
    return layer.disable_adapters or list(layer.active_adapters) == [REFERENCE_ADAPTER]
