"""Which transitions does a recipe mean? Read or made once, cut to a part, and written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from control.datasets.dataset import Dataset, DatasetError
from control.datasets.success import filtered
from control.settings import (
    ControlRecipe,
    DataSettings,
    EnvSettings,
    RandomMaker,
    TrainedMaker,
    WaypointMaker,
)

if TYPE_CHECKING:
    from posttrain.record import Record

MADE = "dataset.hdf5"
"""In a record's `data` folder: data that were made for the run, all of them."""


@dataclass(frozen=True, slots=True)
class Source:
    """D before and after the recipe has chosen from it."""

    whole: Dataset
    chosen: Dataset


def read(recipe: ControlRecipe, record: Record) -> Source:
    """Give D to a stage: what was made lies in the record, what was read is read again.

    Raises:
        DatasetError: the data are not there, or nothing is left of them.
    """
    made = record.data / MADE
    whole = _read(made) if recipe.dataset.make is not None else _open(recipe.dataset)
    return Source(whole, choose(whole, recipe.dataset))


def _read(path: Path) -> Dataset:
    from control.datasets.hdf5 import read_hdf5

    return read_hdf5(path)


def _open(settings: DataSettings) -> Dataset:
    from control.datasets import open_dataset

    return open_dataset(str(settings.source))


def make(settings: DataSettings, env: EnvSettings) -> Dataset:
    """Make D as the recipe says; one seed decides all of it."""
    maker, seed = settings.make, settings.seed
    match maker:
        case WaypointMaker():
            from control.makers.waypoint import make_waypoint

            return make_waypoint(
                env,
                seed=seed,
                episodes=maker.episodes,
                decisions=maker.decisions,
                style=maker.style,
                noise=maker.noise,
                noise_probability=maker.noise_probability,
                one_sided=maker.one_sided,
            )
        case RandomMaker():
            from control.makers.random import make_random

            return make_random(env, seed=seed, episodes=maker.episodes, decisions=maker.decisions)
        case TrainedMaker():
            from control.makers.trained import make_trained

            return make_trained(env, maker, seed=seed)
        case _:
            raise ValueError("dataset.make: the recipe makes no data")


def choose(whole: Dataset, settings: DataSettings) -> Dataset:
    """Cut D to its successful episodes, and then to a random part, drawn by `dataset.seed`.

    Raises:
        DatasetError: success is asked for and unknown, or too few episodes are there.
    """
    kept = np.arange(whole.episodes)
    if settings.only_success:
        if whole.success is None:
            raise DatasetError(
                f"dataset.only_success: '{whole.name}' does not say which episodes succeeded"
            )
        kept = np.flatnonzero(whole.success)
    if settings.episodes is not None:
        if settings.episodes > len(kept):
            raise DatasetError(
                f"dataset.episodes: wanted {settings.episodes}, but '{whole.name}' has {len(kept)}"
                + (" that succeed" if settings.only_success else "")
            )
        order = np.random.default_rng(settings.seed).permutation(kept)
        kept = np.sort(order[: settings.episodes])
    if len(kept) < 2:
        raise DatasetError(
            f"dataset: a diagnosis needs at least 2 episodes, '{whole.name}' leaves {len(kept)}"
        )
    if len(kept) == whole.episodes:
        return whole
    rule = "episodes that succeed" if settings.only_success else "a random part"
    return filtered(whole, whole.take(kept), rule=rule)


def summary(source: Source, recipe: ControlRecipe) -> dict[str, Any]:
    """What D is, for `data/dataset.json`; J in the environment's own units, NaN where unknown."""
    score = recipe.env.score
    return {
        "name": source.chosen.name,
        "episodes": source.chosen.episodes,
        "rows": len(source.chosen),
        "score": score,
        "j": mean_score(source.chosen, score),
        "before": {
            "episodes": source.whole.episodes,
            "rows": len(source.whole),
            "j": mean_score(source.whole, score),
        },
        "only_success": recipe.dataset.only_success,
        "about": dict(source.chosen.about),
    }


def require_fit(name: str, sizes: tuple[int, int], env: EnvSettings) -> None:
    """Refuse what was made for another environment.

    Args:
        name: of the data or the agent, for the sentence.
        sizes: numbers that it observes and that an action of it has.
        env: the environment.

    Raises:
        ValueError: the environment has others.
    """
    from control.rollout import players

    with players(env, 1) as (one,):
        theirs = (len(one.reset(seed=0)[0]), one.actions)
    if sizes != theirs:
        raise ValueError(
            f"{name} observes {sizes[0]} numbers and acts with {sizes[1]}, but {env.id} gives "
            f"{theirs[0]} and takes {theirs[1]}"
        )


def mean_score(dataset: Dataset, score: Any) -> float:
    """J(D): the mean over its scorable episodes."""
    known = dataset.scores(score).scorable.returns
    return float(known.mean()) if len(known) else float("nan")
