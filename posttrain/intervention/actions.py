"""What should be done with a unit? The map from a diagnosis to an action for each prompt.

One definition for the report, which draws the map, and for RL, which acts on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Action: TypeAlias = Literal["rl", "demonstration", "drop", "fix"]
ACTIONS: tuple[Action, ...] = ("rl", "demonstration", "drop", "fix")


def success_from(scale: tuple[float, float], *, continuous: bool) -> float:
    """The return from which an episode without a `success` of its own counts as one.

    The highest return; with continuous returns, which have no natural success, the middle of the
    scale.
    """
    low, high = scale
    return (low + high) / 2 if continuous else high


def mostly_right(successes: Any, scored: Any) -> Any:
    """Whether at least half of a unit's scored demonstrations succeed; elementwise on arrays."""
    return (scored > 0) & (2 * successes >= scored)


def action(*, right: bool, found: bool | None) -> Action:
    """The action for one unit.

    Args:
        right: whether its demonstrations succeed (`mostly_right`).
        found: whether pi_0 ever does; None where it was not measured.

    Returns:
        `demonstration`: only D knows how, so it is kept. `rl`: pi_0 finds it too, and learns more
        from its own successes (arXiv 2506.01096, 2509.04419). `drop`: the demonstration is wrong.
        `fix`: neither D nor pi_0 succeeds, so there is nothing to learn from the prompt.
    """
    if right:
        return "rl" if found else "demonstration"
    return "fix" if found is False else "drop"


def unit_actions(
    units: Iterable[str],
    *,
    policy: Mapping[str, Sequence[float]],
    dataset: Mapping[str, Sequence[float]],
    success: float,
) -> dict[str, Action]:
    """The action for every unit.

    Args:
        units: names, in any order; the result keeps it.
        policy: returns of pi_0 by unit, wherever it was measured.
        dataset: returns of the demonstrations by unit; unscorable ones are left out.
        success: the return from which an episode succeeds (`success_from`).
    """
    found: dict[str, Action] = {}
    for unit in units:
        demonstrated, sampled = dataset.get(unit, ()), policy.get(unit, ())
        wins = sum(value >= success for value in demonstrated)
        found[unit] = action(
            right=bool(mostly_right(wins, len(demonstrated))),
            found=any(value >= success for value in sampled) if len(sampled) else None,
        )
    return found


def kept_rows(
    units: Sequence[str],
    actions: Mapping[str, Action],
    *,
    keep: Collection[Action] = frozenset({"demonstration"}),
) -> list[int]:
    """The rows whose unit has an action worth replaying, in order.

    Args:
        units: of each row.
        actions: what the map says.
        keep: the actions that keep a row.

    Raises:
        ValueError: a unit that the map does not know.
    """
    if missing := sorted(set(units) - set(actions)):
        raise ValueError(
            f"the per-unit map has no entry for unit {missing[0]!r} ({len(missing)} missing of "
            f"{len(set(units))})"
        )
    return [i for i, unit in enumerate(units) if actions[unit] in keep]
