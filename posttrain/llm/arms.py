"""Who takes part in a race, and on which prompts they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.intervention.plan import Plan, chain, plan_from_dict
from posttrain.llm.data import Row
from posttrain.llm.measure import one_a_unit
from posttrain.llm.settings import ProbeSettings

SFT = "sft"
LEAST = 10
"""Prompts that a comparison needs at least."""
MOST_ASIDE = 0.1
"""Share of the training prompts that may be set aside for it."""


class RaceError(ValueError):
    """A race cannot be run as it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A plan that takes part, under a name that is also its folder's."""

    name: str
    plan: Plan
    algorithm: Literal["grpo", "rloo", "dpo", "sft"]


def arms_of(stored: Mapping[str, Any], probe: ProbeSettings, algorithm: Any) -> tuple[Arm, ...]:
    """The arms that the recipe names; else the prescription, its alternatives, and further SFT.

    Args:
        stored: the run's `plan.json`.
        probe: what the recipe says of the race.
        algorithm: `rl.algorithm`.

    Raises:
        RaceError: there are fewer than two.
    """
    if algorithm == "sft":
        raise RaceError("rl.algorithm: sft takes no plan, so there is nothing to race")
    found: dict[str, Plan | None] = {}
    for name, given in probe.arms.items():
        found[name] = None if given == "sft" else chain(*given)(Plan())
    if not probe.arms:
        for told in (stored, *stored.get("alternatives", ())):
            sft = told.get("trains") == "sft"
            plan = None if sft else plan_from_dict(told["plan"])
            if plan not in found.values():
                found[SFT if plan is None else _free_name(plan.family, found)] = plan
        if None not in found.values():
            found[SFT] = None
    if len(found) < 2:
        raise RaceError(f"probe.arms: a race needs at least two arms, got {list(found)}")
    return tuple(
        Arm(
            name=name,
            plan=Plan() if plan is None else plan,
            algorithm="sft" if plan is None else algorithm,
        )
        for name, plan in found.items()
    )


def _free_name(family: str, taken: Mapping[str, Any]) -> str:
    number = 1 + sum(name.rstrip(" 0123456789") == family for name in taken)
    return family if number == 1 else f"{family} {number}"


def units_to_race_on(
    train: Sequence[Row], heldout: Sequence[Row], measured: frozenset[str], wanted: int
) -> tuple[list[Row], frozenset[str]]:
    """Prompts to compare on, disjoint from those of the diagnosis and of the outcome.

    Held-out prompts that the diagnosis left over come first. Where they are too few, training
    prompts are set aside, from the end, a tenth of them at most: RL then does without them, in the
    race and after it. SFT has seen them, every arm alike.

    Returns:
        one row a unit, and the units that were set aside.

    Raises:
        RaceError: too few are left.
    """
    free = [row for row in one_a_unit(heldout) if row.unit not in measured][:wanted]
    known = one_a_unit(train)
    aside = known[
        max(len(known) - (wanted - len(free)), len(known) - int(MOST_ASIDE * len(known))) :
    ]
    if len(free) + len(aside) < LEAST:
        raise RaceError(
            f"probe.units: the diagnosis left {len(free)} held-out prompts over and a tenth of the "
            f"training prompts is {len(aside)}; wanted {LEAST} at least. Raise data.heldout"
        )
    return [*free, *aside], frozenset(row.unit for row in aside)
