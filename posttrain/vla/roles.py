"""Which of a dataset's columns is what: as the recipe says, or by a usual name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from posttrain.vla.demonstrations import DemonstrationsError

ROLES: Final = ("action", "state", "reward", "success", "seed", "instruction", "episode")
"""What `data.columns` may name beside cameras."""
USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "action": ("action", "actions"),
    "state": ("observation.state", "state", "proprio"),
    "reward": ("next.reward", "reward", "rewards"),
    "success": ("next.success", "success", "is_success"),
    "seed": ("posttrain.seed", "seed"),
    "instruction": ("instruction", "language_instruction", "mission", "task"),
    "episode": ("episode_index", "episode_id", "episode"),
}


def pick(role: str, there: Collection[str], said: Mapping[str, str], where: str) -> str | None:
    """The column of a role, or None.

    Args:
        role: one of `ROLES`.
        there: the dataset's columns.
        said: `data.columns`.
        where: the dataset's name.

    Raises:
        DemonstrationsError: the recipe names a column that is not there.
    """
    if role not in said:
        return next((name for name in USUAL[role] if name in there), None)
    if said[role] not in there:
        raise DemonstrationsError(
            f"data.columns.{role}: {where} has no {said[role]!r}; it has {', '.join(there)}"
        )
    return said[role]


def need(role: str, there: Collection[str], said: Mapping[str, str], where: str) -> str:
    """The column of a role that D cannot do without.

    Raises:
        DemonstrationsError: there is none.
    """
    found = pick(role, there, said, where)
    if found is None:
        raise DemonstrationsError(
            f"data.columns.{role}: {where} has none of {', '.join(USUAL[role])}; say which of "
            f"{', '.join(there)} it is"
        )
    return found


def cameras(there: Collection[str], said: Mapping[str, str], where: str) -> dict[str, str]:
    """Columns of pictures by camera: those that the recipe names, or all.

    Args:
        there: columns that hold pictures.
        said: `data.columns`.
        where: the dataset's name.

    Raises:
        DemonstrationsError: there are none, or the recipe names another column.
    """
    named = {name: column for name, column in said.items() if name not in ROLES}
    for name, column in named.items():
        if column not in there:
            raise DemonstrationsError(
                f"data.columns.{name}: {where} has no pictures in {column!r}; there are pictures "
                f"in {', '.join(there) or 'no column'}, and what is no camera is one of "
                f"{', '.join(ROLES)}"
            )
    if not there:
        raise DemonstrationsError(f"{where}: has no pictures")
    return named or {camera_name(column): column for column in there}


def camera_name(column: str) -> str:
    """What a camera is called: the last part of its column's name."""
    prefix = "observation.images."
    return column.removeprefix(prefix) if column.startswith(prefix) else column.rsplit(".", 1)[-1]
