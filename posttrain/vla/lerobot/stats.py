"""What the columns hold on the whole: the statistics that LeRobot normalises by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Images

QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES: Final = ("min", "max", "mean", "std", "count", *QUANTILES)
Counts = npt.NDArray[np.int64]


def of_numbers(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Statistics of a column of numbers `[n]` or `[n, size]`, one number a dimension."""
    table = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    found = {
        "min": table.min(axis=0),
        "max": table.max(axis=0),
        "mean": table.mean(axis=0),
        "std": table.std(axis=0),
    }
    marks = np.quantile(table, list(QUANTILES.values()), axis=0)
    found |= dict(zip(QUANTILES, marks, strict=True))
    listed = {name: found[name].tolist() for name in NAMES if name != "count"}
    return {**listed, "count": [len(table)]}


def count_levels(frames: Images) -> Counts:
    """How often each channel has each of its 256 values, `[channels, 256]`."""
    return np.stack(
        [
            np.bincount(frames[..., channel].reshape(-1), minlength=256)
            for channel in range(frames.shape[-1])
        ]
    )


def of_levels(counts: Counts, frames: int) -> dict[str, Any]:
    """Statistics of pictures, exact, on the scale from 0 to 1 and `[channels, 1, 1]`.

    Args:
        counts: of `count_levels`, summed over the pictures.
        frames: how many pictures there were.
    """
    levels = np.arange(256) / 255.0
    total = counts.sum(axis=1, keepdims=True)
    share = counts / total
    mean = share @ levels
    spread = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0))
    seen = counts > 0
    found = {
        "min": levels[seen.argmax(axis=1)],
        "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": spread,
    }
    below = counts.cumsum(axis=1)
    for name, q in QUANTILES.items():
        found[name] = levels[(below >= q * total).argmax(axis=1)]
    listed = {name: found[name][:, None, None].tolist() for name in NAMES if name != "count"}
    return {**listed, "count": [frames]}


def flat(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """As columns of the table of episodes: `stats/COLUMN/NAME`."""
    return {f"stats/{col}/{name}": v for col, of in stats.items() for name, v in of.items()}
