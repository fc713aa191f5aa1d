"""Which terminals are only touches of the goal, inside a trajectory that goes on?

D4RL's AntMaze files were driven past the goal and labelled later: every row near it pays 1 and is
called terminal (D4RL's issue 199; HIQL's issue 2). Cut there, each such row is an "episode" of one
step that succeeds, and J(D) is far too high. Here a trajectory counts once, up to its first touch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from control.datasets.columns import checked
from control.datasets.dataset import Bools, DatasetError, DatasetWarning

__all__ = ["FragmentWarning", "first_touches", "warn_of_fragments"]


class FragmentWarning(DatasetWarning):
    """Terminals come in runs, as if they were touches of a goal."""


def first_touches(
    columns: Mapping[str, npt.ArrayLike], *, position: int = 2, factor: float = 10.0
) -> dict[str, npt.NDArray[Any]]:
    """Keep each trajectory up to its first terminal; it ends at time-outs, and where it is reset.

    A terminal is followed by a reset where the position moves by more than `factor` times its 99th
    percentile of steps between other rows.

    Args:
        columns: As in the file, with `timeouts`.
        position: How many of the first observed numbers are the position.
        factor: See above.

    Returns:
        The same columns, with fewer rows.

    Raises:
        DatasetError: Naming the column, what was wanted and what came.
    """
    c = checked(columns, source="columns")
    if "timeouts" not in c:
        raise DatasetError("timeouts: wanted, since terminals do not end these trajectories")
    place = c["observations"][:, :position]
    steps = np.abs(np.diff(place, axis=0))
    inside = steps[~(c["terminals"] | c["timeouts"])[:-1]]
    typical = np.quantile(inside, 0.99, axis=0) if len(inside) else np.zeros(position)
    reset = np.append((steps > factor * typical).any(axis=1), True)
    ends = c["timeouts"] | (c["terminals"] & reset)
    starts = np.concatenate(([True], ends[:-1]))
    touched = c["terminals"].cumsum()
    before = touched - c["terminals"]
    at_start = np.maximum.accumulate(np.where(starts, before, 0))
    keep = before == at_start
    return {name: values[keep] for name, values in c.items()}


def warn_of_fragments(terminals: Bools, name: str) -> None:
    """Warn where at least a tenth of the terminals follow another at once.

    Warns:
        FragmentWarning: Then.
    """
    runs = int((terminals[1:] & terminals[:-1]).sum())
    total = int(terminals.sum())
    if runs >= 10 and runs >= 0.1 * total:
        warnings.warn(
            f"'{name}': {runs} of {total} terminals follow another at once, so that many episodes "
            "have one step; are they touches of a goal inside longer trajectories? Then J(D) is "
            "wrong: read the columns through control.datasets.touches.first_touches",
            FragmentWarning,
            stacklevel=4,
        )
