"""What does a reward mean in the kitchen?

D4RL's files pay at each step the number of tasks that are done (0 to 4) and mark the end of every
demonstration as terminal, finished or not. Its environment, and FrankaKitchen-v1, pay each task
once, when it gets done. Loaders that mix the two bootstrap differently at success.

Here rewards are those of the environment: 1 when one more task is done than ever before in the
episode, so that the return is the number of tasks done (0 to 4, D4RL's references), for data and
rollouts alike. Only the row that completes the last task is terminal. Learners that want a reward
at every step take `running` of it, which is what WSRL trains on (scale 1, bias -4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from control.datasets.columns import checked
from control.datasets.dataset import Dataset

__all__ = ["newly_done", "running"]


def newly_done(
    columns: Mapping[str, npt.ArrayLike], *, tasks: int = 4
) -> dict[str, npt.NDArray[Any]]:
    """Turn the columns of D4RL's kitchen files into the environment's rewards and ends.

    A task that was done, undone and done again pays once; a task that gets done while another is
    undone is not seen in the counts, and pays nothing. What follows the last task is dropped.

    Args:
        columns: As in the file: rewards are counts, a terminal ends each demonstration.
        tasks: How many tasks there are.

    Returns:
        The same columns, `timeouts` among them.

    Raises:
        DatasetError: Naming the column, what was wanted and what came.
    """
    c = checked(columns, source="kitchen")
    ends = c["terminals"] | c.get("timeouts", np.zeros(len(c["terminals"]), bool))
    ends[-1:] = True
    most = _accumulated(c["rewards"].astype(float), ends, np.maximum)
    fresh = np.concatenate(([True], ends[:-1]))
    before = np.where(fresh, 0.0, np.concatenate(([0.0], most[:-1])))
    keep = before < tasks
    terminals = most >= tasks
    return {
        **{name: values[keep] for name, values in c.items()},
        "rewards": (most - before)[keep],
        "terminals": terminals[keep],
        "timeouts": (ends & ~terminals)[keep],
    }


def running(dataset: Dataset) -> npt.NDArray[np.float64]:
    """Sum what an episode has paid so far, at each of its rows: tasks done, `[N]`."""
    return _accumulated(dataset.rewards, dataset.ends, np.add)


def _accumulated(
    values: npt.NDArray[np.float64], ends: npt.NDArray[np.bool_], how: np.ufunc
) -> npt.NDArray[np.float64]:
    parts = np.split(values, np.flatnonzero(ends[:-1]) + 1)
    return np.concatenate([how.accumulate(part) for part in parts])
