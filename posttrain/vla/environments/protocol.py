"""What an environment must be for a policy to see, be told and act in it.

It is a `gymnasium.Env` whose observation is a Dict of

- one image or more, each a Box of uint8 `[height, width, 3]`, under any names;
- `instruction`: what is to be done, a text that stays the same until the next reset;
- `state`, if it has proprioception: a Box with one axis.

Actions are `Discrete(n)` from 0, or a Box with one axis and finite bounds. `reset(seed=s)` decides
the whole episode: two resets with one seed begin the same episode, whatever was played before.
`info["is_success"]` says whether the goal is reached, at the last step at the latest. At reset,
`info["task"]` may name what is pooled and gated together; otherwise that is the instruction.

Three more are optional, on the unwrapped environment. `max_steps`, an integer, limits an episode
where neither the recipe nor a gymnasium spec does. `expert_action()` returns what an expert does
now, and must not change the environment: with it, demonstrations can be made. `idle_action()`
returns an action that loses time and nothing else: with it, a slow demonstrator can be made.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

INSTRUCTION, STATE, SUCCESS, TASK = "instruction", "state", "is_success", "task"
EXPERT, IDLE = "expert_action", "idle_action"


class WorldError(ValueError):
    """An environment that cannot be used, and why."""


def cameras_of(space: gymnasium.Space[Any], chosen: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The images that a policy sees, in their order.

    Args:
        space: of one observation.
        chosen: which, in their order; empty for all.
        name: the environment's id, for the complaint.

    Raises:
        WorldError: there is no image, or not the one that was chosen.
    """
    if not isinstance(space, gymnasium.spaces.Dict):
        raise WorldError(
            f"environment.id: {name} observes {type(space).__name__}; wanted is a Dict of images "
            "and an instruction"
        )
    images = tuple(key for key, box in space.spaces.items() if _is_image(box))
    if not images:
        raise WorldError(
            f"environment.id: {name} observes no image, only {_listed(space)}; an image is a Box "
            "of uint8 [height, width, 3]"
        )
    if lost := [key for key in chosen if key not in images]:
        raise WorldError(
            f"environment.cameras: {name} has no camera {lost[0]!r}, only {', '.join(images)}"
        )
    return chosen or images


def check_state(space: gymnasium.spaces.Dict, name: str) -> None:
    """Refuse an environment without proprioception.

    Raises:
        WorldError: there is no `state` with one axis.
    """
    box = space.spaces.get(STATE)
    if not isinstance(box, Box) or len(box.shape) != 1:
        raise WorldError(
            f"environment.state: {name} observes no 'state', a Box with one axis, only "
            f"{_listed(space)}"
        )


def check_actions(space: gymnasium.Space[Any], name: str) -> None:
    """Refuse actions that cannot become tokens.

    Raises:
        WorldError: they are neither Discrete from 0 nor a bounded Box with one axis.
    """
    if isinstance(space, Discrete):
        if space.start == 0:
            return
    elif isinstance(space, Box) and len(space.shape) == 1:
        if np.isfinite(space.low).all() and np.isfinite(space.high).all():
            return
        raise WorldError(f"environment.id: actions of {name} have no bounds: {space}")
    raise WorldError(
        f"environment.id: actions of {name} are {space}; wanted is Discrete from 0, or a Box with "
        "one axis and finite bounds"
    )


def limit_of(chosen: int | None, env: gymnasium.Env[Any, Any], name: str) -> int:
    """How many steps an episode may take.

    Args:
        chosen: the recipe's limit.
        env: one environment, whose spec or `max_steps` says it otherwise.
        name: its id, for the complaint.

    Raises:
        WorldError: none of them says it.
    """
    spec = env.spec.max_episode_steps if env.spec is not None else None
    limit = chosen or spec or getattr(env.unwrapped, "max_steps", None)
    if not limit:
        raise WorldError(f"environment.max_steps: {name} has no limit of its own; say one")
    return int(limit)


def _is_image(space: gymnasium.Space[Any]) -> bool:
    return (
        isinstance(space, Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
    )


def _listed(space: gymnasium.spaces.Dict) -> str:
    return ", ".join(f"{key} ({type(box).__name__})" for key, box in space.spaces.items()) or "{}"
