"""Which is better, pi_0 or D? What pi_0 returns, the regime that follows, and the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from control import data
from control.acting import act_of, choice
from control.agent import Agent
from control.algorithms import exploration_of
from control.data import Source
from control.datasets.dataset import Dataset
from control.datasets.hdf5 import write_hdf5
from control.intervene import honour
from control.proposal import Rival
from control.rollout import Episode, Streams, dataset_of, play, scores
from control.settings import ControlRecipe
from control.work import Work, alone, together
from posttrain import progress
from posttrain.intervention.capabilities import CONTROL_SAC, CONTROL_TD3
from posttrain.intervention.plan import Plan, chain, plan_from_dict
from posttrain.intervention.prescription import prescribe
from posttrain.record import write_json, write_text
from posttrain.regime import Diagnosis, Flag, Scores, concat
from posttrain.regime import diagnose as diagnose_scores
from posttrain.regime.scores import write_scores
from posttrain.terminal import describe

PREFIX = "start"
"""A unit is a start of the environment: pi_0 and what becomes of it meet there."""
ENVS = 8


def sample(works: Sequence[Work], dataset: Dataset) -> None:
    """Let the pi_0 of every run play its own starts, and put the returns beside D's."""
    agent = together([work.pi0 for work in works], device=works[0].recipe.device)
    played = rollouts(works, agent, title="pi_0 plays")
    for work, episodes in zip(works, played, strict=True):
        with alone(work):
            recipe = work.recipe
            name = f"rollouts/{recipe.name}"
            write_hdf5(dataset_of(episodes, name=name), work.rollouts)
            mine = scores(episodes, recipe.env, source="policy", prefix=PREFIX)
            table = side_by_side(mine, dataset.scores(recipe.env.score))
            write_scores(table, work.record.scores_file)


def rollouts(
    works: Sequence[Work], agent: Agent, *, title: str, rival: Rival | None = None
) -> list[list[Episode]]:
    """Play every run's starts by its member, all in one batch of environments.

    Args:
        works: of one setting.
        agent: one member a run.
        title: of the bar.
        rival: who proposes actions beside the members.

    Returns:
        Episodes of each run, in the order of its starts.
    """
    recipe = works[0].recipe
    seeds = [seed for work in works for seed in work.starts()]
    count = recipe.diagnose.episodes
    noise = Streams(seeds) if recipe.diagnose.noise else None
    spread = None
    if recipe.diagnose.noise and recipe.finetune is not None:
        spread = exploration_of(recipe.finetune.algorithm)
    members = np.repeat(np.arange(len(works)), count)
    act = act_of(agent, members, noise=noise, spread=spread, choose=choice(rival))
    with progress.bar(title, len(seeds)) as bar:
        found = play(act, recipe.env, seeds, envs=min(ENVS * len(works), 64), tick=bar.update)
    return [found[i * count : (i + 1) * count] for i in range(len(works))]


def side_by_side(policy: Scores, dataset: Scores) -> Scores:
    """Both sides as one table; success is left out where only one side knows it."""
    sides = [policy, dataset]
    if any(side.success is None for side in sides):
        sides = [replace(side, success=None) for side in sides]
    return concat(*sides)


def diagnose(work: Work, source: Source) -> None:
    """Tell a run's regime from its scores, and write its plan.

    Raises:
        ValueError: returns outside the scale, or a plan that the learner cannot carry out.
    """
    found = verdict(work, source)
    write_text(work.record.diagnosis_file, found.to_json() + "\n")
    stored = plan_record(work.recipe, found)
    plan = plan_from_dict(stored["plan"])
    write_json(work.record.plan_file, stored)
    progress.say(f"{work.recipe.name}: {found.sentence}")
    told = describe(plan).replace("\n", "; ")
    progress.say(f"Plan ({plan.family}): {told}. {stored['reason']}")


def verdict(work: Work, source: Source) -> Diagnosis:
    """The diagnosis of a run's scores.

    The horizon is part of a control task, so that an episode which it ends is whole: only a
    recording that stopped in mid-episode has no return.
    """
    table = work.record.scores()
    if table is None:
        raise ValueError(f"{work.record.scores_file}: no scores were written")
    whole = replace(table, truncated=None)
    settings = work.recipe.diagnose
    return diagnose_scores(
        whole.where(source="policy"),
        whole.where(source="dataset"),
        margin=settings.margin,
        alpha=settings.alpha,
        scale=settings.scale,
        bounded=settings.bounded,
        extra_flags=_flags(work, source),
    )


def _flags(work: Work, source: Source) -> tuple[Flag, ...]:
    flags = []
    known: Mapping[str, Any] = work.record.integrity() or {}
    if known.get("converged") is False:
        flags.append(Flag("sft_not_converged", str(known["text"])))
    if work.recipe.dataset.only_success:
        score = work.recipe.env.score
        before, after = (data.mean_score(d, score) for d in (source.whole, source.chosen))
        flags.append(
            Flag(
                "success_filtered",
                f"Of {source.whole.episodes:,} episodes {source.chosen.episodes:,} that succeed "
                f"were kept: J(D) is {after:.3g} after the filter and was {before:.3g} before.",
            )
        )
    return tuple(flags)


def plan_record(recipe: ControlRecipe, diagnosis: Diagnosis) -> dict[str, Any]:
    """What `plan.json` holds: the plan to run, why, and what came next.

    Raises:
        ValueError: the recipe's plan is nothing that the learner can carry out.
    """
    learner = CONTROL_TD3 if recipe.networks.policy == "deterministic" else CONTROL_SAC
    steps = recipe.finetune.steps if recipe.finetune is not None else 100
    first, *others = (p.to_dict() for p in prescribe(diagnosis, learner, steps=steps))
    if recipe.interventions == "prescribed":
        return {**first, "source": "prescribed", "alternatives": others}
    return {
        "plan": named_plan(recipe).to_dict(),
        "reason": "the recipe names this plan",
        "source": "recipe",
        "alternatives": [first, *others],
    }


def named_plan(recipe: ControlRecipe) -> Plan:
    """The plan that a recipe names; plain RL where it leaves the choice to the diagnosis.

    Raises:
        PlanError: a sentence a field that the learner cannot carry out.
    """
    if recipe.interventions == "prescribed":
        return Plan()
    plan = chain(*recipe.interventions)(Plan())
    honour(plan, policy=recipe.networks.policy)
    return plan
