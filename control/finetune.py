"""Online fine-tuning of pi_0 under a plan: every run of a setting as a member of one population."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from control import agent as agents
from control import checkpoint
from control.datasets.dataset import Dataset
from control.handover import FinetuneRun, algorithm_of
from control.learner import Metrics
from control.population import Population
from control.settings import ControlRecipe
from posttrain import progress

__all__ = ["FinetuneRun", "algorithm_of", "finetune", "steps"]


def finetune(dataset: Dataset, recipe: ControlRecipe, runs: Sequence[FinetuneRun]) -> None:
    """Fine-tune a population, or go on where it was killed.

    Raises:
        PlanError: a plan asks for what the algorithm cannot do.
        WrongReferenceError: the reference of an anchor is not pi_0.
        ValueError: pi_0 does not fit the networks of the recipe.
    """
    apart: dict[int | None, list[FinetuneRun]] = {}
    for run in runs:
        apart.setdefault(checkpoint.step_of(run.folder), []).append(run)
    for begun, together in apart.items():
        for _ in steps(dataset, recipe, together, begun=begun):
            pass


def steps(
    dataset: Dataset, recipe: ControlRecipe, runs: Sequence[FinetuneRun], *, begun: int | None
) -> Iterator[Metrics]:
    """Fine-tune members that stand at the same step, yielding the metrics of every step."""
    settings = recipe.finetune
    if settings is None:
        raise ValueError("finetune: the recipe does none")
    population = Population.start(dataset, recipe, settings, runs)
    with population.playing():
        if begun is None:
            population.begin()
        else:
            population.resume()
        with progress.bar("fine-tuning", settings.steps) as bar:
            for step in range(population.step, settings.steps):
                yield population.advance()
                bar.update(step + 1)
    kind = algorithm_of(settings, recipe).kind
    for m, run in enumerate(runs):
        agents.save(population.views[m], run.out, algorithm=kind, seed=run.seed)
