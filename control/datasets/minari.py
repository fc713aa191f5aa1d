"""How are Minari's datasets read, and local ones made?

Nothing is downloaded unless asked: a missing dataset is an error that says what would be fetched.
MINARI_DATASETS_PATH is where Minari looks, as for Minari itself.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from control.datasets.dataset import Dataset, DatasetError
from control.observation import flatten, keys_for

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from minari import MinariDataset

__all__ = ["local_ids", "read_minari", "write_minari"]

PARTS = ("observations", "actions", "rewards", "next_observations", "terminals", "ends")


def local_ids() -> list[str]:
    """List the datasets that Minari finds on this machine."""
    from minari import list_local_datasets

    with warnings.catch_warnings():  # a folder that is no dataset is no reason to be silent or fail
        warnings.simplefilter("ignore")
        return list(list_local_datasets())


def read_minari(
    source: str | os.PathLike[str],
    *,
    keys: tuple[str, ...] | None = None,
    download: bool = False,
) -> Dataset:
    """Read a Minari dataset.

    Args:
        source: An id ("D4RL/antmaze/umaze-v1", "local/maze/demos-v0") or a dataset's folder.
        keys: Which entries of dict observations to lay end to end; None takes `keys_for`.
        download: Fetch an id that is not on this machine. Never done unasked.

    Returns:
        The transitions; every next observation is recorded. `about` has the specification of the
        environment (`env_spec`, `eval_env_spec` as JSON) and of the data.

    Raises:
        DatasetError: When the dataset is absent, with what would be downloaded and how to ask for
            it, or when its observations cannot be laid flat.
    """
    data = _find(str(source), download=download)
    spec = data.env_spec
    keys = keys_for(spec.id if spec else "", data.observation_space) if keys is None else keys
    columns: dict[str, list[Any]] = {name: [] for name in PARTS}
    success: list[bool | None] = []
    incomplete: list[bool] = []
    for episode in data.iterate_episodes():
        if not len(episode.rewards):
            continue
        _add(columns, episode, keys, data.id)
        success.append(_success(episode.infos))
        incomplete.append(not (episode.terminations[-1] or episode.truncations[-1]))
    if not success:
        raise DatasetError(f"{source}: there are no transitions")
    return Dataset(
        **{name: np.concatenate(parts) for name, parts in columns.items()},
        name=data.id,
        success=None if None in success else np.array(success),
        incomplete=np.array(incomplete) if any(incomplete) else None,
        about=_about(data, keys, spec),
    )


def _find(source: str, *, download: bool) -> MinariDataset:
    import minari

    folder = Path(source)
    for place in (folder / "data", folder):
        if (place / "metadata.json").is_file():
            return minari.MinariDataset(place)
    if not _is_id(source):
        raise DatasetError(
            f"{source}: no folder of a Minari dataset (none has metadata.json), and no Minari id "
            "either, which reads 'namespace/name-v0'"
        )
    ids = local_ids()
    if source in ids:
        return minari.load_dataset(source)
    if download:
        return minari.load_dataset(source, download=True)
    from minari.storage import get_dataset_path

    raise DatasetError(
        f"{source}: not on this machine (Minari looks in {get_dataset_path()}, which holds "
        f"{', '.join(ids[:8]) or 'nothing'}). To fetch it, ask: read_minari({source!r}, "
        f"download=True), or `minari download {source}`"
    )


def _is_id(source: str) -> bool:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(source)
    except (ValueError, TypeError):  # Minari trips over an id without a version
        return False
    return True


def _add(columns: Mapping[str, list[Any]], episode: Any, keys: tuple[str, ...], name: str) -> None:
    try:
        observed = flatten(episode.observations, keys)
    except ValueError as error:
        raise DatasetError(f"{name}: episode {episode.id}: {error}") from None
    steps = len(episode.rewards)
    if len(observed) != steps + 1:
        raise DatasetError(
            f"{name}: episode {episode.id}: wanted {steps + 1} observations for {steps} rewards, "
            f"got {len(observed)}"
        )
    columns["observations"].append(observed[:-1])
    columns["next_observations"].append(observed[1:])
    columns["actions"].append(np.asarray(episode.actions, np.float32).reshape(steps, -1))
    columns["rewards"].append(np.asarray(episode.rewards, float))
    columns["terminals"].append(np.asarray(episode.terminations, bool))
    columns["ends"].append(np.arange(steps) == steps - 1)


def _success(infos: Any) -> bool | None:
    """Whether the goal was touched at any step; None where it was not recorded."""
    if not isinstance(infos, Mapping) or "success" not in infos:
        return None
    return bool(np.asarray(infos["success"]).any())


def _about(data: MinariDataset, keys: tuple[str, ...], spec: EnvSpec | None) -> dict[str, Any]:
    from minari.dataset.minari_storage import MinariStorage

    raw = MinariStorage.read_raw_metadata(data.storage.data_path)
    skip = {"observation_space", "action_space", "dataset_id"}
    about: dict[str, Any] = {name: value for name, value in raw.items() if name not in skip}
    return {
        "source": f"Minari {data.id}",
        "env": spec.id if spec else None,
        "observation keys": list(keys),
        "minari": about,
    }


def write_minari(
    dataset: Dataset,
    dataset_id: str,
    *,
    env: str | EnvSpec | None,
    author: str,
    author_email: str,
    description: str,
    algorithm: str,
    code: str,
    references: tuple[float, float] | None = None,
    requirements: Iterable[str] = (),
) -> None:
    """Make a local Minari dataset, whole or not at all.

    Observations are written flat. `references` (min, max) let Minari normalise scores; `env` lets
    it recover the environment.

    Raises:
        DatasetError: When the id is not "local/...-v<number>", or exists already, or an episode
            is not one chain of observations.
    """
    import minari

    if not dataset_id.startswith("local/") or not _is_id(dataset_id):
        raise DatasetError(
            f"dataset_id: wanted 'local/<name>-v0' (other names are for published data), "
            f"got {dataset_id!r}"
        )
    from minari.storage import get_dataset_path

    folder = get_dataset_path(dataset_id)
    if folder.exists():
        raise DatasetError(f"dataset_id: {dataset_id!r} exists already, in {folder}")
    _check_writable(dataset)
    staged = f"{dataset_id.rsplit('-v', 1)[0]}-partial-{os.getpid()}-v0"
    staged_folder = get_dataset_path(staged)
    shutil.rmtree(staged_folder, ignore_errors=True)
    try:
        with warnings.catch_warnings():  # of metadata that does not exist: no eval_env, no env
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # of v4, which D4RL's data need
            minari.create_dataset_from_buffers(
                dataset_id=staged,
                buffer=_buffers(dataset),
                env=env,
                observation_space=_box(dataset.observations, dataset.next_observations),
                action_space=_box(dataset.actions),
                algorithm_name=algorithm,
                author=author,
                author_email=author_email,
                code_permalink=code,
                description=description,
                requirements=list(requirements) or None,
            )
        _rename(staged_folder, folder, dataset_id, references)
    finally:
        shutil.rmtree(staged_folder, ignore_errors=True)


def _check_writable(dataset: Dataset) -> None:
    if dataset.last_rewards is not None:
        raise DatasetError(
            "last_rewards: Minari needs an observation after every step; these were not recorded"
        )
    inside = np.flatnonzero(~dataset.ends[:-1])
    same = dataset.next_observations[inside] == dataset.observations[inside + 1]
    if not same.all():
        row = int(inside[~same.all(axis=1)][0])
        raise DatasetError(
            f"next_observations: Minari holds one chain of observations an episode, but row {row} "
            "has another next observation than the row below observed"
        )


def _rename(
    staged: Path, folder: Path, dataset_id: str, references: tuple[float, float] | None
) -> None:
    """Give the finished dataset its name: until then nothing answers to it."""
    from posttrain.files import read_json, write_json

    file = staged / "data" / "metadata.json"
    metadata = {**read_json(file), "dataset_id": dataset_id}
    if references is not None:
        metadata |= {"ref_min_score": references[0], "ref_max_score": references[1]}
    write_json(file, metadata)
    staged.rename(folder)


def _buffers(dataset: Dataset) -> list[Any]:
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for index, (start, stop) in enumerate(zip(dataset.starts, dataset.stops, strict=True)):
        steps = slice(start, stop)
        last = np.arange(start, stop) == stop - 1
        whole = dataset.incomplete is None or not dataset.incomplete[index]
        won = None if dataset.success is None else bool(dataset.success[index])
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=np.concatenate(
                    [dataset.observations[steps], dataset.next_observations[stop - 1 : stop]]
                ),
                actions=dataset.actions[steps],
                rewards=dataset.rewards[steps],
                terminations=dataset.terminals[steps],
                truncations=last & whole & ~dataset.terminals[steps],
                infos=None if won is None else {"success": last & won},
            )
        )
    return buffers


def _box(*rows: npt.NDArray[np.float32]) -> Any:
    """A space as wide as float32: bounds of the task belong to its environment."""
    from gymnasium.spaces import Box

    return Box(-np.inf, np.inf, shape=rows[0].shape[1:], dtype=np.float32)
