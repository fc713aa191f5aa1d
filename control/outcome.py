"""What did fine-tuning change? The tuned policy on the starts on which pi_0 was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from control.datasets.dataset import Dataset
from control.diagnosis import PREFIX, rollouts
from control.handover import rival_of
from control.rollout import scores
from control.work import Work, alone, together
from posttrain.outcome import gain, unit_means
from posttrain.record import write_json
from posttrain.regime.decomposition import decompose
from posttrain.regime.scores import Scores, write_scores


def measure(works: Sequence[Work], dataset: Dataset) -> None:
    """Play every fine-tuned policy, and write what became of pi_0."""
    recipe = works[0].recipe
    agent = together([work.record.rl for work in works], device=recipe.device)
    rival = None
    if recipe.finetune is not None and recipe.finetune.proposal != "none":
        pi0 = together([work.pi0 for work in works], device=recipe.device)
        rival = rival_of(recipe.finetune, pi0)
    played = rollouts(works, agent, title="after RL", rival=rival)
    returns = dataset.scores(works[0].recipe.env.score)
    for work, episodes in zip(works, played, strict=True):
        with alone(work):
            after = scores(episodes, work.recipe.env, source="policy", prefix=PREFIX)
            write_scores(after, work.record.outcome_scores_file)
            write_json(work.record.outcome_file, outcome(work, after, returns), nan_as_null=True)


def outcome(work: Work, after: Scores, dataset: Scores) -> dict[str, Any]:
    """The gain paired by start, and the curve's decomposition.

    Args:
        work: with pi_0's scores and the curve in its record.
        after: returns of the fine-tuned policy.
        dataset: returns of D.

    Raises:
        ValueError: pi_0 was not measured.
    """
    table = work.record.scores()
    if table is None:
        raise ValueError(f"{work.record.path}: no scores of pi_0")
    settings = work.recipe.diagnose
    rows = work.curve.read()
    parts = decompose(
        [np.array(row["return"]) for row in rows],
        units=[row["unit"] for row in rows],
        prior_dataset=list(unit_means(dataset.rows()).values()),
        steps=[row["step"] for row in rows],
        rng=np.random.default_rng(work.recipe.seed),
    )
    return {
        **gain(
            table.where(source="policy"),
            after,
            alpha=settings.alpha,
            scale=settings.scale if settings.bounded else None,
        ),
        "decoding": "with noise" if settings.noise else "without noise",
        "deployment": None,
        "decomposition": parts.to_dict(),
    }
