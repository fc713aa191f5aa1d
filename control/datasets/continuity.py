"""Do observations jump inside an episode, as they only should between two?

AntMaze's first files (v0, v1) had `timeouts` out of step with the resets, so "episodes" ran on
through a teleport. Every return-to-go and every next observation there is wrong, silently.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from control.datasets.dataset import Dataset, Ints

SAMPLE = 200_000
"""Steps that the typical step is measured on; more would change nothing but the time."""


def jumps(dataset: Dataset, *, factor: float = 10.0) -> Ints:
    """Find rows whose next row is in the same episode but out of reach.

    Where next observations were recorded, they must be what the next row observed. Where they were
    shifted, some number moves by more than `factor` times its 99th percentile of steps and also by
    more than its standard deviation: a reset, not a fast motion.

    Returns:
        Rows `[k]`, ascending.
    """
    inside = ~dataset.ends[:-1]
    here, after = dataset.observations, dataset.next_observations
    seen = here[1:]
    rows = np.flatnonzero((after[:-1] != seen).any(axis=1) & inside)
    apart = np.abs(after[rows] - here[rows + 1])
    broken = rows[(apart > 1e-4 * (1.0 + np.abs(here[rows + 1]))).any(axis=1)]
    if len(broken) or not inside.any():
        return broken
    steps = np.abs(seen - here[:-1])
    stride = max(1, len(steps) // SAMPLE)
    typical = np.quantile(steps[np.flatnonzero(inside)[::stride]], 0.99, axis=0)
    bound = np.maximum(factor * typical, here[::stride].std(axis=0))
    return np.flatnonzero((steps > np.where(typical > 0, bound, np.inf)).any(axis=1) & inside)


def describe(rows: Ints, dataset: Dataset) -> str:
    """Say where observations jump, in a sentence."""
    first: npt.NDArray[np.int64] = rows[:5]
    more = ", ..." if len(rows) > len(first) else ""
    return (
        f"'{dataset.name}': observations jump inside {len(rows)} steps (after rows "
        f"{', '.join(map(str, first))}{more}): episodes are probably cut at wrong rows, which "
        "makes returns and next observations wrong there"
    )
