"""How good is a return, between a random policy and an expert?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from control.datasets.dataset import DatasetError
from control.datasets.registry import known, near

__all__ = ["normalised", "references"]


def references(name: str) -> tuple[float, float]:
    """Give the returns that count as 0 and as 1.

    Args:
        name: A D4RL name, the name of its file, or the id of its successor on Minari.

    Raises:
        DatasetError: When the dataset is unknown, or is judged by success alone.
    """
    entry = known(name)
    if entry is None:
        hint = f"; did you mean {' or '.join(near(name))}?" if near(name) else ""
        raise DatasetError(f"'{name}': no such dataset is known{hint}")
    if entry.ref_min is None or entry.ref_max is None:
        raise DatasetError(f"'{name}' has no reference returns: its score is the rate of success")
    return entry.ref_min, entry.ref_max


def normalised(returns: npt.ArrayLike, by: str | tuple[float, float]) -> npt.NDArray[np.float64]:
    """Normalise returns: (return - min) / (max - min), a fraction; D4RL prints it times 100.

    Args:
        returns: Undiscounted raw returns, any shape.
        by: A name for `references`, or min and max themselves.

    >>> normalised([-20.272305, 3234.3], "hopper-medium-v2").tolist()
    [0.0, 1.0]

    Raises:
        DatasetError: When there are no references, or max is not above min.
    """
    low, high = references(by) if isinstance(by, str) else by
    if not high > low:
        raise DatasetError(f"by: wanted min < max, got {low!r} and {high!r}")
    return (np.asarray(returns, dtype=float) - low) / (high - low)
