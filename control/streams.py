"""Noise of M members, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Active: TypeAlias = Sequence[bool]
"""Which members move: `[M]`."""


class Streams:
    """Normal and uniform noise, each member's from a generator of its own.

    Members that do not take part in an update draw nothing, as they would alone: `only` says which
    do, until it is called again.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Seed one generator a member."""
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(int(s)) for s in seeds]
        self.active: Active = (True,) * len(self.generators)

    def only(self, active: Active) -> Streams:
        """Let only these members draw from now on."""
        self.active = active
        return self

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise `[M, *shape]`; zeros for members that do not take part."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform noise on [0, 1), `[M, *shape]`; zeros for members that do not take part."""
        return self._draw(torch.rand, shape)

    def _draw(self, law: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        draws = [
            law(shape, generator=g, device=self.device)
            if on
            else torch.zeros(shape, device=self.device)
            for g, on in zip(self.generators, self.active, strict=True)
        ]
        return draws[0].unsqueeze(0) if len(draws) == 1 else torch.stack(draws)
