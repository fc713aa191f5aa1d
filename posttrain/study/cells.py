"""Which cells does a study have, and are all of them sound? Asked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain import recipe
from posttrain.record import Record, RecordError, fingerprint
from posttrain.study.kind import Kind, finished, folder_of, kind_of, starts_from
from posttrain.study.settings import SHARED, Arm, Setting, Study, StudyError, merge

DIAGNOSED = "diagnose"
"""Stage that ends what the arms of a setting share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: a setting, an arm (or `pi0`, what its arms share) and a seed."""

    setting: str
    arm: str
    seed: int
    recipe: Any
    stage: str
    """The stage that completes it."""

    @property
    def name(self) -> str:
        """Setting, arm and seed as one path."""
        return f"{self.setting}/{self.arm}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """The cell's record."""
        return folder_of(self.recipe)

    def finished(self) -> bool:
        """Whether its record is complete."""
        return finished(self.recipe, self.stage)


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that are trained together: a unit of work."""

    name: str
    """Short, and the same on every machine."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A study's cells, read and checked."""

    kind: Kind
    shared: tuple[Group, ...]
    """What the arms of a setting and seed share: a cell for each seed."""
    groups: tuple[Group, ...]


def lay_out(study: Study, kinds: Mapping[str, Kind] | None = None) -> Grid:
    """Make every cell's recipe, check it, and put the cells into groups.

    Args:
        study: What to lay out.
        kinds: Kinds by name; those of the package if None.

    Raises:
        StudyError: naming setting, arm and field of everything that is wrong.
        RecipeError: there is no such base recipe.
    """
    base = recipe.read(recipe.find_recipe(study.recipe))
    kind = kind_of(base.get("kind"), kinds)
    shared: list[Cell] = []
    cells: list[Cell] = []
    complaints: list[str] = []
    for setting in study.settings:
        layers = (study.overrides, setting.overrides)
        try:
            alone = _recipe(kind, base, layers)
        except (recipe.RecipeError, StudyError) as error:
            complaints += _complain(f"setting {setting.name}", error)
            continue
        shared += _cells(study, setting, None, alone, DIAGNOSED)
        for arm in study.arms:
            try:
                made = _recipe(kind, base, (*layers, arm.overrides))
            except (recipe.RecipeError, StudyError) as error:
                complaints += _complain(f"setting {setting.name}, arm {arm.name}", error)
                continue
            cells += _cells(study, setting, arm, made, kind.stages()[-1])
    if complaints:
        raise StudyError("\n".join(complaints))
    return Grid(kind=kind, shared=_grouped(kind, shared), groups=_grouped(kind, cells))


def _recipe(kind: Kind, base: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> Any:
    """The base under layers of overrides, as the first seed would run it.

    What arms share is taken from `pi0` where the kind can do that, unless a layer says otherwise.
    """
    data = dict(base)
    for layer in layers:
        if own := sorted({"kind", "name", "output", "seed"} & set(layer)):
            raise StudyError(f"{own[0]}: is the study's to say, not an override's")
        data = merge(data, layer)
    return kind.read(merge(data, {"name": "seed-0", "output": "", "seed": 0}))


def _complain(where: str, error: Exception) -> list[str]:
    """Complaints under the cell's name instead of the line of a text that nobody wrote."""
    return [f"{where}: {re.sub(r'^recipe(:[0-9]+)?: ', '', s)}" for s in str(error).splitlines()]


def _cells(study: Study, setting: Setting, arm: Arm | None, made: Any, stage: str) -> list[Cell]:
    """One cell a seed."""
    name = arm.name if arm is not None else SHARED
    layers = (study.overrides, setting.overrides, arm.overrides if arm is not None else {})
    linked = arm is not None and starts_from(made) and not any("start_from" in x for x in layers)
    found = []
    for seed in study.seeds:
        place, folder = study.folder / setting.name, f"seed-{seed}"
        own: dict[str, Any] = {"name": folder, "output": (place / name).as_posix(), "seed": seed}
        if linked:
            own["start_from"] = (place / SHARED / folder).as_posix()
        cell = Cell(
            setting=setting.name, arm=name, seed=seed, recipe=replace(made, **own), stage=stage
        )
        found.append(cell)
    return found


def _grouped(kind: Kind, cells: Sequence[Cell]) -> tuple[Group, ...]:
    """Cells of a setting with the same key, in the order of the study."""
    groups: dict[tuple[str, Hashable], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.setting, kind.group_key(cell.recipe)), []).append(cell)
    return tuple(Group(_name(members), tuple(members)) for members in groups.values())


def _name(members: Sequence[Cell]) -> str:
    """A group's name: the cell's where there is one, else of the setting and all members."""
    if len(members) == 1:
        return members[0].name.replace("/", "-")
    one = members[0]
    arm = f"-{SHARED}" if one.arm == SHARED else ""
    return f"{one.setting}{arm}-{fingerprint([cell.name for cell in members])}"


def shard(groups: Sequence[Group], index: int, count: int) -> tuple[Group, ...]:
    """Deal groups to `count` machines in turn; this is what number `index` gets.

    Raises:
        StudyError: an index that is none of 0, ..., count - 1.
    """
    if not 0 <= index < count:
        raise StudyError(f"--shard: wanted i/n with 0 <= i < n, got {index}/{count}")
    return tuple(groups[index::count])


def needed(grid: Grid, groups: Sequence[Group], *, first: float = 0.0) -> tuple[Group, ...]:
    """The shared cells that these groups rest on.

    Args:
        grid: All cells.
        groups: Those to run.
        first: Where to start in the circle of them, as a share: shards that start at different
            places do not wait for each other.
    """
    wanted = {(cell.setting, cell.seed) for cell in flat(groups)}
    found = []
    for group in grid.shared:
        cells = tuple(cell for cell in group.cells if (cell.setting, cell.seed) in wanted)
        found += [replace(group, cells=cells)] if cells else []
    start = int(first * len(found))
    return (*found[start:], *found[:start])


def flat(groups: Iterable[Group]) -> tuple[Cell, ...]:
    """The cells of groups."""
    return tuple(cell for group in groups for cell in group.cells)


def refuse_strangers(cells: Sequence[Cell]) -> None:
    """Refuse cells whose folders were made by another recipe, before anything runs.

    Raises:
        RecordError: one line a cell.
    """
    complaints = []
    for cell in cells:
        record, text = Record(cell.folder), recipe.dump(cell.recipe)
        stored = record.recipe_file
        if not stored.exists() or stored.read_text(encoding="utf-8") == text:
            continue
        try:
            record.begin(text, seed=cell.seed, free=("output", "start_from"))
        except RecordError as error:
            complaints.append(str(error).partition(" Start over")[0])
    if complaints:
        more = [f"... and {len(complaints) - 5} cells more"] if len(complaints) > 5 else []
        hint = "Delete these folders, or give the study another name."
        raise RecordError("\n".join([*complaints[:5], *more, hint]))
