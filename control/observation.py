"""How does an observation become one vector, alike in data and environments?

Goal environments give dicts. D4RL's files, Minari's datasets and live environments must all
flatten them alike, or a policy trained on one cannot act in the other: this is the one rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["flatten", "keys_for"]

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "AntMaze": ("achieved_goal", "observation"),
    "FrankaKitchen": ("observation",),
}
"""By the part of the id before the first underscore or dash, where goal dicts are special.

AntMaze: D4RL's 29 numbers are the torso's x, y and then the 27 others; the goal is fixed and not
among them. FrankaKitchen: the goal is fixed, and what was achieved is part of the observation.
"""


def keys_for(env_id: str, observation: Any) -> tuple[str, ...]:
    """Which entries of a dict observation are laid end to end, in order; () for plain arrays.

    Goal environments give `observation` then `desired_goal`: `achieved_goal` is held by the
    observation, except in the families of `KEYS`. Other dicts give all keys, sorted.

    Args:
        env_id: Such as "PointMaze_UMaze-v3" or "D4RL/antmaze/umaze-v1"'s "AntMaze_UMaze-v4".
        observation: A sample, or an observation space: anything with keys is a dict.

    >>> keys_for("AntMaze_UMaze-v4", {"achieved_goal": 0, "desired_goal": 0, "observation": 0})
    ('achieved_goal', 'observation')
    """
    spaces = getattr(observation, "spaces", observation)
    if not isinstance(spaces, Mapping):
        return ()
    if not {"observation", "desired_goal"} <= spaces.keys():
        return tuple(sorted(spaces))
    family = re.split("[_-]", env_id.rsplit("/", 1)[-1], maxsplit=1)[0]
    return KEYS.get(family, ("observation", "desired_goal"))


def flatten(observation: Any, keys: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Lay the entries of a dict observation end to end along the last axis.

    Args:
        observation: An array `[..., d]` (then `keys` is empty), or a mapping of arrays `[..., d_k]`
            with the same leading shape; inner mappings are flattened in sorted order.
        keys: From `keys_for`.

    Returns:
        Float32 `[..., d]`.

    Raises:
        ValueError: When a key is absent, or keys do not fit the kind of observation.
    """
    if not isinstance(observation, Mapping):
        if keys:
            raise ValueError(f"observation: wanted a mapping with {list(keys)}, got an array")
        return np.atleast_1d(np.asarray(observation, dtype=np.float32))
    if not keys:
        raise ValueError(f"observation: wanted an array, got a mapping with {sorted(observation)}")
    absent = [key for key in keys if key not in observation]
    if absent:
        raise ValueError(f"observation: wanted the keys {list(keys)}, {absent} are absent")
    parts = [
        flatten(part, tuple(sorted(part)) if isinstance(part, Mapping) else ())
        for part in (observation[key] for key in keys)
    ]
    return np.concatenate(parts, axis=-1)
