"""How far is a policy from its reference?

Estimators work on log-probabilities of sampled actions or tokens, exact divergences on the
distributions themselves. All are pure functions on tensors, the same for a language model and
for a control actor.

The estimators are those of John Schulman's note "Approximating KL Divergence" (2020). With
samples x ~ pi and r = log pi_ref(x) - log pi(x),

    k1 = -r          unbiased, any sign
    k2 = r^2 / 2     biased, never negative
    k3 = e^r - 1 - r unbiased, never negative

As a *loss* they do something else than as a *value*, since a gradient does not see that the
samples come from pi: the expected gradient of k1 is 0 (no anchor at all), that of k2 is the
gradient of KL(pi || ref), that of k3 the gradient of KL(ref || pi) (arXiv 2506.09477).
Reparameterised samples, as a control actor draws them, do move with pi: there k1 is right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average `x` where `mask` is true; 0 where nothing is.

    What the mask hides may be anything, NaN and infinities included.

    Args:
        x: any shape.
        mask: broadcastable to `x`, boolean or 0/1. None keeps everything.
    """
    if mask is None:
        return x.mean()
    keep = mask.bool().expand_as(x)
    return torch.where(keep, x, 0).sum() / keep.sum().clamp(min=1)


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL(pi || ref) as log pi - log ref, elementwise, for samples of pi."""
    return logp - ref_logp


def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL(pi || ref) as (log pi - log ref)^2 / 2, elementwise, for samples of pi."""
    return 0.5 * (logp - ref_logp).square()


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL(pi || ref) as e^r - 1 - r with r = log ref - log pi, for samples of pi.

    `expm1` keeps the digits where the two policies are close, which is where every run starts.
    """
    r = ref_logp - logp
    return torch.expm1(r) - r


def estimate(name: str, logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL(pi || ref) with the estimator of that name, elementwise.

    Raises:
        ValueError: an estimator that log-probabilities of samples cannot give.
    """
    if name not in _ESTIMATORS:
        raise ValueError(
            f"estimator must be one of {sorted(_ESTIMATORS)} for log-probabilities of samples, "
            f"got {name!r}; 'exact' needs the distributions: categorical_kl or gaussian_kl"
        )
    return _ESTIMATORS[name](logp, ref_logp)


def forward_kl_estimate(logp: Tensor, ref_logp: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate KL(ref || pi) = E_ref[log ref - log pi] from samples of the *reference*.

    The gauge of forgetting: on the new task it predicts what is lost on the old ones
    (RL's Razor, arXiv 2509.04259).

    Args:
        logp: `[..., T]`, of samples that the reference drew.
        ref_logp: of the same samples.
        mask: what counts, as in `masked_mean`.
    """
    return masked_mean(ref_logp - logp, mask)


def categorical_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Compute KL(pi || ref) of categorical policies exactly.

    A choice that pi never takes (logit -inf) adds nothing; one that only the reference never
    takes makes the divergence infinite.

    Args:
        logits: `[..., V]`, not necessarily normalised.
        ref_logits: likewise.

    Returns:
        `[...]`, in nats, at least in float32.
    """
    logp = _log_softmax(logits)
    ref_logp = _log_softmax(ref_logits)
    taken = logp > -math.inf
    difference = torch.where(taken, logp, 0) - torch.where(taken, ref_logp, 0)
    return (logp.exp() * difference).sum(-1)


def gaussian_kl(mean: Tensor, std: Tensor, ref_mean: Tensor, ref_std: Tensor) -> Tensor:
    """Compute KL(pi || ref) of diagonal Gaussian policies exactly.

    sum_i  log(s'_i / s_i) + (s_i^2 + (m_i - m'_i)^2) / (2 s'_i^2) - 1/2

    All are `[..., A]` or broadcastable to it; the result is `[...]`, in nats.
    """
    ratio = (std / ref_std).square()
    shift = ((mean - ref_mean) / ref_std).square()
    return (0.5 * (ratio + shift - 1 - ratio.log())).sum(-1)


def squashed_gaussian_kl(mean: Tensor, std: Tensor, ref_mean: Tensor, ref_std: Tensor) -> Tensor:
    """Compute KL(pi || ref) of tanh-squashed Gaussian policies exactly.

    A divergence does not change under a bijection applied to both sides, so this is the KL of
    the Gaussians before the squash, whatever the squash. Shapes as in `gaussian_kl`.
    """
    return gaussian_kl(mean, std, ref_mean, ref_std)


def squashed_gaussian_log_prob(mean: Tensor, std: Tensor, pre_tanh: Tensor) -> Tensor:
    """Compute the log-density of the action tanh(u), u ~ N(mean, std^2), at u = `pre_tanh`.

    Uses log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which stays finite where tanh
    has saturated. All are `[..., A]`; the result is summed over the action's dimensions.
    """
    gaussian = -0.5 * ((pre_tanh - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    jacobian = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
    return (gaussian - jacobian).sum(-1)


def sampled_squashed_gaussian_kl(
    mean: Tensor,
    std: Tensor,
    ref_mean: Tensor,
    ref_std: Tensor,
    *,
    samples: int,
    estimator: str = "k1",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate KL(pi || ref) of tanh-squashed Gaussians from reparameterised samples of pi.

    For learners that only ever see actions and their log-probabilities; `squashed_gaussian_kl`
    is exact and cheaper.

    Args:
        mean: `[..., A]`, before the squash, as are the other three.
        std: of the policy.
        ref_mean: of the reference.
        ref_std: of the reference.
        samples: draws a state.
        estimator: k1, k2 or k3. k3 has no variance to speak of near the reference, and an infinite
            one where the policy is narrower than it by a factor of 2 in variance.
        generator: source of the draws.

    Returns:
        `[...]`, the mean over the samples.
    """
    mean = mean + torch.zeros_like(std)
    shape = (samples, *mean.shape)
    noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
    pre_tanh = mean + std * noise
    logp = squashed_gaussian_log_prob(mean, std, pre_tanh)
    ref_logp = squashed_gaussian_log_prob(ref_mean, ref_std, pre_tanh)
    return estimate(estimator, logp, ref_logp).mean(0)


def _log_softmax(logits: Tensor) -> Tensor:
    wide = logits.float() if logits.dtype in {torch.float16, torch.bfloat16} else logits
    return wide.log_softmax(-1)


_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
