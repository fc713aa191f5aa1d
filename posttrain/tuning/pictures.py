"""Pictures as text: the bytes of an image file in base64, so that rows stay JSON.

A picture's own bytes are kept where there are any, else PNG is written, which loses nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


class PictureError(ValueError):
    """Something that is no picture, and what was wanted."""


def encode(image: Image) -> str:
    """A picture as PNG in base64; `decode` gives the same RGB pixels."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(text: str) -> Image:
    """The RGB picture of `encode`.

    Raises:
        PictureError: not base64, or not an image file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise PictureError(f"not a picture in base64: {error}") from error


def read(value: Any, *, folder: Path) -> str:
    """A source's picture, whatever holds it, as text.

    Args:
        value: a PIL image, a file's bytes, a path, a `data:` URI, or the mapping of `bytes` and
            `path` that Parquet files of `datasets` hold.
        folder: what relative paths start from.

    Raises:
        PictureError: none of these, or a file that is missing or no image.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return encode(value)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.startswith("data:"):
        text = value.partition(",")[2]
    elif isinstance(value, str):
        text = _bytes_of(folder / value)
    elif isinstance(value, bytes):
        text = base64.b64encode(value).decode("ascii")
    else:
        raise PictureError(
            f"wanted a PIL image, a file's bytes, a path or a data: URI, got {type(value).__name__}"
        )
    decode(text)
    return text


def _bytes_of(file: Path) -> str:
    if not file.is_file():
        raise PictureError(f"no such picture: {file}")
    return base64.b64encode(file.read_bytes()).decode("ascii")
