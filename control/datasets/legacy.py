"""What would the `d4rl` package say, where it is installed, and what did its loader say, where not?

The package needs mujoco-py and an old gym, so it is optional and never imported at the top of a
file. Its transitions are a matter of record and are computed here without it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from control.datasets.columns import checked
from control.datasets.dataset import Bools, Dataset, DatasetError, Ints
from control.datasets.hdf5 import from_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["open_d4rl", "qlearning_dataset"]

ADVICE = (
    "read the .hdf5 file itself instead, for which nothing of d4rl is needed: "
    "open_dataset('path/to/file.hdf5')"
)


def open_d4rl(name: str) -> Dataset:
    """Open a dataset through the `d4rl` package; it downloads the file if it has to.

    Args:
        name: As D4RL's gym knows it: "hopper-medium-v2".

    Raises:
        DatasetError: When d4rl, gym or the dataset is not to be had, with what to do instead.
    """
    try:
        import d4rl  # type: ignore[import-not-found, unused-ignore]  # noqa: F401  # fills gym
        import gym  # type: ignore[import-not-found, unused-ignore]
    # mujoco-py raises a bare Exception where MuJoCo 2.1 is absent, which d4rl's own guards against
    # ImportError let through: anything narrower would end here in a traceback about a compiler.
    except Exception as error:
        raise DatasetError(
            f"d4rl cannot be imported ({type(error).__name__}: {error}); {ADVICE}"
        ) from error
    try:
        env = gym.make(name)
        columns = env.get_dataset()
    except Exception as error:
        raise DatasetError(
            f"d4rl has no '{name}' to give ({type(error).__name__}: {error}); {ADVICE}"
        ) from error
    wanted = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    return from_columns(
        {column: columns[column] for column in wanted if column in columns},
        name=name,
        horizon=getattr(env, "_max_episode_steps", None),
        about={"source": f"d4rl: {name}"},
    )


def qlearning_dataset(
    columns: Mapping[str, npt.ArrayLike],
    *,
    horizon: int | None = None,
    terminate_on_end: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """Give the transitions that D4RL 1.1's `qlearning_dataset` gives, bit for bit, faster.

    For comparisons with published work. `read_hdf5` differs where this loader errs: it keeps a last
    row that is terminal, it knows recorded next observations, and without `timeouts` it cuts
    every `horizon` steps of an episode (this one counts an episode that follows a terminal from
    1). With `terminate_on_end` a time-out row keeps the next episode's first observation as
    its next and is *not* marked terminal.

    Args:
        columns: As in a file; `timeouts` may be absent if `horizon` is given.
        horizon: Longest an episode may be, for columns without `timeouts`.
        terminate_on_end: Keep time-out rows.

    Returns:
        observations, actions, next_observations, rewards (float32) and terminals (bool).

    Raises:
        DatasetError: Naming the column, what was wanted and what came.
    """
    c = checked(columns, source="columns")
    terminals: Bools = c["terminals"][:-1]
    if "timeouts" in c:
        final = c["timeouts"][:-1]
    elif horizon is None:
        raise DatasetError("timeouts: absent, so horizon must be given")
    else:
        final = np.zeros(len(terminals), dtype=bool)
        final[
            _legacy_cuts(np.flatnonzero(terminals), len(terminals), horizon, terminate_on_end)
        ] = 1
    keep = np.ones(len(terminals), dtype=bool) if terminate_on_end else ~final
    observations = c["observations"].astype(np.float32)
    return {
        "observations": observations[:-1][keep],
        "actions": c["actions"][:-1].astype(np.float32)[keep],
        "next_observations": observations[1:][keep],
        "rewards": c["rewards"][:-1].astype(np.float32)[keep],
        "terminals": terminals[keep],
    }


def _legacy_cuts(terminals: Ints, rows: int, horizon: int, terminate_on_end: bool) -> list[int]:  # noqa: FBT001
    """Rows at which D4RL's counter reaches the horizon.

    It is set to 0 before a kept last row adds 1 to it, so the episode after one starts at 1.
    """
    cuts: list[int] = []
    start, count = 0, 0
    for terminal in [*terminals.tolist(), rows]:
        at = _reached(start, count, horizon)
        while at < terminal:
            cuts.append(at)
            start, count = at + 1, int(terminate_on_end)
            at = _reached(start, count, horizon)
        if at == terminal < rows:
            cuts.append(terminal)
        start = terminal + 1
        count = 0 if at == terminal and not terminate_on_end else 1
    return cuts


def _reached(start: int, count: int, horizon: int) -> int:
    """The row at which a counter that stands at `count` in row `start` reaches horizon - 1."""
    return start + horizon - 1 - count if count < horizon else sys.maxsize
