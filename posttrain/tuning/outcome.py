"""What did RL change, on the units on which pi_0 was measured?"""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.outcome import gain, unit_means
from posttrain.record import MetricsLog
from posttrain.regime.decomposition import decompose
from posttrain.regime.scores import Scores
from posttrain.tuning.measured import Settings


def outcome(
    before: Scores,
    after: Scores,
    curve: MetricsLog,
    *,
    settings: Settings,
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
