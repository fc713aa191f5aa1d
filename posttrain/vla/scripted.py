"""A policy that looks at nothing: how far chance gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Decisions, Observations


class Random:
    """Uniformly random actions, whatever the temperature."""

    def __init__(self, space: Any) -> None:
        """Act in a Discrete space or a bounded Box with one axis."""
        self.space = space
        self.discrete = hasattr(space, "n")
        self.tokens = 1 if self.discrete else int(space.shape[0])

    def decide(
        self, seen: Observations, draws: npt.NDArray[np.float64], *, temperature: float
    ) -> Decisions:
        """One action for each observation, as `posttrain.vla.observation.Actor` says.

        Raises:
            ValueError: greedy, which would always be the same action.
        """
        del seen
        if not temperature:
            raise ValueError("temperature: random actions are not greedy; wanted is above 0, got 0")
        if self.discrete:
            chosen = (draws * int(self.space.n)).astype(np.int64)
            return Decisions(tokens=chosen, actions=chosen)
        low, high = self.space.low, self.space.high
        actions = (low + draws * (high - low)).astype(self.space.dtype)[:, None]
        return Decisions(tokens=np.zeros(draws.shape, np.int64), actions=actions)
