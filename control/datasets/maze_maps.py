"""Where are walls, start and goal in D4RL's ant mazes?

Layouts are facts of D4RL (`d4rl/locomotion/maze_env.py`; the ultra maze is in the fork that WSRL
uses): "1" is wall, "r" the start, "g" the goal that policies are evaluated on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

Layout: TypeAlias = tuple[str, ...]

ANTMAZE: Final[Mapping[str, Layout]] = {
    "umaze": ("11111", "1r001", "11101", "1g001", "11111"),
    "medium": (
        "11111111",
        "1r011001",
        "10010001",
        "11000111",
        "10010001",
        "10100101",
        "100010g1",
        "11111111",
    ),
    "large": (
        "111111111111",
        "1r0001000001",
        "101101010101",
        "100000010001",
        "101111011101",
        "100101000001",
        "110101010111",
        "100100010g01",
        "111111111111",
    ),
    "ultra": (
        "1111111111111111",
        "1r00000010000001",
        "1011101010110101",
        "1011101000010101",
        "1000101101110101",
        "1010001000000001",
        "1000100010111011",
        "1010111010001011",
        "1000000010100001",
        "1101101000111101",
        "11010010100000g1",
        "1111111111111111",
    ),
}


def cells(layout: Layout) -> list[list[int | str]]:
    """Spell a layout as Gymnasium-Robotics' `maze_map`."""
    return [[int(cell) if cell.isdigit() else cell for cell in row] for row in layout]


def centre(layout: Layout, letter: str, scale: float) -> tuple[float, float]:
    """Give x, y of a cell's middle as Gymnasium-Robotics counts: from the middle, y upwards."""
    row, column = next((i, line.index(letter)) for i, line in enumerate(layout) if letter in line)
    return (
        (column + 0.5 - len(layout[0]) / 2) * scale,
        (len(layout) / 2 - row - 0.5) * scale,
    )
