"""Where episodes begin, what they are called, and what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.vla.settings import ReturnSettings


def unit_of(task: str, seed: int) -> str:
    """The name of a start: what is sampled independently, and where pi_0 and D meet."""
    return f"{task}/{seed}"


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
