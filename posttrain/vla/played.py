"""What was played: an episode as it is kept, and its row among the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Actions, Images, Observations, Tokens
from posttrain.vla.starts import return_of, unit_of

if TYPE_CHECKING:
    from posttrain.vla.settings import ReturnSettings

NOTHING = Observations(images={}, instructions=[])
NO_TOKENS: Tokens = np.zeros((0, 0), np.int64)
NO_ACTIONS: Actions = np.zeros(0)
NO_GAINS = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Played:
    """One episode."""

    seed: int
    task: str
    instruction: str
    success: bool
    steps: int
    """Environment steps that were taken."""
    rewards: float
    """Their sum."""
    truncated: bool
    seen: Observations = NOTHING
    """What was decided on, one row a decision; empty unless decisions are kept."""
    tokens: Tokens = field(default_factory=lambda: NO_TOKENS)
    """What was decided, `[decisions, tokens]`; empty unless decisions are kept."""
    frames: Mapping[str, Images] = field(default_factory=dict)
    """Every frame by camera, `[steps + 1, height, width, 3]`; empty unless frames are kept."""
    actions: Actions = field(default_factory=lambda: NO_ACTIONS)
    """Every action, `[steps]` or `[steps, size]`; empty unless frames are kept."""
    gains: npt.NDArray[np.float32] = field(default_factory=lambda: NO_GAINS)
    """Every reward, `[steps]`; empty unless frames are kept."""


def records(
    played: Sequence[Played],
    returns: ReturnSettings,
    *,
    max_steps: int,
    split: str,
    decoding: str,
    source: str = "policy",
    samples: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Rows for `posttrain.regime.scores.Scores`.

    Args:
        played: the episodes.
        returns: what they return.
        max_steps: the limit on their steps.
        split: `seen` or `heldout`.
        decoding: `rollout` or `deployment`.
        source: `policy` or `dataset`.
        samples: which of its start's episodes each is; without, they are counted.
    """
    units = [unit_of(one.task, one.seed) for one in played]
    found: Counter[str] = Counter()
    rows = []
    for i, one in enumerate(played):
        number = found[units[i]] if samples is None else samples[i]
        found[units[i]] += 1
        value = return_of(
            returns,
            success=one.success,
            steps=one.steps,
            max_steps=max_steps,
            rewards=one.rewards,
        )
        rows.append(
            {
                "source": source,
                "unit": units[i],
                "task": one.task,
                "return": float(value),
                "seed": int(number),
                "steps": one.steps,
                "success": one.success,
                "truncated": one.truncated,
                "unscorable": False,
                "prompt": one.instruction,
                "split": split,
                "decoding": decoding,
            }
        )
    return rows
