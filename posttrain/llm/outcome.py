"""What did RL change? The fine-tuned policy on the units on which pi_0 was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain import progress
from posttrain.llm.data import Row
from posttrain.llm.measure import Records, never, one_a_unit
from posttrain.llm.reward import Judge
from posttrain.llm.sampling import Generator, rollouts
from posttrain.llm.settings import DiagnoseSettings, LlmRecipe
from posttrain.outcome import gain, unit_means
from posttrain.record import MetricsLog
from posttrain.regime.decomposition import decompose
from posttrain.regime.scores import Scores
from posttrain.tuning.world import World


def again(
    recipe: LlmRecipe,
    generate: Generator,
    judge: Judge,
    *,
    rows: Sequence[Row],
    before: Scores,
    folder: Path,
    world: World,
) -> Scores:
    """Roll the fine-tuned policy out on the units on which pi_0 was diagnosed."""
    drawn = {row["unit"] for row in before.where(source="policy", split="heldout").rows()}
    same = [row for row in one_a_unit(rows) if row.unit in drawn]
    found: Records = []
    for number, (name, decoding) in enumerate(
        (("rollout", recipe.rollout), ("deployment", recipe.deployment))
    ):
        greedy = decoding.temperature == 0
        with progress.bar(f"after RL, {name}", len(same), speak=world.main) as bar:
            found += rollouts(
                same,
                generate,
                judge,
                decoding,
                samples=1 if greedy else recipe.diagnose.samples,
                batch=recipe.diagnose.batch,
                seed=recipe.seed + 3 + number,
                folder=folder / name,
                enough=never,
                tick=bar.update,
                world=world,
                split="heldout",
                kind=name,
            )
    return Scores.from_rows(found)


def outcome(
    before: Scores,
    after: Scores,
    curve: MetricsLog,
    *,
    settings: DiagnoseSettings,
    seed: int,
) -> dict[str, Any]:
    """What RL changed on held-out units, under both decodings, and the curve's decomposition.

    Rollouts that were reused may lack the deployment decoding, and then its change.
    """
    pi0 = before.where(source="policy", split="heldout")
    deployed = pi0.where(decoding="deployment")
    data = unit_means(before.where(source="dataset", split="heldout").rows())
    rows = curve.read()
    common: dict[str, Any] = {"alpha": settings.alpha, "scale": settings.scale}
    parts = decompose(
        [np.array(row["return"]) for row in rows],
        units=[row["unit"] for row in rows],
        prior_dataset=list(data.values()),
        steps=[row["step"] for row in rows],
        rng=np.random.default_rng(seed),
    )
    return {
        **gain(pi0.where(decoding="rollout"), after.where(decoding="rollout"), **common),
        "decoding": "rollout",
        "deployment": gain(deployed, after.where(decoding="deployment"), **common)
        if len(deployed)
        else None,
        "decomposition": parts.to_dict(),
    }
