"""Which rows of the dataset does a step replay, and how much does each token weigh?

Everything is a function of the step, never of a state, so that a resumed run draws what the
unbroken run would have drawn.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posttrain.intervention.ramp import Ramp, ramp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from posttrain.intervention.plan import TokenWeight

LUFFY_SHAPE = 0.1
"""c of LUFFY's shaping p / (p + c)."""


def draw(start: int, count: int, *, size: int, seed: int) -> NDArray[np.int64]:
    """Give the draws `start .. start + count` of an endless stream over the dataset.

    The stream is one permutation of the dataset after another, each from (seed, epoch): within
    an epoch every row comes exactly once.

    Args:
        start: draws taken before.
        count: draws wanted.
        size: rows in the dataset.
        seed: of the stream.

    Returns:
        Row indices `[count]`.
    """
    if size < 1:
        raise ValueError(f"size must be >= 1 to draw from a dataset, got {size}")
    if start < 0 or count < 0:
        raise ValueError(f"start and count must be >= 0, got {start} and {count}")
    parts = [np.empty(0, dtype=np.int64)]
    while count > 0:
        epoch, offset = divmod(start, size)
        taken = _permutation(size, seed, epoch)[offset : offset + count]
        parts.append(taken)
        start, count = start + len(taken), count - len(taken)
    return np.concatenate(parts)


def replay_indices(
    step: int, *, size: int, batch: int, seed: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Give the dataset rows that process `rank` replays at `step`.

    Without replacement inside an epoch, across steps and across processes.

    Args:
        step: from 0. With gradient accumulation count micro-batches, not optimizer steps.
        size: rows in the dataset.
        batch: rows a process a step.
        seed: of the stream; the same on every process.
        rank: this process.
        world: processes.

    Returns:
        Row indices `[batch]`.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must lie in [0, world), got rank={rank} with world={world}")
    return draw((step * world + rank) * batch, batch, size=size, seed=seed)


def drawn_before(batch: int, share: float | Ramp, step: int) -> int:
    """Count the dataset rows in all batches before `step`: the rounded sum of the shares.

    Together with `draw` this gives the rows of a mixed batch:
    `draw(drawn_before(b, s, step), mix_counts(b, s, step), size=..., seed=...)`.
    """
    strength = ramp(share)
    if strength.peak > 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    return math.floor(batch * strength.total(step) + 0.5)


def mix_counts(batch: int, share: float | Ramp, step: int) -> int:
    """Say how many of `batch` rows come from the dataset at `step`.

    The running total never strays from the sum of share * batch by more than half a row, and
    no count depends on an earlier call.

    >>> [mix_counts(8, 0.2, step) for step in range(5)]
    [2, 1, 2, 1, 2]
    """
    return drawn_before(batch, share, step + 1) - drawn_before(batch, share, step)


def token_weights(kind: TokenWeight, logp: Tensor, *, detach: bool = True) -> Tensor:
    """Weigh tokens of demonstrations by how likely the policy finds them, p = e^logp.

        none    1
        chord   p (1 - p)        learn where undecided (CHORD, arXiv 2508.11408)
        dft     p                the gradient of -p    (DFT, arXiv 2508.05629)
        luffy   c p / (p + c)^2  the gradient of -p / (p + c), c = 0.1 (LUFFY, arXiv 2504.14945)

    LUFFY shapes the objective itself, f(p) = p / (p + c). Times -log p, with the weight held
    constant, f would be another method; p f'(p) has the gradient of the paper.

    Args:
        kind: name of the weight.
        logp: `[..., T]`.
        detach: hold the weight constant in the gradient, as all of these methods do.
    """
    p = (logp.detach() if detach else logp).exp()
    if kind == "none":
        return torch.ones_like(p)
    if kind == "chord":
        return p * (1 - p)
    if kind == "dft":
        return p
    if kind == "luffy":
        return LUFFY_SHAPE * p / (p + LUFFY_SHAPE).square()
    raise ValueError(f"token_weight must be one of none, chord, dft, luffy; got {kind!r}")


def label_logp(
    logits: Tensor, labels: Tensor, *, ignore_index: int = -100, shift: bool = True
) -> tuple[Tensor, Tensor]:
    """Give the log-probabilities of the labels, and which of them count.

    Args:
        logits: `[..., T, V]`.
        labels: `[..., T]`; `ignore_index` where nothing is to be learnt.
        ignore_index: marks labels that do not count.
        shift: logits at t predict the label at t + 1, as in causal language models.

    Returns:
        `(logp, mask)`, `[..., T - 1]` when shifted, else `[..., T]`; in float32 at least.
    """
    if shift:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    mask = labels != ignore_index
    wide = logits.float() if logits.dtype in {torch.float16, torch.bfloat16} else logits
    # Gathered minus normaliser, not log_softmax: one [T, V] tensor less to keep for backward.
    chosen = wide.gather(-1, torch.where(mask, labels, 0).unsqueeze(-1)).squeeze(-1)
    return chosen - wide.logsumexp(-1), mask


def weighted_nll(
    logp: Tensor,
    mask: Tensor | None = None,
    *,
    token_weight: TokenWeight = "none",
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Compute the imitation loss with its own normaliser: -sum(w log p) / num_items.

    The normaliser counts tokens, not weights, so that a weight can shrink the loss. Give the
    count of the whole batch when accumulating: eight micro-batches of one row then sum to the
    loss of one batch of eight.

    Args:
        logp: `[..., T]` of dataset tokens (`label_logp`) or actions.
        mask: which count; None counts all.
        token_weight: see `token_weights`.
        num_items: tokens over all micro-batches and processes that share the optimizer step;
            None counts those in `mask`.

    Returns:
        A scalar. 0 where nothing counts.
    """
    keep = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask.bool()
    safe = torch.where(keep, logp, 0)
    loss = -torch.where(keep, token_weights(token_weight, safe) * safe, 0).sum()
    count = keep.sum().clamp(min=1) if num_items is None else num_items
    return loss / count


@lru_cache(maxsize=64)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.setflags(write=False)
    return order
