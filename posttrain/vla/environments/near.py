"""Simulators in this interpreter: all in this process, or in one each.

`Seat` wraps one environment so that a vector of them does only what is needed: the cameras that
nobody looks at stay behind, an episode that is over waits at no cost until a reset names its seat,
and what a step says besides pictures and a reward travels as one number.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Dict
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from posttrain.vla.environments.protocol import (
    EXPERT,
    IDLE,
    INSTRUCTION,
    STATE,
    SUCCESS,
    TASK,
    WorldError,
    cameras_of,
    check_actions,
    check_state,
    limit_of,
)
from posttrain.vla.settings import EnvironmentSettings

ENDED, CUT, SUCCEEDED, KNOWN = 1, 2, 4, 8
"""Bits of what a step says: terminated, truncated, at the goal, and whether it is known if so."""
SAID = "said"

Masks = npt.NDArray[np.bool_]
Seen = dict[str, Any]
Make = Callable[[EnvironmentSettings], gymnasium.Env[Any, Any]]


class Seat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment among several, whose flags and texts travel in `info`."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], keys: Sequence[str], limit: int, name: str
    ) -> None:
        """Take a seat.

        Args:
            env: the environment.
            keys: what is kept of its observations.
            limit: steps of an episode.
            name: its id, for complaints.
        """
        super().__init__(env)
        spaces: Any = env.observation_space
        self.observation_space = Dict({key: spaces[key] for key in keys})
        self.keys, self.limit, self.name = tuple(keys), limit, name
        self.steps, self.over = 0, True
        self.shown: Seen = {
            key: np.zeros(spaces[key].shape, spaces[key].dtype) for key in self.keys
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin the episode of a seed; without one, wait."""
        if seed is None:
            return self.shown, {}
        observation, info = self.env.reset(seed=seed, options=options)
        text = observation.get(INSTRUCTION)
        if not isinstance(text, str) or not text:
            raise WorldError(
                f"environment.id: {self.name} gives no instruction: wanted is a text under "
                f"{INSTRUCTION!r} of the observation, got {text!r}"
            )
        self.steps, self.over = 0, False
        self.shown = {key: observation[key] for key in self.keys}
        return self.shown, {INSTRUCTION: text, TASK: str(info.get(TASK, text))}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Act, unless the episode is over. Only `info` says whether it is."""
        if self.over:
            return self.shown, 0.0, False, False, {SAID: 0}
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        self.shown = {key: observation[key] for key in self.keys}
        said = ENDED if terminated else CUT if truncated or self.steps >= self.limit else 0
        self.over = said > 0
        if SUCCESS in info:
            said += KNOWN + SUCCEEDED * bool(info[SUCCESS])
        return self.shown, float(reward), False, False, {SAID: said}

    def expert_action(self) -> Any:
        """What the environment's expert does now; None once the episode is over."""
        return None if self.over else self.unwrapped.expert_action()  # type: ignore[attr-defined]

    def idle_action(self) -> Any:
        """An action that only loses time; None once the episode is over."""
        return None if self.over else self.unwrapped.idle_action()  # type: ignore[attr-defined]


