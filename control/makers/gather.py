"""How does a behaviour become a dataset that one seed makes again, bit for bit?"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeAlias

import numpy as np

from control.datasets.dataset import Dataset
from control.environments import EnvError, Flat
from control.rollout import Act, Episode, dataset_of, play
from control.settings import EnvSettings

__all__ = ["Behaviour", "episode_seed", "gather", "local_dataset", "local_name"]

Behaviour: TypeAlias = Callable[[Sequence[int]], Act]
"""From the seeds of some episodes to a policy that plays them."""

_PACKAGES: Final = ("gymnasium", "gymnasium-robotics", "mujoco", "numpy")


def episode_seed(seed: int, index: int) -> int:
    """The seed of one episode of a dataset: the first ones do not depend on how many follow."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def local_name(settings: EnvSettings, quality: str, name: str | None) -> str:
    """The name asked for, or one made of the environment and the quality.

    Raises:
        EnvError: A name that could be taken for somebody else's data.
    """
    if name is None:
        return f"local/{(settings.maze or settings.id).lower()}-{quality}"
    if not name.startswith("local/"):
        raise EnvError(f"name: wanted local/..., got {name!r}: data made here bear no other's name")
    return name


def gather(
    behaviour: Behaviour,
    settings: EnvSettings,
    *,
    envs: Sequence[Flat],
    seed: int,
    episodes: int | None = None,
    decisions: int | None = None,
) -> list[Episode]:
    """Play whole episodes, so many or until there are so many decisions.

    Args:
        behaviour: Who acts.
        settings: Where.
        envs: From `players`, by the same settings.
        seed: Decides everything.
        episodes: How many.
        decisions: At least so many: the last episode is kept whole.

    Raises:
        EnvError: Both or neither of `episodes` and `decisions` are given, or not positive.
    """
    wanted = episodes if decisions is None else decisions
    if (episodes is None) == (decisions is None) or wanted is None or wanted < 1:
        raise EnvError(
            "episodes, decisions: wanted one of them, at least 1, got "
            f"episodes={episodes}, decisions={decisions}"
        )
    whole: list[Episode] = []
    while True:
        size = _block(whole, envs, episodes=episodes, decisions=decisions)
        if size <= 0:
            break
        seeds = [episode_seed(seed, len(whole) + i) for i in range(size)]
        whole += play(behaviour(seeds), settings, seeds, envs=envs)
    if decisions is None:
        return whole
    enough = int(np.cumsum([len(episode) for episode in whole]).searchsorted(decisions))
    return whole[: enough + 1]


def _block(
    whole: list[Episode], envs: Sequence[Flat], *, episodes: int | None, decisions: int | None
) -> int:
    """How many episodes to play next: one round of all environments at least, none to stop."""
    if episodes is not None:
        return episodes - len(whole)
    left = (decisions or 0) - sum(len(episode) for episode in whole)
    if left <= 0:
        return 0
    return len(envs) * math.ceil(left / _horizon(envs) / len(envs))


def _horizon(envs: Sequence[Flat]) -> int:
    spec = envs[0].spec
    assert spec is not None  # noqa: S101 - `make` has looked
    assert spec.max_episode_steps is not None  # noqa: S101
    return spec.max_episode_steps


def local_dataset(
    episodes: Sequence[Episode],
    settings: EnvSettings,
    *,
    name: str,
    envs: Sequence[Flat],
    about: Mapping[str, Any],
) -> Dataset:
    """Lay episodes out, with all that is needed to make them again."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts = {
        "source": "made here",
        "env": asdict(settings),
        "horizon": _horizon(envs),
        "success": "the environment reported success at any step of the episode",
        "versions": versions,
    }
    return dataset_of(episodes, name=name, about={**facts, **about})
