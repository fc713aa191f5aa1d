"""Many worlds of `color_grid` stepped as arrays, to the bit what as many of them play one by one.

Where a policy decides in a fraction of a millisecond, a Python call for each world and step is
what its user waits for. How a world is laid out and what its expert does stay the single one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from posttrain.vla.environments.color_grid import DEAD_ZONE, MOVES, ColorGrid, sprites
from posttrain.vla.environments.protocol import EXPERT, IDLE, INSTRUCTION, STATE, SUCCESS, TASK

Masks = npt.NDArray[np.bool_]
Seen = dict[str, Any]


class ColorGrids:
    """Simulators of the built-in world. Nothing resets itself.

    One whose episode is over stays as it ended, with reward 0, until a reset's mask names it. What
    is returned is overwritten by the next call.
    """

    def __init__(self, worlds: Sequence[ColorGrid]) -> None:
        """Put worlds side by side; all were made with the same options."""
        self._worlds, first = list(worlds), worlds[0]
        self.num_envs, size, cell = len(worlds), first.size, first.cell
        self.single_observation_space: gymnasium.Space[Any] = first.observation_space
        self.single_action_space: gymnasium.Space[Any] = first.action_space
        self.max_steps: int | None = first.max_steps
        self.offers: tuple[str, ...] = (EXPERT, IDLE)
        self._first, self._last = first, size - 1
        # A tile is 0 for bare floor, or 1 + a colour's place; with the agent on it it is that much
        # further on.
        names = ("", *first.names)
        drawn = sprites(cell)
        self._tiles = np.stack([drawn[name] for name in (*names, *(f"{n}*" for n in names))])
        self._agent_on = len(names)
        self._code = {name: code for code, name in enumerate(names)}
        self._standing = np.zeros((self.num_envs, size, size), np.int64)
        self._agents = np.zeros((self.num_envs, 2), np.int64)
        self._targets = np.zeros(self.num_envs, np.int64)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._live = np.zeros(self.num_envs, bool)
        image = np.zeros((self.num_envs, size * cell, size * cell, 3), np.uint8)
        # [world, row, column, cell, cell, 3] of the same memory
        self._cells = image.reshape(self.num_envs, size, cell, size, cell, 3).swapaxes(2, 3)
        self._seen: Seen = {"image": image, INSTRUCTION: [""] * self.num_envs}
        if first.with_state:
            self._seen[STATE] = np.zeros((self.num_envs, 2), np.float32)

    def reset(
        self, *, seed: Sequence[int | None], options: Mapping[str, Any]
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin episodes where `options["reset_mask"]` says so."""
        slots = np.flatnonzero(options["reset_mask"])
        tasks: list[str | None] = [None] * self.num_envs
        self._standing[slots] = 0
        for slot in slots.tolist():
            world = self._worlds[slot]
            world.begin(seed[slot])
            for (row, column), name in world.standing.items():
                self._standing[slot, row, column] = self._code[name]
            self._agents[slot] = world.agent
            self._targets[slot] = self._code[world.target]
            tasks[slot] = world.target
            self._seen[INSTRUCTION][slot] = world.instruction
        self._steps[slots], self._live[slots] = 0, True
        self._cells[slots] = self._tiles[self._standing[slots]]
        self._draw(slots, on=True)
        return self._seen, {TASK: tasks}

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[Seen, npt.NDArray[np.float64], Masks, Masks, dict[str, Any]]:
        """Act in all worlds at once; `actions` is `[num_envs]` or `[num_envs, 2]`."""
        slots = np.flatnonzero(self._live)
        self._draw(slots, on=False)
        moved = self._agents[slots] + self._moves(actions[slots])
        self._agents[slots] = moved = np.clip(moved, 0, self._last)
        self._draw(slots, on=True)
        self._steps[slots] += 1
        met = self._standing[slots, moved[:, 0], moved[:, 1]]
        known = self._live.copy()
        ended, cut, success = (np.zeros(self.num_envs, bool) for _ in range(3))
        ended[slots], success[slots] = met > 0, met == self._targets[slots]
        cut[slots] = (met == 0) & (self._steps[slots] >= self._first.max_steps)
        self._live &= ~(ended | cut)
        told = {SUCCESS: success, f"_{SUCCESS}": known}
        return self._seen, success.astype(np.float64), ended, cut, told

    def expert_actions(self, mask: Masks) -> npt.NDArray[Any]:
        """What the experts under `mask` do now; zeros elsewhere."""
        return self._asked(EXPERT, mask)

    def idle_actions(self, mask: Masks) -> npt.NDArray[Any]:
        """Actions under `mask` that lose time and nothing else; zeros elsewhere."""
        return self._asked(IDLE, mask)

    def close(self) -> None:
        """Close them all."""
        for world in self._worlds:
            world.close()

    def _draw(self, slots: npt.NDArray[np.int64], *, on: bool) -> None:
        """Draw the cells of agents, with them or as they leave them."""
        rows, columns = self._agents[slots].T
        codes = self._standing[slots, rows, columns] + on * self._agent_on
        self._cells[slots, rows, columns] = self._tiles[codes]
        if on and STATE in self._seen:
            self._seen[STATE][slots] = self._agents[slots].astype(np.float32) / self._last

    def _moves(self, actions: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Rows and columns to go, `[n, 2]`."""
        if not self._first.continuous:
            return np.array(MOVES)[actions]
        pushed = actions.astype(np.float64)
        far = np.abs(pushed)
        along = np.argmax(far, axis=1)  # the first of equals, as in a single world
        moves = np.zeros(pushed.shape, np.int64)
        rows = np.flatnonzero(far.max(axis=1) >= DEAD_ZONE)
        along = along[rows]
        moves[rows, along] = np.where(pushed[rows, along] > 0, 1, -1)
        return moves

    def _asked(self, name: str, mask: Masks) -> npt.NDArray[Any]:
        space = self.single_action_space
        actions = np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
        for slot in np.flatnonzero(mask & self._live).tolist():
            world, place = self._worlds[slot], self._agents[slot].tolist()
            world.agent = (place[0], place[1])
            actions[slot] = getattr(world, name)()
        return actions
