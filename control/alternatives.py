"""What would other rules have said? The critic's own values, and the return of a clone of D.

The paper compares its rule, J(pi_0) against J(D) by rollouts, with two others and finds them weaker
(arXiv 2510.01460, section 5): the values that pi_0's critic gives to pi_0's actions and to D's, and
the return of a clone of D in place of J(D). It does not print either rule in full, so both are our
reading: values are means over rows of D and over the ensemble, divided by the range of D's
discounted returns; the clone has pi_0's networks and as many updates of as many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from control.agent import Agent
from control.algorithm_settings import (
    AlgorithmSettings,
    BcSettings,
    CqlSettings,
    IqlSettings,
    Td3BcSettings,
)
from control.datasets.dataset import Dataset
from control.diagnosis import rollouts
from control.experience import rows_of
from control.pretrain import PretrainRun, pretrain
from control.rollout import scores
from control.storage import Storage
from control.work import Work, together
from posttrain.record import MetricsLog, write_json

ROWS = 10_000
"""Of D, at most, on which values are averaged."""


def measure(works: Sequence[Work], dataset: Dataset) -> None:
    """Write `alternatives.json` of every run.

    It holds {"q": {"policy", "dataset", "scale"}, "bc": {"j"}}: mean values of pi_0's actions and
    of D's, the range of D's discounted returns, and the clone's return. "q" is null where pi_0 has
    no critic.
    """
    pi0 = together([work.pi0 for work in works], device=works[0].recipe.device)
    values = critic_values(pi0, dataset, works[0])
    returns = clone_returns(works, dataset)
    for work, q, j in zip(works, values, returns, strict=True):
        write_json(work.alternatives, {"q": q, "bc": {"j": j}})


@torch.no_grad()
def critic_values(pi0: Agent, dataset: Dataset, work: Work) -> list[dict[str, Any] | None]:
    """Mean values of pi_0's actions and of D's, in scaled, discounted rewards, a member each."""
    if pi0.critic is None:
        return [None] * pi0.members
    algorithm = work.recipe.pretrain.algorithm
    packed = rows_of(dataset, pi0, work.recipe.dataset, algorithm)
    storage = Storage(
        pi0.observation, pi0.action, data=packed, members=pi0.members, device=work.recipe.device
    )
    chosen = np.random.default_rng(0).permutation(len(dataset))[:ROWS]
    batch = storage.gather(np.tile(np.sort(chosen), (pi0.members, 1)))
    own = pi0.critic(batch.observations, pi0.actor(batch.observations).mode())
    given = pi0.critic(batch.observations, batch.actions)
    scale = float(np.ptp(packed[:, pi0.observation + pi0.action + 2].numpy()))
    return [
        {"policy": float(own[m].mean()), "dataset": float(given[m].mean()), "scale": scale}
        for m in range(pi0.members)
    ]


def clone_returns(works: Sequence[Work], dataset: Dataset) -> list[float]:
    """J of a clone of D for every run, on pi_0's starts."""
    recipe = works[0].recipe
    cloning = replace(
        recipe,
        pretrain=replace(
            recipe.pretrain, algorithm=BcSettings(actor_lr=actor_rate(recipe.pretrain.algorithm)),
            path=None,
        ),
    )  # fmt: skip
    runs = [
        PretrainRun(
            seed=work.recipe.seed,
            folder=work.checkpoints("clone"),
            out=work.record.path / "clone",
            log=MetricsLog(work.record.path / "clone_metrics.jsonl"),
        )
        for work in works
    ]
    pretrain(dataset, cloning, runs)
    agent = together([run.out for run in runs], device=recipe.device)
    played = rollouts(works, agent, title="a clone of D plays")
    return [
        float(scores(episodes, recipe.env, prefix="start").returns.mean()) for episodes in played
    ]


def actor_rate(algorithm: AlgorithmSettings) -> float:
    """The learning rate that pi_0's policy had."""
    match algorithm:
        case Td3BcSettings():
            return algorithm.td3.actor_lr
        case CqlSettings():
            return algorithm.sac.actor_lr
        case IqlSettings():
            return algorithm.lr
        case _:
            return algorithm.actor_lr
