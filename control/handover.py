"""What does fine-tuning start from? A pretrained agent, a plan, and an algorithm for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from control import agent as agents
from control import algorithms
from control.agent import Agent
from control.algorithm_settings import AlgorithmSettings, BcSettings, Td3BcSettings, Td3Settings
from control.datasets.dataset import Dataset
from control.experience import seeds_of
from control.learner import Learner
from control.proposal import Rival
from control.sac import Sac
from control.settings import ControlRecipe, FinetuneSettings
from control.td3 import Td3
from posttrain.intervention.plan import Plan
from posttrain.record import MetricsLog


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRun:
    """One member: a seed, a plan, where it starts and where it writes."""

    seed: int
    plan: Plan
    pi0: Path
    """Folder of the pretrained agent."""
    folder: Path
    """Checkpoints."""
    out: Path
    """The fine-tuned agent, at the end."""
    log: MetricsLog
    curve: MetricsLog
    """One row an evaluation: step, units and their returns."""
    prior: float
    """J*_off."""
    scale: tuple[float, float] | None
    """The range of a return; None where it is not bounded."""
    alpha: float
    episodes: Path
    """The diagnosis' rollouts of pi_0."""
    eval_seeds: tuple[int, ...]
    """Starts of the episodes on which J(pi_n) is measured, those of the diagnosis."""


def rival_of(settings: FinetuneSettings, reference: Agent) -> Rival | None:
    """The frozen pi_0 as a proposer of actions, where the recipe wants one."""
    return None if settings.proposal == "none" else Rival(reference, settings.proposal)


def give_rival(learner: Learner, rival: Rival | None) -> None:
    """Let a learner's targets count on what the rival proposes.

    Raises:
        ValueError: the algorithm's target asks no policy.
    """
    if rival is None:
        return
    if not isinstance(learner, Td3 | Sac):
        raise ValueError(  # noqa: TRY004 - a bad recipe, not a bad call
            f"finetune.proposal: {rival.kind!r} needs the algorithm td3 or sac without a "
            f"regulariser, got {type(learner).__name__}"
        )
    learner.rival = rival


def algorithm_of(settings: FinetuneSettings, recipe: ControlRecipe) -> AlgorithmSettings:
    """What fine-tuning trains with: RL, RL with the regulariser of pretraining, or neither.

    Raises:
        ValueError: cloning is to be kept online around something else than TD3.
    """
    if settings.supervised == "bc":
        return BcSettings()
    if settings.supervised == "offline":
        return recipe.pretrain.algorithm
    if settings.regulariser == "drop":
        return settings.algorithm
    if not isinstance(recipe.pretrain.algorithm, BcSettings):
        return recipe.pretrain.algorithm
    if not isinstance(settings.algorithm, Td3Settings):
        raise ValueError(  # noqa: TRY004 - a bad recipe, not a bad call
            "finetune.regulariser: cloning is kept online as TD3+BC, which needs the algorithm "
            f"td3, got {settings.algorithm.kind!r}; an anchor with term 'bc' does the same for it"
        )
    return Td3BcSettings(td3=settings.algorithm)


def agents_of(
    dataset: Dataset,
    recipe: ControlRecipe,
    settings: FinetuneSettings,
    runs: Sequence[FinetuneRun],
) -> tuple[Agent, Agent]:
    """The members with pi_0's weights, and the frozen pi_0 itself."""
    algorithm = algorithm_of(settings, recipe)
    sizes = (dataset.observations.shape[1], dataset.actions.shape[1], len(runs))
    agent = algorithms.build(algorithm, recipe.networks, *sizes).to(recipe.device)
    agent.draw_([seeds_of(run.seed, "fine-tuning weights")[0] for run in runs])
    reference = algorithms.build(BcSettings(), recipe.networks, *sizes).to(recipe.device)
    for m, run in enumerate(runs):
        pretrained = agents.load(run.pi0)
        for into in (agent.member(m), reference.member(m)):
            agents.hand_over_(pretrained, into, critic=settings.critic == "keep")
            for mine, theirs in ((agent.center, into.center), (agent.scale, into.scale)):
                if m and not torch.equal(mine, theirs):
                    raise ValueError(
                        f"{run.pi0}: its observations are normalised differently from those of "
                        f"{runs[0].pi0}; fine-tune the two apart"
                    )
            for one in (agent, reference):
                one.center.copy_(into.center)
                one.scale.copy_(into.scale)
    return agent, reference.requires_grad_(False)
