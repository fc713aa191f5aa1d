"""D of a robot policy: episodes of observations and actions, whose pictures are read when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Actions, Floats, Images, Observations

Origin = Literal["stored", "replayed", "assumed", "unknown"]
"""How an episode's success is known: written in D, its actions replayed, or taken for granted."""


class DemonstrationsError(ValueError):
    """Demonstrations that cannot be used, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One demonstration: rows `begin` to `begin + length` of D's columns."""

    begin: int
    length: int
    instruction: str
    task: str
    """What is pooled and gated together; the instruction where D names no task."""
    seed: int | None = None
    """What the environment was reset with; None where unknown, and then it cannot be paired."""
    success: bool | None = None
    origin: Origin = "unknown"

    @property
    def rows(self) -> range:
        """Its rows."""
        return range(self.begin, self.begin + self.length)


class Pictures(Protocol):
    """Where the frames come from: memory, parquet or a video."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Height, width and channels by camera, in their order."""
        ...

    def read(self, rows: Sequence[int]) -> dict[str, Images]:
        """Frames of some rows by camera, `[n, height, width, 3]`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Frames in memory."""

    frames: Mapping[str, Images]

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Height, width and channels by camera."""
        return {name: (v.shape[1], v.shape[2], v.shape[3]) for name, v in self.frames.items()}

    def read(self, rows: Sequence[int]) -> dict[str, Images]:
        """Frames of some rows."""
        chosen = list(rows)
        return {name: pixels[chosen] for name, pixels in self.frames.items()}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Demonstrations:
    """D: one row a frame, in columns; episodes say which rows belong together."""

    name: str
    episodes: tuple[Episode, ...]
    actions: Actions
    """`[n]` integers for Discrete, `[n, size]` floats for Box."""
    pictures: Pictures
    states: Floats | None = None
    """Proprioception, `[n, size]`."""
    rewards: npt.NDArray[np.float32] | None = None
    """`[n]`; None where D holds none."""
    fps: float = 10.0
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from, in words, for the report."""

    def __len__(self) -> int:
        return len(self.actions)

    def observations(self, rows: Sequence[int], instructions: Sequence[str]) -> Observations:
        """What was seen at some rows, `instructions` being those of their episodes."""
        return Observations(
            images=self.pictures.read(rows),
            instructions=instructions,
            states=None if self.states is None else self.states[list(rows)],
        )

    def only(self, chosen: Sequence[int]) -> Demonstrations:
        """The episodes at some places; the columns stay whole."""
        return replace(self, episodes=tuple(self.episodes[i] for i in chosen))