class Near:
    """Environments of this interpreter. Nothing resets itself.

    An environment whose episode is over stays as it ended, with reward 0, until a reset's mask
    names it. What is returned is overwritten by the next call.
    """

    def __init__(self, settings: EnvironmentSettings, make: Make) -> None:
        """Make them all.

        Args:
            settings: of the environment.
            make: one environment of these settings.

        Raises:
            WorldError: the environment does not fulfil the protocol.
        """
        name, first = settings.id, make(settings)
        cameras = cameras_of(first.observation_space, settings.cameras, name)
        space: Any = first.observation_space
        self.single_observation_space: gymnasium.Space[Any] = space
        check_actions(first.action_space, name)
        if settings.state:
            check_state(space, name)
        if INSTRUCTION not in space.spaces:
            raise WorldError(
                f"environment.id: {name} gives no instruction: wanted is a text under "
                f"{INSTRUCTION!r} of the observation"
            )
        self.name, self.num_envs = name, settings.envs
        self.single_action_space: gymnasium.Space[Any] = first.action_space
        limit = limit_of(settings.max_steps, first, name)
        self.max_steps: int | None = limit
        self.offers: tuple[str, ...] = tuple(
            n for n in (EXPERT, IDLE) if hasattr(first.unwrapped, n)
        )
        keys = (*cameras, STATE) if settings.state else cameras
        seat = partial(_seat, settings, make, keys, limit)
        if settings.vector == "sync":
            others = [seat() for _ in range(settings.envs - 1)]
            self._vector: Any = _Bench([Seat(first, keys, limit, name), *others])
        else:
            first.close()
            self._vector = _apart(seat, settings.envs)
        self._texts = [""] * settings.envs
        self._begun = False

    def reset(
        self, *, seed: Sequence[int | None], options: Mapping[str, Any]
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin episodes where `options["reset_mask"]` says so.

        Args:
            seed: one for each environment; None where the mask does not name it.
            options: `reset_mask`, booleans `[num_envs]`.

        Returns:
            The observations of all by key, and the tasks of those that were reset.
        """
        mask: Masks = options["reset_mask"]
        seeds = [s if m else None for s, m in zip(seed, mask.tolist(), strict=True)]
        if self._begun:
            seen, info = self._vector.reset(seed=seeds, options={"reset_mask": mask.copy()})
        else:
            seen, info = self._vector.reset(seed=seeds)
            self._begun = True
        for i in np.flatnonzero(mask).tolist():
            self._texts[i] = info[INSTRUCTION][i]
        return self._told(seen), {TASK: info[TASK]}

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[Seen, npt.NDArray[np.float64], Masks, Masks, dict[str, Any]]:
        """Act in all environments at once; `actions` is `[num_envs]` or `[num_envs, size]`."""
        seen, rewards, _, _, info = self._vector.step(actions)
        said = info[SAID]
        told = {SUCCESS: (said & SUCCEEDED) > 0, f"_{SUCCESS}": (said & KNOWN) > 0}
        return self._told(seen), rewards, (said & ENDED) > 0, (said & CUT) > 0, told

    def expert_actions(self, mask: Masks) -> npt.NDArray[Any]:
        """What the experts under `mask` do now; zeros elsewhere."""
        return self._actions(EXPERT, mask)

    def idle_actions(self, mask: Masks) -> npt.NDArray[Any]:
        """Actions under `mask` that lose time and nothing else; zeros elsewhere."""
        return self._actions(IDLE, mask)

    def close(self) -> None:
        """Close them all."""
        self._vector.close()

    def _told(self, seen: Any) -> Seen:
        return {**seen, INSTRUCTION: self._texts}

    def _actions(self, name: str, mask: Masks) -> npt.NDArray[Any]:
        if name not in self.offers:
            raise WorldError(f"environment.id: {self.name} has no {name}()")
        space = self.single_action_space
        actions = np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
        for i, action in enumerate(self._vector.call(name)):
            if mask[i] and action is not None:
                actions[i] = action
        return actions


def _seat(settings: EnvironmentSettings, make: Make, keys: tuple[str, ...], limit: int) -> Seat:
    return Seat(make(settings), keys, limit, settings.id)


class _Bench:
    """Seats of this process, one after the other: what `Near` needs of a vector environment.

    Gymnasium's own does the same and more: at a step of 64 it visits those that wait too, merges a
    dictionary of each and stacks every picture anew, which took as long as the environments
    themselves. Only what a call changes is written here.
    """

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = list(seats)
        self.seen: Seen = {
            key: np.stack([seat.shown[key] for seat in self.seats]) for key in self.seats[0].keys
        }
        self.rewards = np.zeros(len(self.seats))
        self.said = np.zeros(len(self.seats), np.int64)

    def reset(
        self, *, seed: Sequence[int | None], options: Mapping[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        del options
        info = {name: np.full(len(self.seats), None, object) for name in (INSTRUCTION, TASK)}
        for i, one in enumerate(seed):
            if one is not None:
                shown, told = self.seats[i].reset(seed=one)
                self._show(i, shown)
                for name, text in told.items():
                    info[name][i] = text
        return self.seen, info

    def step(self, actions: npt.NDArray[Any]) -> tuple[Seen, Any, None, None, dict[str, Any]]:
        self.rewards[:], self.said[:] = 0.0, 0
        for i, seat in enumerate(self.seats):
            if not seat.over:
                shown, self.rewards[i], _, _, told = seat.step(actions[i])
                self.said[i] = told[SAID]
                self._show(i, shown)
        return self.seen, self.rewards.copy(), None, None, {SAID: self.said}

    def call(self, name: str) -> list[Any]:
        return [getattr(seat, name)() for seat in self.seats]

    def close(self) -> None:
        for seat in self.seats:
            seat.close()

    def _show(self, i: int, shown: Seen) -> None:
        for key, rows in self.seen.items():
            rows[i] = shown[key]


def _apart(seat: Callable[[], Seat], envs: int) -> Any:
    """Seats in a process each; frames are copied by whoever keeps them."""
    # A process that is forked off this one would inherit its threads' locks, and its accelerator.
    methods = multiprocessing.get_all_start_methods()
    return AsyncVectorEnv(
        [seat] * envs,
        copy=False,
        context="forkserver" if "forkserver" in methods else "spawn",
        autoreset_mode=AutoresetMode.DISABLED,
    )
