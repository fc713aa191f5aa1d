"""Whose demonstration is kept? The diagnosis' map, followed or updated while a model is trained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from posttrain.intervention.actions import ACTIONS, Action, unit_actions
from posttrain.intervention.plan import Replay
from posttrain.tuning.honour import PlanError
from posttrain.tuning.job import HasUnit
from posttrain.tuning.state import StateError

R = TypeVar("R", bound=HasUnit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """What the diagnosis says of every training unit; `success` is the return that is one."""

    actions: Mapping[str, Action]
    success: float

    def learnable(self, rows: Sequence[R]) -> list[R]:
        """The rows whose prompts RL trains on: all but those where both D and pi_0 fail.

        Raises:
            PlanError: none is left.
        """
        left = [row for row in rows if self.actions[row.unit] != "fix"]
        if not left:
            raise PlanError(
                f"replay.gate: neither D nor pi_0 succeeds on any of the {len(self.actions)} "
                "training prompts, so there is nothing to learn; look at the reward and at D"
            )
        return left

    def described(self) -> str:
        """One sentence with the count of every action."""
        count = Counter(self.actions.values())
        return (
            f"Of {len(self.actions)} training prompts, the gate keeps the demonstration of "
            f"{count['demonstration']}, leaves {count['rl']} to RL, drops the wrong demonstration "
            f"of {count['drop']}, and leaves out {count['fix']} where D and pi_0 both fail."
        )


def map_of(
    replay: Replay | None,
    units: Iterable[str],
    *,
    policy: Mapping[str, Sequence[float]],
    dataset: Mapping[str, Sequence[float]],
    success: float,
) -> Map | None:
    """The map that a plan's gate follows; None for a plan without a gate.

    Raises:
        PlanError: there are no returns to draw a map from.
    """
    if replay is None or replay.gate == "none":
        return None
    if not dataset:
        raise PlanError(
            f"replay.gate: {replay.gate!r} needs the returns of the demonstrations, and there are "
            "none; score them first, or set it to 'none'"
        )
    return Map(
        actions=unit_actions(dict.fromkeys(units), policy=policy, dataset=dataset, success=success),
        success=success,
    )


class Gate:
    """Says of every unit whether its demonstration is kept now.

    Fixed, it says what the map says. Live, a unit whose demonstration is right follows its latest
    group of rollouts: kept while the policy finds no success of its own, left out once it does.
    Every process must observe the same groups in the same order.
    """

    name = "gate"

    def __init__(self, found: Map, *, live: bool) -> None:
        """Start from the map."""
        self.actions: dict[str, Action] = dict(found.actions)
        self.success, self.live = found.success, live

    def keeps(self, unit: str) -> bool:
        """Whether the demonstration of `unit` is replayed and put into its groups."""
        return self.actions[unit] == "demonstration"

    def observe(self, unit: str, returns: Iterable[float]) -> None:
        """Take in the returns of a group's own rollouts; unscorable ones are NaN."""
        known = [value for value in returns if not math.isnan(value)]
        if self.live and known and self.actions[unit] in ("rl", "demonstration"):
            won = any(value >= self.success for value in known)
            self.actions[unit] = "rl" if won else "demonstration"

    def shares(self) -> dict[Action, float]:
        """The share of units with each action."""
        count = Counter(self.actions.values())
        return {what: count[what] / len(self.actions) for what in ACTIONS}

    def state(self) -> dict[str, Any]:
        """Units by action."""
        return {what: [u for u, a in self.actions.items() if a == what] for what in ACTIONS}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the actions over.

        Raises:
            StateError: they are those of other units.
        """
        stored: dict[str, Action] = {unit: what for what in ACTIONS for unit in state[what]}
        if stored.keys() != self.actions.keys():
            raise StateError(
                f"the gate was saved for {len(stored)} units and this run has "
                f"{len(self.actions)} others; start afresh"
            )
        self.actions = {unit: stored[unit] for unit in self.actions}
