"""Decisions of D: which frames they begin at, what was seen there, and the tokens that D takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from posttrain.vla.demonstrations import Demonstrations
from posttrain.vla.observation import Observations, Tokens

if TYPE_CHECKING:
    from posttrain.vla.actions import ActionTokenizer

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Frames:
    """Every frame of D as a decision: the chunk of actions that follows it.

    Where an episode ends within a chunk, its last action is repeated.
    """

    demonstrations: Demonstrations
    tokenizer: ActionTokenizer

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> Rows:
        """Rows of D's columns, episode by episode."""
        return np.array([i for e in self.demonstrations.episodes for i in e.rows], dtype=np.int64)

    @cached_property
    def episode(self) -> Rows:
        """Number of each frame's episode."""
        lengths = [episode.length for episode in self.demonstrations.episodes]
        return np.repeat(np.arange(len(lengths)), lengths)

    @cached_property
    def tokens(self) -> Tokens:
        """What D does at each frame, `[n, tokens]`."""
        ends = np.array([e.begin + e.length - 1 for e in self.demonstrations.episodes])
        steps = self.rows[:, None] + np.arange(self.tokenizer.chunk)
        steps = np.minimum(steps, ends[self.episode][:, None])
        return self.tokenizer.encode(self.demonstrations.actions[steps])

    def seen(self, chosen: Sequence[int]) -> Observations:
        """What was seen at some frames."""
        episodes = self.demonstrations.episodes
        places = list(chosen)
        told = [episodes[self.episode[i]].instruction for i in places]
        return self.demonstrations.observations(self.rows[places].tolist(), told)


def spread(size: int, count: int) -> list[int]:
    """At most `count` of `size` places, evenly spread over all.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    found: list[int] = np.unique(np.linspace(0, size - 1, min(size, count)).astype(int)).tolist()
    return found
