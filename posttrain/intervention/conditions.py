"""What can be asked of a diagnosis and a learner? The conditions of the rules, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from posttrain.intervention.capabilities import Capabilities
    from posttrain.regime.diagnosis import Diagnosis

MOST = 0.5
"""Above this share of units without one success, pi_0 does not recover alone."""

WIDE = 0.3
"""A gap beyond this is closed by learning new answers, not by choosing among those pi_0 has."""


def flagged(diagnosis: Diagnosis, kind: str) -> bool:
    """Whether the diagnosis carries a flag of that kind."""
    return any(flag.kind == kind for flag in diagnosis.flags)


def _no_success(d: Diagnosis, _: Capabilities) -> bool:
    return d.recoverability is not None and d.recoverability.no_success > MOST


CONDITIONS: dict[str, Callable[[Diagnosis, Capabilities], bool]] = {
    "critic": lambda _, learner: learner.critic,
    "can clone": lambda _, learner: learner.clones,
    "no critic": lambda _, learner: not learner.critic,
    "sft not converged": lambda d, _: flagged(d, "sft_not_converged"),
    "near zero": lambda d, _: flagged(d, "both_near_zero"),
    "near ceiling": lambda d, _: flagged(d, "both_near_ceiling"),
    "D succeeds": lambda d, _: d.j_dataset > d.scale[0],
    "no success": _no_success,
    "some success": lambda d, c: d.recoverability is not None and not _no_success(d, c),
    "wide gap": lambda d, _: d.interval.high < -WIDE,
    "leans inferior": lambda d, _: d.gap < 0,
    "can be decided": lambda d, _: d.needed is not None,
}
