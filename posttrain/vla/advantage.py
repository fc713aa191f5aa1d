"""How much better was an episode than the others from its start? Group-relative advantages."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to the standard deviation, as TRL does."""


def group_advantages(
    returns: Tensor, group: int, scale: Literal["group", "batch", "none"]
) -> Tensor:
    """Advantages of episodes among those of the same start (GRPO, arXiv 2402.03300).

    Args:
        returns: `[n]`, the episodes of a start beside each other.
        group: episodes of a start.
        scale: what they are divided by: the group's standard deviation, the whole batch', or
            nothing (Dr. GRPO, arXiv 2503.20783).

    Returns:
        `[n]`; exactly 0 throughout a group whose returns are all equal.
    """
    grouped = returns.view(-1, group)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    centred = torch.where(silent(returns, group)[:, None], 0.0, centred)
    if scale == "group" and group > 1:
        centred = centred / (grouped.std(dim=1, keepdim=True) + EPSILON)
    elif scale == "batch" and len(returns) > 1:
        centred = centred / (returns.std() + EPSILON)
    return centred.flatten()


def silent(returns: Tensor, group: int) -> Tensor:
    """Groups whose returns are all equal, which teach nothing, `[groups]`."""
    grouped = returns.view(-1, group)
    return (grouped == grouped[:, :1]).all(dim=1)
