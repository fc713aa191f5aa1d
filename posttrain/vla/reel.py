"""One episode as pictures: a GIF, a strip of some of its frames, and its last frame.

Below each picture a bar shows how much of the episode is over; the last one is framed and bears a
tick, a cross or a dash, which stand for success, failure and an unknown end. The same episode gives
the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from posttrain.vla.frames import spread
from posttrain.vla.observation import Images

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

WIDTH = 144
"""Pixels that a picture's longer side has at most."""
STRIP = 8
"""Pictures of a strip."""
LARGEST = 150_000
"""Bytes of a GIF or a strip."""
ATTEMPTS: Final = ((48, 128, WIDTH), (32, 64, WIDTH), (16, 64, WIDTH), (12, 32, 96), (8, 16, 64),
                   (4, 8, 48), (2, 4, 32))  # fmt: skip
"""Frames, colours and width to try, until the bytes are few enough."""
EDGE, BAR = 4, 14
"""Pixels around a picture, and of the bar below it."""
GROUND, TRACK, DONE = (236, 238, 241), (202, 207, 214), (87, 96, 107)
MARKS: Final[Mapping[bool | None, tuple[tuple[int, int, int], tuple[tuple[float, float], ...]]]] = {
    True: ((0, 115, 79), ((0.1, 0.55), (0.4, 0.9), (0.95, 0.1))),
    False: ((196, 43, 43), ((0.1, 0.1), (0.9, 0.9), (0.5, 0.5), (0.9, 0.1), (0.1, 0.9))),
    None: (DONE, ((0.1, 0.5), (0.9, 0.5))),
}
"""By success: a colour and a line, in a unit square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reel:
    """One episode to be filmed."""

    unit: str
    instruction: str
    success: bool | None
    value: float | None
    """Its return."""
    steps: int
    frames: Callable[[Sequence[int]], Mapping[str, Images]]
    """Gives some of its frames by camera."""
    length: int
    """How many frames there are."""


def small(reel: Reel, make: Callable[[Reel, int, int, int], bytes]) -> bytes:
    """The first attempt whose bytes are few enough, or else the last."""
    content = b""
    for count, colours, width in ATTEMPTS:
        content = make(reel, count, colours, width)
        if len(content) <= LARGEST:
            break
    return content


def moving(reel: Reel, count: int, colours: int, width: int) -> bytes:
    """The episode as a GIF that begins again at its end."""
    pictures = list(_pictures(reel, spread(reel.length, count), width))
    paper = _palette(pictures, colours)
    shown = [_in_colours(picture, paper) for picture in pictures]
    pace = int(np.clip(4000 / len(shown), 80, 400)) // 10 * 10
    buffer = io.BytesIO()
    shown[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=shown[1:],
        duration=[pace] * (len(shown) - 1) + [1500],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def strip(reel: Reel, count: int, colours: int, width: int) -> bytes:
    """Some frames side by side, the first and the last among them."""
    from PIL import Image as Pillow

    pictures = list(_pictures(reel, spread(reel.length, min(count, STRIP)), width))
    high, wide = pictures[0].height, pictures[0].width
    whole = Pillow.new("RGB", (wide * len(pictures), high), GROUND)
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i * wide, 0))
    return _png(whole, colours)


def last(reel: Reel, _: int, colours: int, width: int) -> bytes:
    """The last frame, for who wants nothing to move."""
    return _png(next(_pictures(reel, [reel.length - 1], width)), colours)


def _png(picture: Image, colours: int) -> bytes:
    buffer = io.BytesIO()
    _in_colours(picture, _palette([picture], colours)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _in_colours(picture: Image, palette: Image) -> Image:
    from PIL import Image as Pillow

    return picture.quantize(palette=palette, dither=Pillow.Dither.NONE)


def _palette(pictures: Sequence[Image], colours: int) -> Image:
    """One palette for all frames, so that what stands still does not flicker."""
    from PIL import Image as Pillow

    high, wide = pictures[0].height, pictures[0].width
    whole = Pillow.new("RGB", (wide, high * len(pictures)))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (0, i * high))
    return whole.quantize(colours, method=Pillow.Quantize.MEDIANCUT)


def _pictures(reel: Reel, places: Sequence[int], width: int) -> Iterator[Image]:
    """Frames with all cameras, framed; of the last one the frame tells how it ended."""
    cameras = reel.frames(places)
    final = reel.length - 1
    for row, place in enumerate(places):
        ended = place == final
        views = [_sized(pixels[row], width) for pixels in cameras.values()]
        yield _framed(
            views,
            1.0 if ended else place / final,
            *(MARKS[reel.success] if ended else (GROUND, ())),
        )


def _sized(pixels: Pixels, width: int) -> Image:
    """Small pictures grow by a whole factor, large ones shrink."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.ascontiguousarray(pixels))
    longer = max(picture.size)
    if longer > width:
        wide, high = (max(1, round(side * width / longer)) for side in picture.size)
        return picture.resize((wide, high), Pillow.Resampling.BOX)
    factor = width // longer
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Pillow.Resampling.NEAREST)


def _framed(
    views: Sequence[Image],
    share: float,
    colour: tuple[int, int, int],
    line: Sequence[tuple[float, float]],
) -> Image:
    """Pictures one below the other, in an edge of some colour, over a bar and a mark."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    wide = max(view.width for view in views) + 2 * EDGE
    high = sum(view.height + EDGE for view in views) + EDGE + BAR
    whole = Pillow.new("RGB", (wide, high), GROUND)
    draw = ImageDraw.Draw(whole)
    draw.rectangle((0, 0, wide - 1, high - BAR - 1), fill=colour)
    top = EDGE
    for view in views:
        whole.paste(view, ((wide - view.width) // 2, top))
        top += view.height + EDGE
    side = BAR - 5
    end = wide - EDGE - side - 4
    middle = high - BAR // 2
    draw.rectangle((EDGE, middle - 2, end, middle + 1), fill=TRACK)
    draw.rectangle((EDGE, middle - 2, EDGE + (end - EDGE) * share, middle + 1), fill=DONE)
    if line:
        left, upper = wide - EDGE - side, high - BAR + 2
        points = [(left + x * side, upper + y * side) for x, y in line]
        draw.line(points, fill=colour, width=2)
    return whole
