"""The plan of a run: the diagnosis' prescription or the recipe's own, as `plan.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.intervention.capabilities import Capabilities
from posttrain.intervention.plan import AnyIntervention, Plan, chain, plan_from_dict
from posttrain.intervention.prescription import prescribe
from posttrain.regime import Diagnosis


def plan_of(stored: Mapping[str, Any]) -> Plan:
    """The plan of a `plan.json`."""
    return plan_from_dict(stored["plan"])


def plan_record(
    interventions: Literal["prescribed"] | Sequence[AnyIntervention],
    diagnosis: Diagnosis,
    learner: Capabilities,
    *,
    steps: int,
    clones: bool,
) -> dict[str, Any]:
    """The plan of a run with its reasons, and what could be done in its place.

    Args:
        interventions: of the recipe.
        diagnosis: what is prescribed for.
        learner: what it can be told to do.
        steps: of RL.
        clones: whether the recipe clones D further in place of RL.
    """
    found = prescribe(diagnosis, learner, steps=steps)
    first, *others = (p.to_dict() for p in found)
    if clones:
        reason = "no RL: D is cloned further, the rival of every plan that keeps D"
        first = {**first, "reason": reason, "trains": "sft", "plan": Plan().to_dict()}
    if interventions == "prescribed":
        return {**first, "source": "prescribed", "alternatives": others}
    plan = chain(*interventions)(Plan())
    return {
        "plan": plan.to_dict(),
        "reason": "the recipe names this plan",
        "source": "recipe",
        "alternatives": [first, *others],
    }
