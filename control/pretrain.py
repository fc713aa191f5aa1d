"""Offline training of pi_0 on D: every seed of a setting as a member of one population."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from control import agent as agents
from control import algorithms, checkpoint
from control.agent import Agent
from control.bc import misfit
from control.datasets.dataset import Dataset
from control.experience import rows_of, seeds_of, set_normalization_
from control.learner import Learner
from control.settings import ControlRecipe
from control.storage import Share, Storage, indices
from posttrain import progress
from posttrain.record import MetricsLog

PROBED = 1_024
"""Rows of D on which the policy's fit is logged; the same for every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainRun:
    """One member: a seed and where it writes."""

    seed: int
    folder: Path
    """Checkpoints."""
    out: Path
    """The agent, at the end."""
    log: MetricsLog


def pretrain(dataset: Dataset, recipe: ControlRecipe, runs: Sequence[PretrainRun]) -> None:
    """Train a population of agents on D, or go on where it was killed.

    Raises:
        ValueError: the algorithm cannot train this kind of policy.
    """
    for together in _in_step(runs):
        _pretrain(dataset, recipe, together)


def _in_step(runs: Sequence[PretrainRun]) -> list[list[PretrainRun]]:
    """Members that were killed at different steps go on apart."""
    found: dict[int | None, list[PretrainRun]] = {}
    for run in runs:
        found.setdefault(checkpoint.step_of(run.folder), []).append(run)
    return list(found.values())


def fresh(
    recipe: ControlRecipe, dataset: Dataset, seeds: Sequence[int], *, offline: bool = True
) -> Agent:
    """An agent as it is before the first update of pretraining (of fine-tuning otherwise).

    Args:
        recipe: networks and algorithms.
        dataset: for the sizes, and for the normalisation.
        seeds: of the runs, one a member.
        offline: which of the two algorithms.
    """
    if offline:
        settings = recipe.pretrain.algorithm
    elif recipe.finetune is not None:
        settings = recipe.finetune.algorithm
    else:
        raise ValueError("finetune: the recipe does none")
    observation, action = dataset.observations.shape[1], dataset.actions.shape[1]
    agent = algorithms.build(settings, recipe.networks, observation, action, len(seeds))
    purpose = "weights" if offline else "fine-tuning weights"
    agent = agent.to(recipe.device).draw_([seeds_of(s, purpose)[0] for s in seeds])
    if recipe.pretrain.normalize:
        set_normalization_(agent, dataset)
    return agent


def _pretrain(dataset: Dataset, recipe: ControlRecipe, runs: Sequence[PretrainRun]) -> None:
    settings = recipe.pretrain
    agent = fresh(recipe, dataset, [run.seed for run in runs])
    views = [agent.member(m) for m in range(len(runs))]
    noise = [seeds_of(run.seed, "pretraining noise")[0] for run in runs]
    learner = algorithms.start(settings.algorithm, agent, views, noise)
    rows = rows_of(dataset, agent, recipe.dataset, settings.algorithm)
    storage = Storage(agent.observation, agent.action, data=rows, members=len(runs),
                      device=recipe.device)  # fmt: skip
    begun = 0
    if (done := checkpoint.step_of(runs[0].folder)) is not None:
        begun = done
        for m, run in enumerate(runs):
            checkpoint.restore(
                run.folder, m=m, view=views[m], steppers=learner.steppers,
                streams={"learner": learner.streams},
            )  # fmt: skip
    for run in runs:
        run.log.truncate_after(begun)
    with progress.bar("pretraining on D", settings.steps) as bar:
        _updates(learner, storage, recipe, runs, begun=begun, tick=bar.update,
                 keep=lambda step: _save(learner, views, runs, step))  # fmt: skip
    for run, view in zip(runs, views, strict=True):
        agents.save(view, run.out, algorithm=settings.algorithm.kind, seed=run.seed)


def _updates(
    learner: Learner,
    storage: Storage,
    recipe: ControlRecipe,
    runs: Sequence[PretrainRun],
    *,
    begun: int,
    tick: Callable[[int], None],
    keep: Callable[[int], None],
) -> None:
    settings = recipe.pretrain
    every = (True,) * len(runs)
    delay = algorithms.delay_of(settings.algorithm)
    own = np.random.default_rng(0)
    shares = [Share(1.0, seeds_of(run.seed, "pretraining rows")[0], own) for run in runs]
    saves = max(settings.steps // 4, 2_000)
    for step in range(begun, settings.steps):
        index = indices(
            storage, shares, updates=[step] * len(runs), batch=settings.batch, active=every
        )
        turn = (step + 1) % delay == 0
        metrics = learner.update(storage.gather(index), critic=every, actor=every if turn else None)
        done = step + 1
        if done % settings.log_every == 0 or done == settings.steps:
            fit = _fit(learner.agent, storage)
            for m, run in enumerate(runs):
                values = {k: float(v[m]) for k, v in metrics.items()}
                run.log.append(
                    {"step": done, "regime/nll_on_data": fit[m], **values}, nan_as_null=True
                )
        if done % saves == 0 and done < settings.steps:
            keep(done)
        tick(done)


@torch.no_grad()
def _fit(agent: Agent, storage: Storage) -> list[float]:
    """How badly each policy explains some rows of D: nats an action, or a squared distance."""
    index = np.random.default_rng(0).integers(
        storage.data_size, size=min(PROBED, storage.data_size)
    )
    batch = storage.gather(np.tile(index, (agent.members, 1)))
    return [float(x) for x in misfit(agent.actor(batch.observations), batch.actions).mean(-1)]


def _save(learner: Learner, views: Sequence[Agent], runs: Sequence[PretrainRun], step: int) -> None:
    for m, run in enumerate(runs):
        checkpoint.save(
            run.folder, step=step, m=m, view=views[m], steppers=learner.steppers,
            streams={"learner": learner.streams}, facts={},
        )  # fmt: skip
