"""Which columns does a D4RL file hold, and are they fit for use?

Facts about the layout are from D4RL's own loader (d4rl/offline_env.py and `qlearning_dataset` in
d4rl/__init__.py): flat columns over all episodes, rewards and terminals sometimes `[N, 1]`,
`timeouts` absent in old files, metadata that may be scalars.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from control.datasets.dataset import Bools, DatasetError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")


def read_columns(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read the columns of transitions whole; of everything else only what it is.

    Returns:
        Columns by name, and for all other entries their value (numbers and text of one element)
        or their shape and type: "float32 [256, 11]".

    Raises:
        DatasetError: Naming the file, the entry, what was wanted and what came.
    """
    import h5py

    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise DatasetError(f"{path}: not an HDF5 file (perhaps an error page, or cut short)")
    try:
        with h5py.File(path, "r") as file:
            entries: dict[str, h5py.Dataset] = {}
            file.visititems(
                lambda name, item: (
                    entries.update({name: item})  # visits on None only
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
            absent = [name for name in REQUIRED if name not in entries]
            if absent:
                raise DatasetError(
                    f"{path}: {', '.join(absent)}: no such entry (there: "
                    f"{', '.join(sorted(entries)[:20]) or 'nothing'})"
                )
            columns = {
                name: _column(path, name, entries.pop(name))
                for name in (*REQUIRED, *OPTIONAL)
                if name in entries
            }
            return columns, {name: _metadata(entry) for name, entry in entries.items()}
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from None


def _column(path: Path, name: str, entry: Any) -> npt.NDArray[Any]:
    """Read numbers; an object column would be a pickle or worse, and is refused."""
    if entry.dtype.kind not in "fiub":
        raise DatasetError(f"{path}: {name}: wanted plain numbers, got entries of {entry.dtype}")
    return np.asarray(entry[()])


def _metadata(entry: Any) -> Any:
    if entry.dtype.kind in "fiub" and entry.size == 1:
        return entry[()].reshape(()).item()
    if entry.dtype.kind in "OS" and entry.size == 1:
        import h5py

        if h5py.check_string_dtype(entry.dtype) is not None:
            value = np.asarray(entry[()]).reshape(()).item()
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return f"{entry.dtype} {list(entry.shape)}"


def checked(columns: Mapping[str, npt.ArrayLike], *, source: str) -> dict[str, npt.NDArray[Any]]:
    """Bring D4RL's columns into one shape: `[N, d]` and `[N]`, booleans as booleans.

    Raises:
        DatasetError: Naming the column, what was wanted and what came.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    absent = [name for name in REQUIRED if name not in arrays]
    if absent:
        raise DatasetError(f"{source}: wanted the columns {list(REQUIRED)}, {absent} are absent")
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for name, given in list(arrays.items()):
        wide = name in {"observations", "actions", "next_observations"}
        values = given[:, 0] if not wide and given.shape == (rows, 1) else given
        arrays[name] = values
        if values.dtype.kind not in "fiub":
            raise DatasetError(f"{source}: {name}: wanted plain numbers, got {values.dtype}")
        if values.ndim != (2 if wide else 1) or len(values) != rows:
            wanted = f"[{rows}, d]" if wide else f"[{rows}] or [{rows}, 1]"
            raise DatasetError(f"{source}: {name}: wanted {wanted}, got {list(values.shape)}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(rows, -1).all(axis=1))[0])
            raise DatasetError(f"{source}: {name}: NaN or infinity in row {row}")
    for name in {"terminals", "timeouts"} & arrays.keys():
        arrays[name] = arrays[name].astype(bool)
    return arrays


def cut(terminals: Bools, timeouts: Bools | None, horizon: float | None, *, source: str) -> Bools:
    """Say which rows a time limit ended.

    Args:
        terminals: `[N]`.
        timeouts: As in the file; None in D4RL's oldest.
        horizon: The longest an episode may be; needed where `timeouts` is None.
        source: For the error.

    Raises:
        DatasetError: When neither `timeouts` nor a horizon is known.
    """
    if timeouts is not None:
        return timeouts
    if horizon is None:
        raise DatasetError(
            f"{source}: timeouts: the file has none, so the length of an episode must be given: "
            "horizon=1000 (or name= one that the registry knows)"
        )
    rows = np.arange(len(terminals))
    fresh = np.concatenate(([True], terminals[:-1]))
    since = rows - np.maximum.accumulate(np.where(fresh, rows, 0))
    return np.asarray(since % horizon == horizon - 1)
