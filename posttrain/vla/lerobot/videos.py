"""Frames of an episode out of a video, through PyAV."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.lerobot.layout import Film
from posttrain.vla.observation import Images


def decode_episode(film: Film, length: int, *, fps: float, shape: tuple[int, int, int]) -> Images:
    """Every frame of one episode, `[length, height, width, 3]`.

    Frame i is the one shown at `film.begin + i / fps`, to within a quarter of a frame.

    Raises:
        DemonstrationsError: PyAV is not installed, or the file is missing, torn, too short, or has
            pictures of another size.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise DemonstrationsError(
            f"{film.path} is a video, which needs PyAV: pip install 'posttrain[video]'"
        ) from None
    if not film.path.is_file():
        raise DemonstrationsError(f"{film.path} is missing")
    if shape[2] != 3:
        raise DemonstrationsError(f"{film.path}: wanted 3 channels, {shape[2]} are declared")
    found = np.empty((length, *shape), dtype=np.uint8)
    try:
        with av.open(str(film.path)) as container:
            seen = _fill(container, found, film, fps)
    except av.FFmpegError as error:
        raise DemonstrationsError(f"{film.path}: cannot be read as a video: {error}") from None
    if seen < length:
        raise DemonstrationsError(
            f"{film.path}: has no frame at {film.begin + seen / fps:.4f} s, which is frame {seen} "
            f"of an episode of {length} at {fps:g} a second"
        )
    return found


def _fill(container: Any, found: Images, film: Film, fps: float) -> int:
    """Decode from the last key frame before the episode; how many frames were there."""
    stream = container.streams.video[0]
    base = float(stream.time_base)
    container.seek(max(int((film.begin - 0.25 / fps) / base), 0), stream=stream, backward=True)
    seen = 0
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        late = frame.pts * base - (film.begin + seen / fps)
        if late < -0.25 / fps:
            continue
        if late > 0.25 / fps:
            break
        pixels = frame.to_ndarray(format="rgb24")
        if pixels.shape != found.shape[1:]:
            raise DemonstrationsError(
                f"{film.path}: wanted frames of {list(found.shape[1:])} (height, width, channels), "
                f"got {list(pixels.shape)}"
            )
        found[seen] = pixels
        seen += 1
        if seen == len(found):
            break
    return seen
