"""Where episodes begin, what they are called, and what they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.vla.demonstrations import Episode
    from posttrain.vla.settings import ReturnSettings

TRAINING, MEASURING = 500_000_000, 800_000_000
"""First seeds of the starts that RL trains on, and of new ones that policies are measured on."""
APART = 100_000
"""Starts that runs of different seeds have to themselves."""


def unit_of(task: str, seed: int) -> str:
    """The name of a start: what is sampled independently, and where pi_0 and D meet."""
    return f"{task}/{seed}"


def seed_of(unit: str) -> int:
    """The seed in a unit's name."""
    return int(unit.rsplit("/", 1)[-1])


def unit_of_episode(episode: Episode, number: int) -> str:
    """The unit of a demonstration: its start, or its number in D where that is not known."""
    return f"D/{number}" if episode.seed is None else unit_of(episode.task, episode.seed)


@dataclass(frozen=True, slots=True)
class Start:
    """Where an episode begins. The task is known once the environment has been reset there."""

    seed: int
    task: str | None = None

    @property
    def unit(self) -> str:
        """Its name among scores; the bare seed while the task is not known."""
        return str(self.seed) if self.task is None else unit_of(self.task, self.seed)


def training_starts(count: int, *, seed: int) -> list[Start]:
    """New starts that neither D nor a measurement uses."""
    first = TRAINING + APART * seed
    return [Start(first + i) for i in range(count)]


def measuring_starts(known: Sequence[Start], count: int, *, seed: int) -> list[Start]:
    """`count` starts to measure on: those of D's held-out episodes first, then new ones."""
    first = MEASURING + APART * seed
    own = list(known[:count])
    return [*own, *(Start(first + i) for i in range(count - len(own)))]


def return_of(
    settings: ReturnSettings, *, success: bool, steps: int, max_steps: int, rewards: float
) -> float:
    """What RL maximises, of one episode.

    Args:
        settings: which return.
        success: whether the goal was reached.
        steps: environment steps that were taken.
        max_steps: the limit on them.
        rewards: sum of the environment's rewards.
    """
    if settings.kind == "rewards":
        return rewards
    return float(success) * (1.0 - settings.time_penalty * min(steps, max_steps) / max_steps)
