"""What is a study? One base recipe, varied by settings, arms and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain import recipe

Family = Literal["minimal", "pi0-centric", "D-centric", "mixed", "supervised"]
Metric = Literal["final", "mean", "best"]

SHARED = "pi0"
"""Folder of what all arms of a setting share: data, pretraining and diagnosis."""


class StudyError(ValueError):
    """A study that cannot run; one line for each complaint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A dataset and what pretrains on it: `overrides` of the base recipe, deep-merged."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A plan to try in every setting.

    `family` is the plan's own unless it is said. Arms of the families pi0-centric and D-centric
    compete; the others, `supervised` among them (more pretraining and no RL), stand beside.
    """

    name: str
    family: Family | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """How arms are compared, on the scale where the reward's range is 1.

    `margin` and `alpha` are those of the diagnosis. `metric` is a cell's number: the return after
    fine-tuning (`final`), or the `mean` or the `best` of its evaluations.
    """

    margin: float = 0.05
    alpha: float = 0.05
    metric: Metric = "final"

    def __post_init__(self) -> None:
        for name, top in (("margin", 1.0), ("alpha", 0.5)):
            value = getattr(self, name)
            if not 0 < value < top:
                raise ValueError(f"{name} must lie between 0 and {top:g}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Settings x arms x seeds of the recipe at `recipe`.

    `overrides` hold for all cells, before those of setting and arm.
    """

    kind: Literal["study"]
    name: str
    recipe: str
    settings: tuple[Setting, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    output: str = "runs/studies"
    overrides: dict[str, Any] = field(default_factory=dict)
    compare: Compare = field(default_factory=Compare)

    def __post_init__(self) -> None:
        for what, names in (
            ("settings", [setting.name for setting in self.settings]),
            ("arms", [arm.name for arm in self.arms]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            _check_names(what, names)
        _check_folder("name", self.name)
        if SHARED in {arm.name for arm in self.arms}:
            raise ValueError(f"arms: {SHARED!r} is the name of what the arms of a setting share")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds must be >= 0, got {min(self.seeds)}")

    @property
    def folder(self) -> Path:
        """Where the cells and the table go."""
        return Path(self.output) / self.name


def load_study(name: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study by path or packaged name, with `a.b=value` overrides.

    Raises:
        RecipeError: a sentence for each field that cannot be used.
    """
    return recipe.load(Study, recipe.find_recipe(name), overrides)


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay overrides over plain values.

    A key may be dotted (`finetune.steps`, `interventions.0.share`). Mappings merge key by key,
    unless their `kind` differs: then, as everything else does, the new one replaces the old.

    >>> merge({"a": {"b": 1, "c": [2]}}, {"a.b": 3, "a": {"c": [4, 5]}})
    {'a': {'b': 3, 'c': [4, 5]}}

    Raises:
        StudyError: a dotted key leads into a value that has no fields, or past a list's end.
    """
    merged = {key: _copy(value) for key, value in base.items()}
    for key, value in overrides.items():
        _set(merged, key.split("."), value, key)
    return merged


def _set(here: Any, path: Sequence[str], value: Any, key: str) -> None:
    """Set a value at a path, in place."""
    for depth, part in enumerate(path):
        place: Any = part
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                above = ".".join(path[:depth])
                raise StudyError(f"{key}: {above} is a list of {len(here)}, got the index {part!r}")
            place = int(part)
        elif not isinstance(here, dict):
            raise StudyError(f"{key}: {'.'.join(path[:depth])} has no fields inside")
        if depth == len(path) - 1:
            old = here[place] if isinstance(here, list) else here.get(place)
            here[place] = _over(old, value)
        else:
            if isinstance(here, dict) and here.get(place) is None:
                here[place] = {}
            here = here[place]


def _over(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return _copy(new)
    if "kind" in new and new["kind"] != old.get("kind", new["kind"]):
        return _copy(new)
    return merge(old, new)


def _copy(value: Any) -> Any:
    """Plain values that share nothing with the given ones; dotted keys inside are spread."""
    if isinstance(value, Mapping):
        return merge({}, value)
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _check_names(what: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"{what}: wanted at least one, got none")
    if twice := _first_repeated(names):
        raise ValueError(f"{what}: {twice!r} stands there twice")
    for name in names:
        _check_folder(what, name)


def _check_folder(what: str, name: str) -> None:
    plain = name and not name.startswith(".") and "/" not in name and "\\" not in name
    if not plain:
        raise ValueError(f"{what}: wanted a plain folder name, got {name!r}")


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
