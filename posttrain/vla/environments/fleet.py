"""Several environments stepped together, each playing an episode of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from posttrain.vla.environments.protocol import (
    INSTRUCTION,
    STATE,
    SUCCESS,
    TASK,
    WorldError,
    cameras_of,
    check_actions,
    check_state,
)
from posttrain.vla.observation import Actions, Observations
from posttrain.vla.settings import EnvironmentSettings

Masks = npt.NDArray[np.bool_]


class Stepped(NamedTuple):
    """What one step of one environment brought."""

    reward: float
    terminated: bool
    truncated: bool
    success: bool
    """Whether the goal is reached, as far as the environment has said."""


class Simulators(Protocol):
    """Environments that are stepped at once; nothing resets itself.

    One whose episode is over stays as it ended until a reset's mask names it. Both the ones of this
    interpreter and those of another one are such.
    """

    num_envs: int
    single_observation_space: gymnasium.Space[Any]
    single_action_space: gymnasium.Space[Any]
    max_steps: int | None
    offers: tuple[str, ...]

    def reset(
        self, *, seed: Sequence[int | None], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes where `options["reset_mask"]` says so."""
        ...

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[dict[str, Any], npt.NDArray[np.float64], Masks, Masks, dict[str, Any]]:
        """Act in all of them."""
        ...

    def expert_actions(self, mask: Masks) -> npt.NDArray[Any]:
        """What experts do now, in those under `mask`."""
        ...

    def idle_actions(self, mask: Masks) -> npt.NDArray[Any]:
        """What loses time and nothing else, in those under `mask`."""
        ...

    def close(self) -> None:
        """Close them all."""
        ...


class Fleet:
    """Slots that play episodes side by side, each decided by its seed alone."""

    def __init__(self, settings: EnvironmentSettings, simulators: Simulators) -> None:
        """Look at the environments.

        Args:
            settings: which images and whether proprioception is seen.
            simulators: the environments.

        Raises:
            WorldError: they do not fulfil the protocol.
        """
        space: Any = simulators.single_observation_space
        self.name, self.size = settings.id, simulators.num_envs
        self.cameras = cameras_of(space, settings.cameras, settings.id)
        self.state = settings.state
        if settings.state:
            check_state(space, settings.id)
        self.action_space = simulators.single_action_space
        check_actions(self.action_space, settings.id)
        limit = settings.max_steps or simulators.max_steps
        if not limit:
            raise WorldError(
                f"environment.max_steps: {settings.id} has no limit of its own; say one"
            )
        self.max_steps = int(limit)
        """Steps after which an episode is truncated."""
        self.offers = simulators.offers
        self._simulators = simulators
        self._running = np.zeros(self.size, bool)
        self._success = np.zeros(self.size, bool)
        self._told = np.zeros(self.size, bool)
        self._seen: dict[str, Any] = {}
        shape = self.action_space.shape or ()
        self._actions = np.zeros((self.size, *shape), self.action_space.dtype)

    def begin(self, slots: Sequence[int], seeds: Sequence[int]) -> list[str]:
        """Begin an episode in each of some slots.

        Args:
            slots: which; what they played is over.
            seeds: one a slot.

        Returns:
            The tasks, by which episodes are pooled.
        """
        mask = np.zeros(self.size, bool)
        mask[list(slots)] = True
        by_slot: list[int | None] = [None] * self.size
        for slot, seed in zip(slots, seeds, strict=True):
            by_slot[slot] = int(seed)
        self._seen, info = self._simulators.reset(seed=by_slot, options={"reset_mask": mask})
        self._running |= mask
        self._success &= ~mask
        self._told &= ~mask
        texts = self._seen.get(INSTRUCTION)
        if texts is None or not all(texts[slot] for slot in slots):
            raise WorldError(
                f"environment.id: {self.name} gives no instruction: wanted is a text under "
                f"{INSTRUCTION!r} of the observation"
            )
        tasks = info.get(TASK)
        return [str((tasks[slot] if tasks is not None else None) or texts[slot]) for slot in slots]

    def observe(self, slots: Sequence[int]) -> Observations:
        """What some slots show now; a copy, theirs to keep."""
        chosen = list(slots)
        texts = self._seen[INSTRUCTION]
        return Observations(
            images={name: self._seen[name][chosen] for name in self.cameras},
            instructions=[texts[slot] for slot in chosen],
            states=self._seen[STATE][chosen].astype(np.float32, copy=False) if self.state else None,
        )

    def step(self, slots: Sequence[int], actions: Actions) -> list[Stepped]:
        """Act in all slots whose episode is not over.

        Args:
            slots: these slots, in any order.
            actions: one a slot, `[n]` for Discrete, `[n, size]` for Box.

        Raises:
            ValueError: a slot is missing, or its episode is over.
            WorldError: an episode ended without a word on its success.
        """
        chosen = list(slots)
        if len(chosen) != np.count_nonzero(self._running) or not self._running[chosen].all():
            raise ValueError(
                f"step: wanted are the slots {np.flatnonzero(self._running).tolist()}, whose "
                f"episodes are not over, got {chosen}"
            )
        self._actions[chosen] = actions
        self._seen, rewards, ended, cut, info = self._simulators.step(self._actions)
        known = info.get(f"_{SUCCESS}")
        if known is not None:
            self._told |= known
            np.copyto(self._success, info[SUCCESS], where=known)
        over = (ended | cut) & self._running
        self._running &= ~over
        if (over & ~self._told).any():
            raise WorldError(
                f"environment.id: {self.name} ended an episode and did not say whether it "
                f"succeeded: wanted is info[{SUCCESS!r}] at the last step at the latest"
            )
        columns = (rewards, ended, cut, self._success)
        return list(map(Stepped._make, zip(*(c[chosen].tolist() for c in columns), strict=True)))

    def expert_actions(self, slots: Sequence[int]) -> Actions:
        """What the environments' experts do now in some slots.

        Raises:
            WorldError: there is no expert.
        """
        return self._asked(self._simulators.expert_actions, slots)

    def idle_actions(self, slots: Sequence[int]) -> Actions:
        """Actions in some slots that lose time and nothing else.

        Raises:
            WorldError: the environment knows none.
        """
        return self._asked(self._simulators.idle_actions, slots)

    def close(self) -> None:
        """Close all environments."""
        self._simulators.close()

    def _asked(self, ask: Any, slots: Sequence[int]) -> Actions:
        mask = np.zeros(self.size, bool)
        mask[list(slots)] = True
        actions: Actions = ask(mask)[list(slots)]
        return actions
