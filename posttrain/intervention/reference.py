"""Is the reference of an anchor really pi_0?

The commonest mistake in RL after SFT: the policy is an SFT adapter, the reference is the base
model without it, and the anchor pulls towards the wrong model from the first step. Before
training the two must agree, and here they are asked to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from posttrain.intervention.kl import categorical_kl, k3

Model: TypeAlias = Callable[..., Any]


class WrongReferenceError(ValueError):
    """The untrained policy and its reference disagree, so the anchor is not pi_0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCheck:
    """How far the untrained policy is from its reference."""

    kl: float
    """Mean divergence a token or action, in nats; 0 when the reference is pi_0."""
    max_abs: float
    """Largest disagreement at a single token or action, in nats."""
    count: int
    """Tokens or actions compared."""
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the reference is pi_0, up to rounding. Never true of NaN."""
        return self.count > 0 and self.kl <= self.tolerance and self.max_abs < math.inf


def check_reference(
    policy_logp: Tensor,
    reference_logp: Tensor,
    mask: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
) -> ReferenceCheck:
    """Measure the divergence of the untrained policy from its reference with k3.

    k3 is 0 only where the log-probabilities agree, so the tokens may come from anywhere: from
    pi_0 itself or from the dataset.

    Args:
        policy_logp: `[..., T]`.
        reference_logp: of the same tokens.
        mask: what counts, as in `masked_mean`.
        tolerance: largest mean divergence that is still rounding, in nats a token.
    """
    with torch.no_grad():
        policy, reference = policy_logp.detach().float(), reference_logp.detach().float()
        divergence, distance = k3(policy, reference), (policy - reference).abs()
    return _summarise(divergence, distance, mask, tolerance)


def verify_reference(
    policy_logp: Tensor,
    reference_logp: Tensor,
    mask: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
    base_logp: Tensor | None = None,
) -> ReferenceCheck:
    """Refuse an anchor that is not pi_0.

    Args:
        policy_logp: `[..., T]`.
        reference_logp: of the same tokens.
        mask: what counts, as in `masked_mean`.
        tolerance: largest mean divergence that is still rounding, in nats a token.
        base_logp: of the same tokens, under the model before SFT. With it the error can say
            that the reference *is* that model.

    Raises:
        WrongReferenceError: the divergence is above the tolerance, or not a number, or nothing
            was compared.
    """
    found = check_reference(policy_logp, reference_logp, mask, tolerance=tolerance)
    is_base = (
        base_logp is not None
        and check_reference(base_logp, reference_logp, mask, tolerance=tolerance).ok
    )
    return _require(found, cause=_IS_BASE if is_base else _USUAL)


@torch.no_grad()
def verify_models(
    policy: Model,
    reference: Model,
    batch: Mapping[str, Any] | Tensor,
    *,
    mask: Tensor | None = None,
    tolerance: float = 1e-3,
) -> ReferenceCheck:
    """Refuse a reference model that is not the untrained policy, by the exact KL on a batch.

    The models are called as they stand. A policy left in training mode disagrees with itself
    when it has dropout, and would feel a KL that is not there: that is refused as well, by
    calling it twice.

    Args:
        policy: returns logits `[..., V]`, an object with `.logits`, or a
            `torch.distributions.Distribution`.
        reference: returns the same kind.
        batch: keyword arguments of the models, or their only argument.
        mask: which positions count; the batch's `attention_mask` unless given.
        tolerance: largest mean divergence that is still rounding, in nats a position.

    Raises:
        WrongReferenceError: as `verify_reference`, or the policy disagrees with itself.
    """
    if mask is None and isinstance(batch, Mapping):
        mask = batch.get("attention_mask")
    first = _call(policy, batch)
    itself = _divergence(first, _call(policy, batch))
    _require(_summarise(itself, itself.abs(), mask, tolerance), cause=_DROPOUT)
    found = _divergence(first, _call(reference, batch))
    return _require(_summarise(found, found.abs(), mask, tolerance), cause=_USUAL)


def _call(model: Model, batch: Mapping[str, Any] | Tensor) -> Any:
    out = model(**batch) if isinstance(batch, Mapping) else model(batch)
    # A Distribution may have `.logits` too, but knows its own divergence.
    return out if isinstance(out, Distribution) else getattr(out, "logits", out)


def _divergence(out: Any, ref_out: Any) -> Tensor:
    if isinstance(out, Distribution) and isinstance(ref_out, Distribution):
        return kl_divergence(out, ref_out)
    if isinstance(out, Tensor) and isinstance(ref_out, Tensor):
        return categorical_kl(out, ref_out)
    raise TypeError(
        "policy and reference must both return logits or both a torch Distribution, got "
        f"{type(out).__name__} and {type(ref_out).__name__}"
    )


def _summarise(
    divergence: Tensor, distance: Tensor, mask: Tensor | None, tolerance: float
) -> ReferenceCheck:
    if mask is not None:
        keep = mask.bool().expand_as(divergence)
        divergence, distance = divergence[keep], distance[keep]
    count = divergence.numel()
    return ReferenceCheck(
        kl=divergence.mean().item() if count else math.nan,
        max_abs=distance.max().item() if count else math.nan,
        count=count,
        tolerance=tolerance,
    )


def _require(found: ReferenceCheck, *, cause: str) -> ReferenceCheck:
    if found.count == 0:
        raise WrongReferenceError("no token or action was left to compare: the mask is empty")
    if not found.ok:
        raise WrongReferenceError(
            f"KL of the untrained policy to its reference should be about 0 "
            f"(<= {found.tolerance:g} nats), got {found.kl:.4g} (largest difference "
            f"{found.max_abs:.4g}, {found.count} compared): {cause}"
        )
    return found


_IS_BASE = (
    "the reference is the base model before SFT. Give the trainer the SFT adapter itself, or "
    "merge it into the base first"
)
_USUAL = (
    "the reference is not pi_0. Usually it is the base model without the SFT adapter, another "
    "checkpoint, or one of the two runs with dropout or at another temperature"
)
_DROPOUT = (
    "the policy disagrees with itself when called twice. Dropout is active: call .eval(), or set "
    "the dropout of the model to 0"
)
