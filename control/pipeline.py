"""A control run from start to finish: data, pretraining, diagnosis, plan, fine-tuning, outcome.

Runs of one setting that differ in seed or plan are the members of one population: they share every
batched product and end as they would have ended alone. Each stage leaves its files in the run's
record and a marker; a killed run starts again at the first stage without one, and inside it where
it stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from control import data
from control.diagnosis import named_plan
from control.settings import ControlRecipe
from control.stages import STAGES as _STAGES
from control.work import Work, alone, sound
from posttrain import recipe as recipes
from posttrain.record import Record, fingerprint, locked
from posttrain.start import Taken, take

STAGES = tuple(_STAGES)
TAKEN = Taken(
    shared=("env", "dataset", "networks", "pretrain", "diagnose", "seed"),
    stages=("data", "pretrain", "sample"),
    files=(
        "data/dataset.hdf5", "data/dataset.json", "sft_metrics.jsonl", "integrity.json",
        "rollouts/pi0.hdf5", "scores.parquet", "alternatives.json",
    ),
    folders=("pi0",),
)  # fmt: skip
"""What a run takes over from another of the same setting."""


def run(recipe: ControlRecipe, *, fresh: bool = False, stop_after: str | None = None) -> Path:
    """Run the stages that are not finished yet, and return the record's folder.

    Raises:
        ValueError: the recipe, its data, its environment or its plan cannot be used.
    """
    (found,) = run_many([recipe], fresh=fresh, stop_after=stop_after)
    if isinstance(found, Exception):
        raise found
    return found


def run_many(
    recipes_of: Sequence[ControlRecipe], *, fresh: bool = False, stop_after: str | None = None
) -> list[Path | Exception]:
    """Run recipes of one setting together.

    Args:
        recipes_of: with one `group_key`, and different folders.
        fresh: delete what an earlier run left in the folders.
        stop_after: the last stage to run.

    Returns:
        For each, its record's folder, or why it could not go on; the others go on without it.

    Raises:
        ValueError: the recipes differ in more than they may, or there is no such stage.
    """
    if stop_after is not None and stop_after not in STAGES:
        raise ValueError(f"--stop-after: wanted one of {', '.join(STAGES)}, got {stop_after!r}")
    _require_one_setting(recipes_of)
    if recipes_of and recipes_of[0].threads:
        torch.set_num_threads(recipes_of[0].threads)
    works = [
        Work(recipe, Record(folder_of(recipe)), fingerprint(recipes.dump(recipe)))
        for recipe in recipes_of
    ]
    with ExitStack() as locks:
        for work in works:
            with alone(work):
                _begin(work, locks, fresh=fresh)
        _run_stages(works, stop_after=stop_after)
    return [work.error if work.error is not None else work.record.path for work in works]


def group_key(recipe: ControlRecipe) -> Hashable:
    """What must be equal for runs to be trained together.

    Everything but the name, the seed, where it is written, the plan, and where it starts from.
    """
    shared = replace(
        recipe, name="any", seed=0, output="", interventions="prescribed", start_from=None
    )
    return recipes.dump(shared)


def folder_of(recipe: ControlRecipe) -> Path:
    """Where the record lies."""
    return Path(recipe.output) / recipe.name


def _require_one_setting(recipes_of: Sequence[ControlRecipe]) -> None:
    if len({group_key(recipe) for recipe in recipes_of}) > 1:
        names = ", ".join(recipe.name for recipe in recipes_of)
        raise ValueError(
            f"{names}: only runs that are equal but for name, seed, output, interventions and "
            "start_from can be trained together"
        )
    folders = [folder_of(recipe) for recipe in recipes_of]
    if len(set(folders)) < len(folders):
        raise ValueError(f"two runs would write to one folder: {', '.join(map(str, folders))}")


def _begin(work: Work, locks: ExitStack, *, fresh: bool) -> None:
    """Claim a record, refuse a plan that cannot be carried out, and take what another run made."""
    folder = work.record.path
    named_plan(work.recipe)
    locks.enter_context(locked(folder.parent / f".{folder.name}.lock", wait=False))
    text = recipes.dump(work.recipe)
    work.record.begin(text, seed=work.recipe.seed, fresh=fresh, free=("output",))
    if work.recipe.start_from is not None:
        plain = recipes.read(text)
        take(work.record, plain, Path(work.recipe.start_from), TAKEN, mark=work.mark)


def _run_stages(works: Sequence[Work], *, stop_after: str | None) -> None:
    @functools.cache
    def load() -> data.Source:
        return data.read(works[0].recipe, next(w.record for w in works if w.error is None))

    for name, stage in _STAGES.items():
        todo = [w for w in sound(works) if not w.record.done(name, fingerprint=w.mark)]
        if todo:
            try:
                stage(todo, load)
            except Exception as error:  # it stops all who were in it
                for work in sound(todo):
                    work.error = error
        for work in sound(todo):
            work.record.mark(name, fingerprint=work.mark)
        if name == stop_after:
            break
