"""MiniGrid and BabyAI, seen whole and from above, with BabyAI's bot as the expert.

Maxime Chevalier-Boisvert et al., BabyAI, arXiv 1810.08272; Minigrid & Miniworld, arXiv 2306.13831.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from string import printable
from typing import Any

import gymnasium
import minigrid  # noqa: F401 - registers its environments
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text
from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

from posttrain.vla.environments.protocol import WorldError

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
USEFUL = ACTIONS[:-1]
LONGEST = 400
"""Characters of an instruction."""


class MiniGridWorld(gymnasium.Env[dict[str, Any], int]):
    """One environment of MiniGrid."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - gymnasium's word
        tile: int = 8,
        actions: Sequence[str] = USEFUL,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        """Make it.

        Args:
            id: gymnasium's, as `BabyAI-GoToLocal-v0`.
            tile: pixels along a cell.
            actions: names of those that the policy has, in their order.
            max_steps: after which an episode is truncated; without, a level of BabyAI decides
                anew for each episode, and the recipe must say a limit.
            **options: of the environment.

        Raises:
            WorldError: there is no such environment, or no such action.
        """
        if unknown := [name for name in actions if name not in ACTIONS]:
            raise WorldError(
                f"environment.options.actions: no {unknown[0]!r} among {', '.join(ACTIONS)}"
            )
        limit = {} if max_steps is None else {"max_steps": max_steps}
        try:
            made = gymnasium.make(id, disable_env_checker=True, **limit, **options)
        except gymnasium.error.Error as error:
            raise WorldError(f"environment.id: {id} cannot be made: {error}") from error
        self.id, self.tile, self.names = id, tile, tuple(actions)
        grid: Any = made.unwrapped
        self.grid = grid
        self.max_steps = max_steps or getattr(self.grid, "max_steps", 0) or None
        self.render_mode = "rgb_array"
        height, width = grid.height * tile, grid.width * tile
        self.observation_space = Dict(
            {
                "image": Box(0, 255, (height, width, 3), np.uint8),
                "instruction": Text(LONGEST, charset=printable),
            }
        )
        self.action_space = Discrete(len(self.names))  # type: ignore[assignment]
        self.bot: Any = None
        self.advice: int | None = None
        self.taken: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, which its seed decides."""
        with redirect_stdout(io.StringIO()):  # it tells of every layout that it throws away
            self.grid.reset(seed=seed, options=options)
        self.bot = self.advice = self.taken = None
        return self._observation(), {"is_success": False}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Do one of the actions; success is what is rewarded."""
        self.taken = ACTIONS.index(self.names[int(action)])
        if self.advice is None:
            self.bot = None
        self.advice = None
        _, reward, terminated, truncated, _ = self.grid.step(self.grid.actions(self.taken))
        info = {"is_success": bool(reward > 0)}
        return self._observation(), float(reward), bool(terminated), bool(truncated), info

    def expert_action(self) -> int:
        """What BabyAI's bot does now, whatever was done before.

        Raises:
            WorldError: the bot cannot go on, needs an action that is left out, or does not know
                this kind of task.
        """
        if self.advice is None:
            self.advice = self._advised()
        name = ACTIONS[self.advice]
        if name not in self.names:
            raise WorldError(
                f"environment.options.actions: {self.id} needs {name!r}, which is left out"
            )
        return self.names.index(name)

    def idle_action(self) -> int:
        """Turn aside, which has to be undone.

        Raises:
            WorldError: it cannot turn.
        """
        turns = [i for i, name in enumerate(self.names) if name in ("left", "right")]
        if not turns:
            raise WorldError("environment.options.actions: without 'left' or 'right' none idles")
        return turns[0]

    def render(self) -> Any:
        """The whole grid, in MiniGrid's own size."""
        return self.grid.get_frame(highlight=False, tile_size=32)

    def close(self) -> None:
        """Close it."""
        self.grid.close()

    def _advised(self) -> int:
        if not hasattr(self.grid, "instrs"):
            raise WorldError(f"environment.id: {self.id} has no expert; the levels of BabyAI do")
        if self.bot is not None:
            try:
                return int(self.bot.replan(self.taken))
            except (AssertionError, DisappearedBoxError):
                pass  # A disturbance that the bot cannot undo; a new one plans from here.
        self.bot = BabyAIBot(self.grid)
        try:
            return int(self.bot.replan(None))
        except (AssertionError, DisappearedBoxError) as error:
            raise WorldError(
                f"environment.id: the bot of {self.id} cannot go on; disturb it less: {error}"
            ) from error

    def _observation(self) -> dict[str, Any]:
        picture = self.grid.get_frame(highlight=False, tile_size=self.tile)
        return {"image": picture, "instruction": self.grid.mission}


def make(options: dict[str, Any]) -> MiniGridWorld:
    """The environment whose `id` is among the options."""
    return MiniGridWorld(**options)
