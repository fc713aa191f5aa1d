"""How are D4RL's HDF5 files read and written?

The columns that D4RL's loader reads, and nothing else, are needed. An episode ends at a terminal or
a time-out, whichever comes; a terminal is never bootstrapped, a time-out is.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from control.datasets.columns import checked, cut, read_columns
from control.datasets.continuity import describe, jumps
from control.datasets.dataset import Dataset, DatasetError, DatasetWarning
from control.datasets.touches import warn_of_fragments
from posttrain.files import replacing, to_json

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["DiscontinuityWarning", "from_columns", "read_hdf5", "write_hdf5"]

ABOUT = "metadata/about"
STOPS = "episodes/stops"
PER_EPISODE = ("success", "incomplete", "last_rewards")


class DiscontinuityWarning(DatasetWarning):
    """Observations jump inside an episode."""


def read_hdf5(
    path: str | os.PathLike[str], *, name: str | None = None, horizon: float | None = None
) -> Dataset:
    """Read a file in D4RL's layout.

    Args:
        path: The file.
        name: What to call the dataset; None takes the file's own name, else its stem.
        horizon: Longest an episode may be, for files without `timeouts`; `math.inf` for no limit.

    Returns:
        The transitions. A time-out row without a recorded next observation is no transition: its
        reward is kept in `last_rewards`. Metadata (a behaviour policy's weights among it) is
        described in `about["metadata"]`.

    Raises:
        DatasetError: Naming the file, the entry, what was wanted and what came.

    Warns:
        DiscontinuityWarning: Where observations jump inside an episode.
        FragmentWarning: Where terminals come in runs.
    """
    path = Path(path)
    columns, metadata = read_columns(path)
    own = _own(path, metadata)
    about = {**own.pop("about"), "source": str(path)}
    if own.get("stops") is not None:
        return _rebuilt(path, checked(columns, source=str(path)), own, name, about)
    if metadata:
        about["metadata"] = metadata
    return from_columns(columns, name=name or path.stem, horizon=horizon, about=about)


def from_columns(
    columns: Mapping[str, npt.ArrayLike],
    *,
    name: str,
    horizon: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Dataset:
    """Turn D4RL's columns, from a file or elsewhere, into a dataset.

    Where `next_observations` is absent it is the row below; a last row of the data that no
    row follows, and that is no terminal, is no transition either.

    Raises:
        DatasetError: Naming the column, what was wanted and what came.

    Warns:
        DiscontinuityWarning: Where observations jump inside an episode.
        FragmentWarning: Where terminals come in runs.
    """
    source = str((about or {}).get("source", name))
    c = checked(columns, source=source)
    rows = len(c["rewards"])
    if rows == 0:
        raise DatasetError(f"{source}: there are no rows")
    terminals = c["terminals"]
    warn_of_fragments(terminals, name)
    timeouts = cut(terminals, c.get("timeouts"), horizon, source=source)
    ends = terminals | timeouts
    open_end = not ends[-1]
    ends[-1] = True
    observations = c["observations"].astype(np.float32, copy=False)
    if "next_observations" in c:
        keep = np.ones(rows, dtype=bool)
        following = c["next_observations"].astype(np.float32, copy=False)
    else:
        keep = ~ends | terminals
        following = np.concatenate((observations[1:], observations[-1:]))
    episodes = _episodes(c["rewards"].astype(float), ends, keep)
    dataset = Dataset(
        observations=observations[keep],
        actions=c["actions"][keep],
        rewards=c["rewards"][keep],
        next_observations=following[keep],
        terminals=terminals[keep],
        ends=episodes["ends"],
        name=name,
        incomplete=_last_only(int(episodes["ends"].sum())) if open_end else None,
        last_rewards=episodes["last_rewards"],
        about={**(about or {}), **_notes(c, keep, open_end=open_end, episodes=episodes)},
    )
    return _warned(dataset)


def _episodes(
    rewards: npt.NDArray[np.float64], ends: npt.NDArray[np.bool_], keep: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Where episodes end among the kept rows, and the rewards of last steps that are not kept.

    An episode of one step that is not kept leaves nothing behind, and is counted as `empty`.
    """
    stops = np.flatnonzero(ends)
    starts = np.concatenate(([0], stops[:-1] + 1))
    lengths = stops - starts + keep[stops]
    there = lengths > 0
    if not there.any():
        raise DatasetError("there are no transitions: every row is the last of its episode")
    new_ends = np.zeros(int(keep.sum()), dtype=bool)
    new_ends[lengths[there].cumsum() - 1] = True
    tails = np.where(keep[stops], np.nan, rewards[stops])[there]
    return {
        "ends": new_ends,
        "last_rewards": tails if np.isfinite(tails).any() else None,
        "empty": int((~there).sum()),
    }


def _last_only(episodes: int) -> npt.NDArray[np.bool_]:
    """Only the last episode is incomplete: the recording stopped inside it."""
    return np.arange(episodes) == episodes - 1


def _notes(
    c: Mapping[str, Any], keep: npt.NDArray[np.bool_], *, open_end: bool, episodes: Any
) -> dict[str, Any]:
    """What was decided while reading."""
    return {
        "timeouts": "recorded" if "timeouts" in c else "cut at the horizon",
        "next_observations": "recorded" if "next_observations" in c else "the row below",
        "rows": {"read": len(keep), "without next observation": int((~keep).sum())},
        "last episode": "incomplete" if open_end else "complete",
        **({"episodes of one step left out": episodes["empty"]} if episodes["empty"] else {}),
    }


def _warned(dataset: Dataset) -> Dataset:
    """Warn of jumps, and note them."""
    found = jumps(dataset)
    if not len(found):
        return dataset
    warnings.warn(describe(found, dataset), DiscontinuityWarning, stacklevel=4)
    from dataclasses import replace

    about = {**dataset.about, "jumps": {"count": len(found), "rows": found[:10].tolist()}}
    return replace(dataset, about=about)


def write_hdf5(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Write D4RL's layout, whole or not at all; `read_hdf5` gives the same bits back.

    D4RL's loader reads the file too: `timeouts` is true at every end that is no terminal. What
    its layout cannot hold (success, about, name) is in entries that it passes over.
    """
    import h5py

    with replacing(Path(path)) as partial, h5py.File(partial, "w") as file:
        for column in ("observations", "actions", "rewards", "next_observations", "terminals"):
            file[column] = getattr(dataset, column)
        file["timeouts"] = dataset.ends & ~dataset.terminals
        file[STOPS] = dataset.stops
        for column in PER_EPISODE:
            if getattr(dataset, column) is not None:
                file[f"episodes/{column}"] = getattr(dataset, column)
        file[ABOUT] = to_json(
            {"name": dataset.name, "about": dict(dataset.about)}, nan_as_null=True
        )


def _own(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Take what `write_hdf5` adds out of the metadata: nothing for files of others."""
    text = metadata.get(ABOUT)
    if not isinstance(text, str):
        return {"about": {}}
    try:
        own = json.loads(text)
        name, about = own["name"], own["about"]
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{path}: {ABOUT}: wanted a JSON object with name and about") from None
    import h5py

    with h5py.File(path, "r") as file:
        episodes = {
            column: np.asarray(file[f"episodes/{column}"][()])
            for column in ("stops", *PER_EPISODE)
            if f"episodes/{column}" in file
        }
    return {"name": name, "about": about, **episodes}


def _rebuilt(
    path: Path,
    c: dict[str, npt.NDArray[Any]],
    own: dict[str, Any],
    name: str | None,
    about: dict[str, Any],
) -> Dataset:
    stops = own["stops"]
    rows = len(c["rewards"])
    if not len(stops) or stops[-1] != rows or (np.diff(stops, prepend=0) <= 0).any():
        raise DatasetError(f"{path}: {STOPS}: wanted ascending rows up to {rows}")
    if "next_observations" not in c:
        raise DatasetError(f"{path}: next_observations: absent, though {STOPS} is there")
    ends = np.zeros(rows, dtype=bool)
    ends[stops - 1] = True
    return Dataset(
        observations=c["observations"],
        actions=c["actions"],
        rewards=c["rewards"],
        next_observations=c["next_observations"],
        terminals=c["terminals"],
        ends=ends,
        name=name or own["name"],
        about=about,
        **{column: own.get(column) for column in PER_EPISODE},
    )
