"""Was pi_0 trained to the end? An under-trained pi_0 only looks inferior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control.algorithm_settings import BcSettings
from control.settings import ControlRecipe

FIT = "regime/nll_on_data"
STILL_FALLING = 0.05
"""Relative fall of the misfit over the last fifth above which cloning had not converged."""
NEGLIGIBLE = 1e-3
"""Share of the misfit's whole fall below which a further fall does not matter."""
LEAST = 5


def integrity(logged: Sequence[Mapping[str, Any]], recipe: ControlRecipe) -> dict[str, Any]:
    """Judge from how badly the policy explained D's actions on the way.

    Only cloning can be judged: what else an algorithm pursues moves the policy away from D as
    well, so that its misfit may rest or rise while it still learns.

    Args:
        logged: rows of pretraining's log.
        recipe: what was pretrained, and how.

    Returns:
        `converged` (None where it cannot be told), `fall` (relative), `losses`, `text`.
    """
    points = [
        {"step": row["step"], "loss": row[FIT]}
        for row in logged
        if isinstance(row.get(FIT), int | float)
    ]
    unknown = {"converged": None, "fall": None, "losses": points}
    if recipe.pretrain.path is not None:
        return {**unknown, "text": "pi_0 was trained elsewhere"}
    if len(points) < LEAST:
        return {**unknown, "text": "too few losses were logged to tell whether it had converged"}
    unit = "nats an action" if recipe.networks.policy == "gaussian" else "squared distance"
    first, last = points[0]["loss"], points[-1]["loss"]
    kind = recipe.pretrain.algorithm.kind
    if not isinstance(recipe.pretrain.algorithm, BcSettings):
        text = (
            f"what {kind} pursues is more than D's actions, so that the misfit to them "
            f"({first:.3g}, then {last:.3g} {unit}) does not tell"
        )
        return {**unknown, "text": text}
    earlier = [p["loss"] for p in points if p["step"] <= 0.8 * points[-1]["step"]]
    fall = (earlier[-1] - last) / abs(earlier[-1]) if earlier[-1] else 0.0
    falling = fall > STILL_FALLING and earlier[-1] - last > NEGLIGIBLE * abs(first - last)
    if falling:
        text = (
            f"the misfit to D's actions still fell by {fall:.0%} over the last fifth of "
            "pretraining: more of it is the cure to try first"
        )
    else:
        text = f"the misfit to D's actions had settled at {last:.3g} {unit}"
    return {"converged": not falling, "fall": fall, "losses": points, "text": text}
