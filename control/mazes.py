"""Which mazes are there, and which way leads from one cell to another?

The project's own maps for PointMaze (small enough for seconds, built to have one thing each), and
the arithmetic of walking in any map: cells, coordinates, shortest ways. No environment here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["MAZES", "Grid", "MazeError", "grid_of", "maze_map"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

MAZES: Final[dict[str, str]] = {
    "corridor": """
        #######
        #S...G#
        #######
    """,
    "umaze": """
        #####
        #S..#
        ###.#
        #G..#
        #####
    """,
    "fork": """
        #########
        #.......#
        #.#####.#
        #S#####G#
        #.#####.#
        #.......#
        #########
    """,
    "medium": """
        ########
        #S.#...#
        #..#.#.#
        ##.#.#.#
        #....#.#
        #.##.#.#
        #..##.G#
        ########
    """,
    "large": """
        ############
        #S.#.......#
        #..#.###.#.#
        #.....#..#.#
        #.##.#..##.#
        #..#...#...#
        ##.###.#.###
        #....#.#..G#
        ############
    """,
}
"""By name: `#` is wall, `.` is free, `S` where episodes start and `G` the goal.

corridor: 4 cells straight on. umaze: 6, round a wall. fork: 10 on either of two ways. medium: 16,
with dead ends. large: 23, with dead ends and longer ways round.
"""

_CODES: Final[dict[str, int | str]] = {"#": 1, ".": 0, "S": "r", "G": "g"}
_STEPS: Final = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left, as (row, column)


class MazeError(ValueError):
    """A maze that does not exist, or a place that is not in it."""


def maze_map(name: str) -> list[list[int | str]]:
    """Spell a maze as gymnasium-robotics reads it: 1 wall, 0 free, "r" start, "g" goal.

    >>> maze_map("corridor")[1]
    [1, 'r', 0, 0, 0, 'g', 1]

    Raises:
        MazeError: Unknown name.
    """
    if name not in MAZES:
        near = get_close_matches(name, MAZES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise MazeError(f"maze: wanted one of {', '.join(MAZES)}, got {name!r}{hint}")
    return [[_CODES[cell] for cell in row] for row in MAZES[name].split()]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The free cells of a map, numbered row by row, and where they lie.

    The map's centre is the origin, x grows with the column and y falls with the row.
    """

    cells: Ints
    """Row and column of each free cell, `[c, 2]`."""
    shape: tuple[int, int]
    """Rows and columns of the map."""
    scale: float
    """Side of a cell, in metres."""

    def number(self, positions: npt.NDArray[np.floating]) -> Ints:
        """Which free cell is each place in, or nearest to?

        Args:
            positions: x and y, `[n, 2]`, metres.

        Returns:
            Numbers of cells, `[n]`.
        """
        away = np.square(positions[:, None, :] - self.centres()[None]).max(axis=-1)
        return away.argmin(axis=1).astype(np.int64)

    def centres(self) -> Floats:
        """Coordinates of the cells' centres, `[c, 2]`, metres."""
        rows, columns = self.shape
        x = (self.cells[:, 1] + 0.5 - columns / 2) * self.scale
        y = (rows / 2 - self.cells[:, 0] - 0.5) * self.scale
        return np.stack([x, y], axis=1)

    def neighbours(self, *, backwards: bool = False) -> list[list[int]]:
        """Free cells beside each: up, right, down, left, or the other way round."""
        numbers = {(int(row), int(column)): i for i, (row, column) in enumerate(self.cells)}
        steps = _STEPS[::-1] if backwards else _STEPS
        return [
            [
                numbers[place]
                for a, b in steps
                if (place := (int(row) + a, int(column) + b)) in numbers
            ]
            for row, column in self.cells
        ]

    def ways(self, *, backwards: bool = False) -> Ints:
        """The next cell on a shortest way from every cell to every cell.

        Where several are shortest, the first direction in the order of `neighbours` is taken: one
        order always takes one side of a fork, the other order the other side.

        Returns:
            `table[goal, cell]` = the next cell, `[c, c]`; the cell itself at the goal and where no
            way leads there.
        """
        beside = self.neighbours(backwards=backwards)
        table = np.tile(np.arange(len(beside)), (len(beside), 1))
        for goal in range(len(beside)):
            distance = _distances(goal, beside)
            for cell, near in enumerate(beside):
                closer = [n for n in near if distance[n] == distance[cell] - 1]
                if closer:
                    table[goal, cell] = closer[0]
        return table


def grid_of(maze: Sequence[Sequence[Any]], *, scale: float = 1.0) -> Grid:
    """Number the free cells of a map in gymnasium-robotics' spelling: all that is not 1.

    Raises:
        MazeError: When no cell is free.
    """
    cells = [(i, j) for i, row in enumerate(maze) for j, cell in enumerate(row) if cell != 1]
    if not cells:
        raise MazeError("maze: wanted at least one free cell, got none")
    return Grid(np.array(cells, dtype=np.int64), (len(maze), len(maze[0])), scale)


def _distances(start: int, beside: list[list[int]]) -> list[int]:
    """Moves from `start` to every cell, breadth first; a large number where no way leads."""
    distance = [len(beside) ** 2] * len(beside)
    distance[start] = 0
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for near in beside[cell]:
            if distance[near] > distance[cell] + 1:
                distance[near] = distance[cell] + 1
                queue.append(near)
    return distance
