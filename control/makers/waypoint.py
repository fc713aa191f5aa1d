"""How does somebody walk a maze who knows the map: well, badly, elsewhere, or without aim?

A shortest way over the cells and a proportional-derivative controller that steers to the next
one, as the scripts behind D4RL's maze2d and Minari's pointmaze data do. Seconds of work, and every
quality of data: which regime a run will be in can be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from control.datasets.dataset import Dataset
from control.environments import EnvError, Flat
from control.makers.gather import gather, local_dataset, local_name
from control.mazes import Grid, grid_of
from control.rollout import Act, Floats, Ints, Streams, players
from control.settings import EnvSettings

__all__ = ["Style", "Walker", "make_waypoint"]

Style: TypeAlias = Literal["demo", "play", "walk"]
"""Where the walker goes: to the task's goal; to one random cell after another, whatever the task;
or to one random neighbouring cell after another."""

Metres: TypeAlias = npt.NDArray[np.float64]

_PULL: Final = 10.0
_BRAKE: Final = 1.0
_ARRIVED: Final = 0.45
"""Metres from a cell's centre: the distance at which PointMaze counts a goal as reached."""


class Walker:
    """A policy for PointMaze: observations are x, y, their velocities, and the goal's x, y.

    The action is 10 (waypoint - position) - velocity + N(0, noise²), clipped, where the waypoint is
    the centre of the next cell on a shortest way, or the goal itself in its own cell.
    """

    def __init__(
        self,
        grid: Grid,
        seeds: Sequence[int],
        *,
        style: Style = "demo",
        noise: float = 0.5,
        noise_probability: float = 0.0,
        one_sided: bool = False,
    ) -> None:
        """Be ready for the episodes of these seeds.

        Args:
            grid: The map.
            seeds: The episodes'; slot i has its own stream of random numbers.
            style: Where to go.
            noise: Standard deviation added to each action.
            noise_probability: Of replacing a decision by a uniform random action.
            one_sided: Take the same side of every fork in all episodes; else each episode tosses.

        Raises:
            EnvError: For a style, noise or probability that does not exist.
        """
        if style not in get_args(Style):
            raise EnvError(f"style: wanted one of {', '.join(get_args(Style))}, got {style!r}")
        if noise < 0:
            raise EnvError(f"noise: wanted at least 0, got {noise}")
        if not 0 <= noise_probability <= 1:
            raise EnvError(f"noise_probability: wanted 0 to 1, got {noise_probability}")
        self._grid, self._style = grid, style
        self._noise, self._probability = noise, noise_probability
        self._centres = grid.centres()
        self._ways = np.stack([grid.ways(), grid.ways(backwards=True)])
        self._neighbours = grid.neighbours()
        self._streams = Streams(seeds)
        slots = np.arange(len(seeds))
        tossed = (self._streams.uniform(slots, 1)[:, 0] < 0.5).astype(np.int64)
        self._side = np.zeros_like(tossed) if one_sided else tossed
        self._target = np.full(len(seeds), -1)

    def __call__(self, observations: Floats, slots: Ints) -> npt.ArrayLike:
        """Steer: observations `[n, 6]` and slots `[n]` to actions `[n, 2]`."""
        position = observations[:, :2].astype(np.float64)
        velocity = observations[:, 2:4].astype(np.float64)
        chance = self._streams.uniform(slots, 4)
        shake = self._noise * self._streams.normal(slots, 2)
        cell = self._grid.number(position)
        target, aim = self._aim(position, cell, observations[:, 4:6], slots, chance[:, 0])
        following = self._ways[self._side[slots], target, cell]
        waypoint = np.where((cell == target)[:, None], aim, self._centres[following])
        steered = _PULL * (waypoint - position) - _BRAKE * velocity + shake
        thrown = chance[:, 1] < self._probability
        return np.where(thrown[:, None], 2.0 * chance[:, 2:] - 1.0, steered)

    def _aim(
        self,
        position: Metres,
        cell: Ints,
        goal: Floats,
        slots: Ints,
        chance: npt.NDArray[np.float64],
    ) -> tuple[Ints, Metres]:
        """The cell to go to, `[n]`, and the place in it, `[n, 2]`."""
        if self._style == "demo":
            return self._grid.number(goal), goal.astype(np.float64)
        target = self._target[slots]
        near = np.linalg.norm(position - self._centres[target], axis=1) <= _ARRIVED
        for i in np.flatnonzero(near | (target < 0)):
            target[i] = self._choose(int(cell[i]), float(chance[i]))
        self._target[slots] = target
        return target, self._centres[target]

    def _choose(self, cell: int, chance: float) -> int:
        """Another cell than this one: any, or a neighbour. A lone cell is its own."""
        if self._style == "walk":
            options = self._neighbours[cell]
        else:
            options = [i for i in range(len(self._centres)) if i != cell]
        return options[int(chance * len(options))] if options else cell


def make_waypoint(
    settings: EnvSettings,
    *,
    seed: int,
    episodes: int | None = None,
    decisions: int | None = None,
    style: Style = "demo",
    noise: float = 0.5,
    noise_probability: float = 0.0,
    one_sided: bool = False,
    name: str | None = None,
    envs: int = 4,
) -> Dataset:
    """Record somebody who knows the map.

    Whatever the style, goals, rewards and ends are the task's: play and walks reach the goal by
    chance, and the episode then ends.

    Args:
        settings: A PointMaze.
        seed: Decides everything, bit for bit.
        episodes: How many, or
        decisions: how many decisions at least (whole episodes).
        style: Where the walker goes.
        noise: Standard deviation added to each action.
        noise_probability: Of replacing a decision by a uniform random action: the quality.
        one_sided: Take the same side of every fork in all episodes.
        name: Such as "local/fork-noisy"; made from maze and quality if None.
        envs: How many environments take turns; changes nothing but speed.

    Raises:
        EnvError: Not a PointMaze, or as `make`, `gather` and `Walker`.
    """
    if not settings.id.startswith("PointMaze"):
        raise EnvError(f"id: wanted a PointMaze for a walker, got {settings.id}")
    quality = f"{style}-noise{noise_probability:g}" if noise_probability else style
    name = local_name(settings, quality, name)
    with players(settings, envs) as made:
        grid = _grid(made[0])
        ways = {
            "style": style,
            "noise": noise,
            "noise_probability": noise_probability,
            "one_sided": one_sided,
        }

        def behaviour(seeds: Sequence[int]) -> Act:
            return Walker(
                grid,
                seeds,
                style=style,
                noise=noise,
                noise_probability=noise_probability,
                one_sided=one_sided,
            )

        whole = gather(
            behaviour, settings, envs=made, seed=seed, episodes=episodes, decisions=decisions
        )
        return local_dataset(
            whole,
            settings,
            name=name,
            envs=made,
            about={
                "maker": "waypoint",
                "seed": seed,
                "episodes": episodes,
                "decisions": decisions,
                **ways,
            },
        )


def _grid(env: Flat) -> Grid:
    maze = env.unwrapped.maze  # type: ignore[attr-defined]
    return grid_of(maze.maze_map, scale=float(maze.maze_size_scaling))
