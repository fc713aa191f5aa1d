"""Which dataset does a name mean?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from control.datasets.columns import read_columns
from control.datasets.dataset import Dataset, DatasetError
from control.datasets.hdf5 import ABOUT, from_columns, read_hdf5
from control.datasets.kitchen import newly_done
from control.datasets.minari import local_ids, read_minari
from control.datasets.registry import REGISTRY, known, near
from control.datasets.success import judge, relabel_goal
from control.datasets.touches import first_touches

if TYPE_CHECKING:
    from control.datasets.known import Known

__all__ = ["folders", "open_dataset"]


def open_dataset(name: str, *, folder: Path | str | None = None) -> Dataset:
    """Open a dataset by whatever names it. Nothing is downloaded.

    Args:
        name: A D4RL name ("hopper-medium-v2": its file is looked for), the path of an `.hdf5` file,
            a Minari id or folder, or a local one ("local/...-v0").
        folder: Where D4RL's files are; None looks where D4RL does (see `folders`).

    Returns:
        The transitions, with success judged by the registry's rule where the data are known. Files
        of the kitchen get its environment's rewards (`control.datasets.kitchen`), those of ant
        mazes trajectories up to the goal (`control.datasets.touches`), and ant mazes' successors
        on Minari one goal (`relabel_goal`).

    Raises:
        DatasetError: When nothing is found; with names near the one given, where its file was
            looked for and what to download.
    """
    path = Path(name).expanduser()
    if path.suffix in {".hdf5", ".h5"}:
        return _file(path, known(path.name) or known(path.stem))
    if (path / "metadata.json").is_file() or (path / "data" / "metadata.json").is_file():
        return _minari(read_minari(path))
    if name in REGISTRY:
        return _d4rl(REGISTRY[name], [Path(folder)] if folder is not None else folders())
    if "/" in name:
        ids = local_ids()
        if name in ids or known(name) is not None or name.startswith(("D4RL/", "mujoco/")):
            return _minari(read_minari(name))
        raise DatasetError(_unknown(name, tuple(ids)))
    raise DatasetError(_unknown(name))


def folders() -> list[Path]:
    """Where D4RL's files are looked for: D4RL_DATASET_DIR, else D4RL's own default."""
    given = os.environ.get("D4RL_DATASET_DIR")
    return [Path(given).expanduser() if given else Path.home() / ".d4rl" / "datasets"]


def _d4rl(entry: Known, places: list[Path]) -> Dataset:
    """Find the file; a name of our own making ("pen-binary-v0.hdf5") serves where there is none."""
    names = [file for file in (entry.hdf5, f"{entry.name}.hdf5") if file]
    for place in places:
        for file in names:
            if (place / file).is_file():
                return _file(place / file, entry)
    looked = ", ".join(str(place / file) for place in places for file in dict.fromkeys(names))
    if entry.url is None:
        source = (
            "It was published only as pickled .npy files, which are not read here: convert them "
            "with write_hdf5"
        )
    else:
        source = f"Download {entry.url}"
    other = (
        f"; or open its successor on Minari, '{entry.minari}' (other data of the same task)"
        if entry.minari
        else ""
    )
    raise DatasetError(f"{entry.name}: no such file: {looked}. {source}{other}")


def _file(path: Path, entry: Known | None) -> Dataset:
    if entry is None:
        return read_hdf5(path)
    if entry.labels != "plain":
        return _relabelled(path, entry)
    return _judged(read_hdf5(path, name=entry.name, horizon=entry.horizon), entry)


LABELS: Final[Mapping[str, tuple[Any, dict[str, str]]]] = {
    "tasks": (
        newly_done,
        {
            "rewards": "1 when one more task is done than ever before in the episode",
            "terminals": "completion of the last task; ends of demonstrations are time-outs",
        },
    ),
    "touches": (first_touches, {"terminals": "the first touch of the goal in each trajectory"}),
}


def _relabelled(path: Path, entry: Known) -> Dataset:
    """Read a file whose rewards or terminals need more than reading."""
    columns, metadata = read_columns(path)
    if ABOUT in metadata:  # written by `write_hdf5`: that was done already
        return read_hdf5(path, name=entry.name)
    relabel, words = LABELS[entry.labels]
    kept = relabel(columns)
    about = {
        "source": str(path),
        **words,
        "rows in the file": len(columns["rewards"]),
        **({"metadata": metadata} if metadata else {}),
    }
    return _judged(from_columns(kept, name=entry.name, about=about), entry)


def _minari(dataset: Dataset) -> Dataset:
    entry = known(dataset.name)
    if entry is None:
        return dataset
    if entry.goal is not None:
        dataset = relabel_goal(dataset, entry.goal)
    return _judged(dataset, entry, minari=True)


def _judged(dataset: Dataset, entry: Known, *, minari: bool = False) -> Dataset:
    """Judge success where the data do not say, and note the environment to evaluate in."""
    env = entry.minari_env if minari else entry.env
    facts: dict[str, Any] = {"horizon": entry.horizon}
    if env is not None:
        facts |= {"env": env.id, "env kwargs": dict(env.kwargs)}
        if env.differs:
            facts["env differs"] = env.differs
    dataset = replace(dataset, about={**dataset.about, **facts})
    if entry.success is None or dataset.success is not None:
        return dataset
    return judge(dataset, entry.success)


def _unknown(name: str, ids: tuple[str, ...] = ()) -> str:
    close = near(name, ids)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return (
        f"'{name}': no such dataset. {hint}Wanted the path of an .hdf5 file, a D4RL name such as "
        "hopper-medium-v2, a Minari id or folder, or local/<name>-v0"
    )
