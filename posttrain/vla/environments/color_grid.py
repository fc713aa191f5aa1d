"""A small world with a language: go to the block of the colour that is named.

An agent and some blocks stand on the cells of a square grid, one a cell, seen from above. Entering
the block that the instruction names is success; entering another one ends the episode in failure.
A cell is `cell` pixels wide: with 8, one cell is one patch of a small vision model, and a policy of
140,000 weights learns in a minute on one core which block is meant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from string import ascii_lowercase
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Discrete, Text

from posttrain.vla.environments.protocol import WorldError

ID = "posttrain/ColorGrid-v0"
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 61, 56),
    "green": (62, 180, 79),
    "blue": (53, 114, 239),
    "yellow": (247, 203, 46),
    "purple": (157, 78, 205),
    "orange": (245, 130, 42),
}
FLOOR, LINE, AGENT = (30, 34, 43), (46, 52, 64), (240, 240, 236)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column of the actions up, right, down and left."""
DEAD_ZONE = 1 / 3
"""A continuous action whose numbers are all smaller than this stays where it is."""

Cell = tuple[int, int]
Frame = npt.NDArray[np.uint8]


class ColorGrid(gymnasium.Env[dict[str, Any], Any]):
    """Go to the block of the colour that is named."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        *,
        size: int = 3,
        blocks: int = 2,
        colours: int = 4,
        actions: Literal["discrete", "continuous"] = "discrete",
        state: bool = False,
        max_steps: int = 6,
        cell: int = 8,
        render_mode: str | None = "rgb_array",
    ) -> None:
        """Lay out the world.

        Args:
            size: cells along a side.
            blocks: how many, each of another colour.
            colours: how many colours there are to choose from.
            actions: `discrete` is one of four directions; `continuous` is two numbers in [-1, 1],
                down and right, and one cell along the larger of them is taken.
            state: whether the agent's place is observed, as row and column in [0, 1].
            max_steps: after which an episode is truncated.
            cell: pixels along a cell.
            render_mode: gymnasium's; frames are rendered as arrays only.

        Raises:
            WorldError: this cannot be laid out.
        """
        _check(
            size=size, blocks=blocks, colours=colours, actions=actions, max_steps=max_steps,
            cell=cell,
        )  # fmt: skip
        self.size, self.blocks, self.cell, self.max_steps = size, blocks, cell, max_steps
        self.names = tuple(COLOURS)[:colours]
        self.continuous, self.with_state = actions == "continuous", state
        self.render_mode = render_mode
        side = size * cell
        spaces: dict[str, gymnasium.Space[Any]] = {
            "image": Box(0, 255, (side, side, 3), np.uint8),
            "instruction": Text(64, charset=ascii_lowercase + " "),
        }
        if state:
            spaces["state"] = Box(0.0, 1.0, (2,), np.float32)
        self.observation_space = Dict(spaces)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32) if self.continuous else Discrete(4)
        self.agent: Cell = (0, 0)
        self.standing: dict[Cell, str] = {}
        self.target, self.steps = "", 0
        self.distances: Mapping[Cell, int] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, which its seed decides."""
        del options
        self.begin(seed)
        return self._observation(), {"task": self.target, "is_success": False}

    def begin(self, seed: int | None) -> None:
        """Lay out an episode and look at nothing."""
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        self.steps = 0
        while True:
            self._lay()
            if self.distances.get(self.agent, self.max_steps + 1) <= self.max_steps:
                break

    @property
    def instruction(self) -> str:
        """What is to be done."""
        return f"go to the {self.target} block"

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one cell; walls hold."""
        self.steps += 1
        self.agent = self._beyond(self._move(action))
        met = self.standing.get(self.agent)
        success = met == self.target
        truncated = met is None and self.steps >= self.max_steps
        info = {"is_success": success}
        return self._observation(), float(success), met is not None, truncated, info

    def expert_action(self) -> Any:
        """The first step of a shortest path around the other blocks."""
        return self._action(
            min(MOVES, key=lambda move: self.distances.get(self._beyond(move), self.size**2))
        )

    def idle_action(self) -> Any:
        """A step that loses time: stay, or bump into a wall, or step aside onto a free cell."""
        if self.continuous:
            return np.zeros(2, np.float32)
        free = [move for move in MOVES if self._beyond(move) not in self.standing]
        if not free:
            raise WorldError(f"{ID}: the agent is shut in and cannot idle")
        return self._action(min(free, key=lambda move: self._beyond(move) != self.agent))

    def render(self, scale: int = 8) -> Frame:
        """The grid as a picture for people, `scale` times as large as what a policy sees."""
        return self._picture(self.cell * scale)

    def _lay(self) -> None:
        places = self.np_random.permutation(self.size**2)[: self.blocks + 1].tolist()
        cells = [divmod(place, self.size) for place in places]
        order = self.np_random.permutation(len(self.names))[: self.blocks].tolist()
        self.agent = cells[0]
        self.standing = dict(zip(cells[1:], (self.names[i] for i in order), strict=True))
        self.target = self.standing[cells[1]]
        self.distances = _distances(self.size, cells[1], frozenset(cells[1:]))

    def _beyond(self, move: Cell) -> Cell:
        row, column = self.agent[0] + move[0], self.agent[1] + move[1]
        last = self.size - 1
        return (min(max(row, 0), last), min(max(column, 0), last))

    def _move(self, action: Any) -> Cell:
        if not self.continuous:
            return MOVES[int(action)]
        down, right = float(action[0]), float(action[1])
        if max(abs(down), abs(right)) < DEAD_ZONE:
            return (0, 0)
        if abs(down) >= abs(right):
            return (1 if down > 0 else -1, 0)
        return (0, 1 if right > 0 else -1)

    def _action(self, move: Cell) -> Any:
        return np.array(move, np.float32) if self.continuous else MOVES.index(move)

    def _observation(self) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "image": self._picture(self.cell),
            "instruction": self.instruction,
        }
        if self.with_state:
            seen["state"] = np.array(self.agent, np.float32) / (self.size - 1)
        return seen

    def _picture(self, cell: int) -> Frame:
        floor, drawn = _floor(self.size, cell), sprites(cell)
        picture = floor.copy()
        cells = picture.reshape(self.size, cell, self.size, cell, 3)
        for (row, column), colour in self.standing.items():
            cells[row, :, column] = drawn[colour]
        row, column = self.agent
        cells[row, :, column] = drawn[self.standing.get(self.agent, "") + "*"]
        return picture


def _check(
    *, size: int, blocks: int, colours: int, actions: str, max_steps: int, cell: int
) -> None:
    most = min(colours, size**2 - 2)
    for option, value, fits, wanted in (
        ("size", size, size >= 2, "at least 2"),
        ("colours", colours, 1 <= colours <= len(COLOURS), f"1 to {len(COLOURS)}"),
        ("blocks", blocks, 1 <= blocks <= most, f"1 to {most}"),
        ("actions", actions, actions in ("discrete", "continuous"), "'discrete' or 'continuous'"),
        ("max_steps", max_steps, max_steps >= 1, "at least 1"),
        ("cell", cell, cell >= 2, "at least 2 pixels"),
    ):
        if not fits:
            raise WorldError(f"environment.options.{option}: wanted is {wanted}, got {value!r}")


@lru_cache(maxsize=4096)
def _distances(size: int, target: Cell, blocks: frozenset[Cell]) -> Mapping[Cell, int]:
    """Steps to the target from where it can be reached, around all other blocks."""
    found, queue = {target: 0}, deque([target])
    while queue:
        row, column = queue.popleft()
        for down, right in MOVES:
            cell = (row + down, column + right)
            inside = 0 <= cell[0] < size and 0 <= cell[1] < size
            if inside and cell not in found and cell not in blocks:
                found[cell] = found[row, column] + 1
                queue.append(cell)
    return found


@lru_cache(maxsize=16)
def _floor(size: int, cell: int) -> Frame:
    picture = np.empty((size * cell, size * cell, 3), np.uint8)
    picture[:] = FLOOR
    if cell >= 24:
        picture[::cell] = picture[:, ::cell] = LINE
    return picture


@lru_cache(maxsize=16)
def sprites(cell: int) -> dict[str, Frame]:
    """Cells by what stands on them: nothing, a colour, an agent (`*`), or both (`red*`)."""
    row, column = np.mgrid[:cell, :cell] + 0.5
    reach = np.hypot(row - cell / 2, column - cell / 2) / cell
    edge = np.maximum(abs(row - cell / 2), abs(column - cell / 2)) / cell
    block = (edge <= 0.43) & (reach <= 0.54)
    agent = reach <= 0.38
    made: dict[str, Frame] = {}
    for name, colour in {"": FLOOR, **COLOURS}.items():
        ground = _floor(1, cell).copy()
        if name:
            ground[block] = colour
        made[name] = ground
        stood = ground.copy()
        stood[agent & (reach <= (0.27 if name else 1))] = AGENT
        made[f"{name}*"] = stood
    return made


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point="posttrain.vla.environments.color_grid:ColorGrid")
