"""What a policy sees and what it decides: the two shapes between simulators and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
Actions = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Observations:
    """A batch of n observations; nothing in it is ever changed in place."""

    images: Mapping[str, Images]
    """By camera, in a fixed order: `[n, height, width, 3]`."""
    instructions: Sequence[str]
    """What is to be done, one text each."""
    states: Floats | None = None
    """Proprioception, `[n, size]`; None where there is none."""

    def __len__(self) -> int:
        return len(self.instructions)

    def take(self, rows: Sequence[int]) -> Observations:
        """Some of them, in the order given."""
        chosen = list(rows)
        return Observations(
            images={name: pixels[chosen] for name, pixels in self.images.items()},
            instructions=[self.instructions[i] for i in chosen],
            states=None if self.states is None else self.states[chosen],
        )


def join(parts: Sequence[Observations]) -> Observations:
    """Batches one behind the other; all have the same cameras and sizes."""
    first = parts[0]
    return Observations(
        images={name: np.concatenate([p.images[name] for p in parts]) for name in first.images},
        instructions=[text for part in parts for text in part.instructions],
        states=None
        if first.states is None
        else np.concatenate([part.states for part in parts if part.states is not None]),
    )


def gather(rows: Sequence[tuple[Observations, int]]) -> Observations:
    """Rows of batches, one behind the other; all have the same cameras and sizes."""
    first = rows[0][0]
    return Observations(
        images={
            name: np.array([part.images[name][i] for part, i in rows]) for name in first.images
        },
        instructions=[part.instructions[i] for part, i in rows],
        states=None
        if first.states is None
        else np.array([part.states[i] for part, i in rows if part.states is not None]),
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Decisions:
    """What a policy decides on n observations: a chunk of actions each."""

    tokens: Tokens
    """Numbers of action tokens, `[n, tokens]`, as the action tokenizer counts them (from 0)."""
    actions: Actions
    """What the environment takes: `[n, chunk]` for Discrete, `[n, chunk, size]` for Box."""


class Actor(Protocol):
    """A policy that can be rolled out."""

    @property
    def tokens(self) -> int:
        """Tokens of one decision: how many uniform numbers it takes."""
        ...

    def decide(
        self, seen: Observations, draws: npt.NDArray[np.float64], *, temperature: float
    ) -> Decisions:
        """Decide on n observations.

        Args:
            seen: the observations.
            draws: uniform numbers in [0, 1), `[n, tokens]`: the same draws decide the same.
            temperature: of the sampling; 0 is greedy and looks at no draws.
        """
        ...
