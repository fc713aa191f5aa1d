"""From episodes of pi_0 and D to a diagnosis: when to stop, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from posttrain.outcome import unit_means
from posttrain.regime import Diagnosis, Flag, diagnose, sequential
from posttrain.regime.logs import PLAIN, Reading, read_any
from posttrain.regime.scores import Scores

Records = list[dict[str, Any]]


class Settings(Protocol):
    """How pi_0 is measured."""

    @property
    def margin(self) -> float:
        """The smallest gap that matters."""
        ...

    @property
    def alpha(self) -> float:
        """Chance of a wrong verdict."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest return."""
        ...

    @property
    def batch(self) -> int:
        """Units between two looks."""
        ...

    @property
    def minimum(self) -> int:
        """Units that are always drawn."""
        ...

    @property
    def scores(self) -> str | None:
        """A table that is reused."""
        ...


def never(_: Records) -> bool:
    """Draw every unit."""
    return False


def looks(
    policy_returns: Mapping[str, float],
    data_returns: Mapping[str, float],
    settings: Settings,
) -> sequential.Sequential:
    """Look at the units in the order in which they were drawn, batch by batch.

    Args:
        policy_returns: mean return of each unit's rollouts, in the order of drawing.
        data_returns: mean return of each unit's demonstrations.
        settings: margin, level, scale and the size of a batch.
    """
    state = sequential.start(margin=settings.margin, alpha=settings.alpha, scale=settings.scale)
    shared = [unit for unit in policy_returns if unit in data_returns]
    for start in range(0, len(shared), settings.batch):
        batch = shared[start : start + settings.batch]
        state = state.update(
            [policy_returns[unit] for unit in batch], [data_returns[unit] for unit in batch]
        )
    return state


def stopping_rule(
    settings: Settings, demonstrations: Sequence[Mapping[str, Any]]
) -> Callable[[Records], bool]:
    """Stop once the sequential test has decided, after the minimum of units."""
    data = unit_means(row for row in demonstrations if row["split"] == "heldout")

    def enough(found: Records) -> bool:
        mine = unit_means(found)
        return len(mine) >= settings.minimum and looks(mine, data, settings).decided

    return enough


def reuse(path: Path, reading: Reading = PLAIN) -> Records:
    """Rollouts that somebody else has drawn, as the held-out rollouts of pi_0.

    Scores, or an evaluation log of another tool; without units every episode is one.
    """
    found = read_any(path, source="policy", reading=reading).rows()
    return [
        {
            **row,
            "source": "policy",
            "unit": row.get("unit") or f"episode {place}",
            "split": row.get("split") or "heldout",
            "decoding": row.get("decoding") or "rollout",
        }
        for place, row in enumerate(found)
    ]


def diagnose_split(
    scores: Scores,
    split: str,
    settings: Settings,
    flags: tuple[Flag, ...],
    *,
    decoding: Literal["rollout", "deployment"] = "rollout",
) -> Diagnosis:
    """Diagnose on the units that SFT has seen, or has not.

    Held-out rollouts were drawn until the sequential test decided, so that it decides here too,
    wherever both sides have units in common. `decoding` is the one that decides.
    Demonstrations of units that were not rolled out are left out: both sides speak of the same
    prompts.
    """
    mine = scores.where(source="policy", split=split)  # type: ignore[arg-type]
    policy_side = mine.where(decoding=decoding)
    data = scores.where(source="dataset", split=split)  # type: ignore[arg-type]
    if policy_side.unit is not None and data.unit is not None:
        drawn = np.isin(data.unit, policy_side.unit)
        data = data.where(drawn) if drawn.any() else data
    common: dict[str, Any] = {
        "margin": settings.margin,
        "alpha": settings.alpha,
        "scale": settings.scale,
        "extra_flags": flags,
    }
    if split == "seen" or settings.scores is not None:
        return diagnose(policy_side, data, **common)
    other: Literal["rollout", "deployment"] = "deployment" if decoding == "rollout" else "rollout"
    beside = mine.where(decoding=other)
    if not {*unit_means(policy_side.rows())} & {*unit_means(data.rows())}:
        return diagnose(policy_side, data, deployment=beside, **common)
    state = looks(unit_means(policy_side.rows()), unit_means(data.rows()), settings)
    return sequential.diagnose_sequential(
        policy_side, data, deployment=beside, before=state.interval, **common
    )


def returns_by_unit(scores: Scores) -> dict[str, list[float]]:
    """The returns of each unit, in the order of the table; unscorable episodes have none."""
    found: dict[str, list[float]] = {}
    for row in scores.rows():
        if row["return"] is not None:
            found.setdefault(row["unit"], []).append(row["return"])
    return found
