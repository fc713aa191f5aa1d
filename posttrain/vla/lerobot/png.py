"""Pictures as bytes and back."""

from __future__ import annotations

import io

import numpy as np

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.observation import Images

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def encode(frame: Images, *, level: int = 6) -> bytes:
    """One picture `[height, width, channels]` as PNG, which keeps every bit.

    Args:
        frame: 1, 3 or 4 channels.
        level: of compression, as LeRobot's own writer uses.
    """
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def decode(data: bytes, shape: tuple[int, int, int], where: str) -> Images:
    """One picture of the shape that was declared, `[height, width, channels]`.

    Raises:
        DemonstrationsError: no picture, or one of another size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode != MODES[shape[2]] and image.mode.startswith(("I", "F")):
                raise DemonstrationsError(f"{where}: wanted 8 bits a channel, got {image.mode}")
            pixels = np.asarray(image.convert(MODES[shape[2]]))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DemonstrationsError(f"{where}: cannot be read as a picture: {error}") from None
    pixels = pixels.reshape(*pixels.shape[:2], shape[2])
    if pixels.shape != shape:
        raise DemonstrationsError(
            f"{where}: wanted {list(shape)} (height, width, channels), got {list(pixels.shape)}"
        )
    return pixels
