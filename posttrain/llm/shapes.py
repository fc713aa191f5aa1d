"""Small pictures with questions, drawn from a seed: what a vision-language model can learn in 20 s.

A picture of 24 x 24 pixels has nine cells of 8 x 8; some hold a coloured shape. A question asks
for the colour of a shape that occurs once, or how many shapes have a colour.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image

from posttrain.llm.data import DataError, Row, unit_of
from posttrain.llm.settings import DataSettings
from posttrain.tuning import pictures

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 50),
}
SHAPES = ("square", "disc", "cross", "ring")
QUESTIONS = ("colour", "count")
CELL, CELLS = 8, 3

Thing: TypeAlias = tuple[int, str, str]
"""A cell's number, a shape and a colour."""


def make_rows(settings: DataSettings) -> list[Row]:
    """Distinct pictures with a question and its right answer.

    `settings.options` may set `objects` (how many shapes a picture holds, 1 to 4) and
    `questions` (some of "colour" and "count").

    Raises:
        DataError: an option that does not exist or lies outside its range.
    """
    options = {"objects": 2, "questions": ["colour"], **settings.options}
    if unknown := sorted(set(options) - {"objects", "questions"}):
        raise DataError(f"shapes: no option {unknown[0]!r}; it has objects and questions")
    objects, questions = options["objects"], options["questions"]
    if objects not in range(1, len(SHAPES) + 1):
        raise DataError(f"shapes: objects must lie in 1..{len(SHAPES)}, got {objects!r}")
    if not questions or set(questions) - set(QUESTIONS):
        raise DataError(f"shapes: questions must be some of {list(QUESTIONS)}, got {questions!r}")
    rng = np.random.default_rng(settings.seed)
    rows: dict[str, Row] = {}
    for _ in range(settings.size or 1_000):
        row = _row(rng, settings, objects=objects, kind=str(rng.choice(questions)))
        rows.setdefault(row.unit, row)
    return list(rows.values())


def _row(rng: np.random.Generator, settings: DataSettings, *, objects: int, kind: str) -> Row:
    cells = rng.choice(CELLS**2, size=objects, replace=False)
    shapes = rng.choice(SHAPES, size=objects, replace=False)
    colours = rng.choice(list(COLOURS), size=objects)
    things = [(int(i), str(s), str(c)) for i, s, c in zip(cells, shapes, colours, strict=True)]
    if kind == "colour":
        _, shape, answer = things[0]
        question = f"What colour is the {shape}?"
    else:
        colour = str(rng.choice(list(COLOURS)))
        question = f"How many are {colour}?"
        answer = str(sum(thing[2] == colour for thing in things))
    said = (settings.template or "{prompt}").replace("{prompt}", question)
    system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    prompt = (*system, {"role": "user", "content": said})
    images = (pictures.encode(Image.fromarray(draw(things))),)
    return Row(
        unit=unit_of(prompt, images),
        prompt=prompt,
        completion=answer,
        answer=answer,
        columns={"kind": kind},
        images=images,
    )


def draw(things: list[Thing]) -> np.ndarray:
    """A white picture with `things` on it: uint8 [24, 24, 3]."""
    picture = np.full((CELLS * CELL, CELLS * CELL, 3), 255, np.uint8)
    for cell, shape, colour in things:
        row, column = (CELL * i for i in divmod(cell, CELLS))
        picture[row : row + CELL, column : column + CELL][mask(shape)] = COLOURS[colour]
    return picture


def mask(shape: str) -> np.ndarray:
    """Which pixels of a cell a shape covers: bool [8, 8]."""
    y, x = np.abs(np.mgrid[:CELL, :CELL] - (CELL - 1) / 2)
    radius = np.hypot(x, y)
    covered = {
        "square": (x < 3) & (y < 3),
        "disc": radius < 3.2,
        "cross": (x < 1) | (y < 1),
        "ring": (radius > 2) & (radius < 3.9),
    }
    return np.asarray(covered[shape], dtype=bool)
