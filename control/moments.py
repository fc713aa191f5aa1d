"""Adam's memory of all members at once, and of each alone."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Moments:
    """Adam's memory of all members in whole tensors, and each member's part of it as a view."""

    def __init__(self, parameters: Sequence[Tensor], views: Sequence[Sequence[Tensor]]) -> None:
        """Begin with nothing remembered.

        Args:
            parameters: of all members, the members (times networks each) leading.
            views: each member's part of every parameter.
        """
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.counts = torch.zeros(len(parameters) * len(views), device=parameters[0].device)
        counts = iter(self.counts)
        self._parts: list[tuple[Tensor, dict[str, Tensor]]] = []
        for m, view in enumerate(views):
            for p, a, b in zip(view, self.first, self.second, strict=True):
                part = slice(m * len(p), (m + 1) * len(p))
                state = {"step": next(counts), "exp_avg": a[part], "exp_avg_sq": b[part]}
                self._parts.append((p, state))
        self._even = True

    def together(self, state: MutableMapping[Any, Any]) -> bool:
        """Whether all members have taken equally many steps, so that one step serves all.

        What a reset deleted or a checkpoint brought is taken up first.
        """
        for p, mine in self._parts:
            theirs = state.get(p)
            if theirs is mine:
                continue
            for name, value in mine.items():
                value.copy_(theirs[name]) if theirs else value.zero_()
            state[p] = mine
            self._even = False
        if not self._even:
            self._even = bool((self.counts == self.counts[0]).all())
        return self._even

    def parted(self) -> None:
        """Not all members took the last step."""
        self._even = False
