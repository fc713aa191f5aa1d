"""Which module reads and runs a kind of recipe? The one place where a study knows kinds.

A kind's recipe is a frozen dataclass with the fields `name`, `output` and `seed`; its record is
the folder `output/name`. Where it also has `start_from`, a cell takes data, pretraining and
diagnosis from the record named there. Its pipeline has `STAGES`, the last of which closes a run,
and `run(recipe, *, fresh, stop_after)`; one that trains several cells at once has
`group_key(recipe)` and `run_many(recipes, *, fresh, stop_after)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from posttrain import recipe
from posttrain.record import Record, fingerprint
from posttrain.study.settings import StudyError
from posttrain.yaml12 import to_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Names of what is imported only where it is needed, so that a kind travels to workers."""

    settings: str
    """Module and class of the recipe: `control.settings:ControlRecipe`."""
    pipeline: str
    """Module of the pipeline."""
    together: bool = False
    """Whether the pipeline trains several cells at once."""

    def read(self, data: dict[str, Any]) -> Any:
        """Turn plain values into a recipe.

        Raises:
            RecipeError: with one line for each complaint.
        """
        module, name = self.settings.split(":")
        return recipe.load(getattr(importlib.import_module(module), name), to_yaml(data))

    def stages(self) -> tuple[str, ...]:
        """Stages of a run, in order."""
        return tuple(self._module().STAGES)

    def group_key(self, settings: Any) -> Hashable:
        """What cells must have in common to be trained together."""
        if not self.together:
            return folder_of(settings).as_posix()
        key: Hashable = self._module().group_key(settings)
        return key

    def run(self, cells: Sequence[Any], stop_after: str | None) -> list[Path | Exception]:
        """Run the recipes of one group; one that fails leaves its exception."""
        if self.together:
            return list(self._module().run_many(cells, fresh=False, stop_after=stop_after))
        return [self._run_one(settings, stop_after) for settings in cells]

    def _run_one(self, settings: Any, stop_after: str | None) -> Path | Exception:
        try:
            path: Path = self._module().run(settings, fresh=False, stop_after=stop_after)
        except Exception as error:  # a failed cell is reported, the others go on
            return error
        return path

    def _module(self) -> Any:
        return importlib.import_module(self.pipeline)


def folder_of(settings: Any) -> Path:
    """Where a recipe's record lies."""
    return Path(settings.output) / str(settings.name)


def finished(settings: Any, stage: str) -> bool:
    """Whether the record holds this stage, made by this very recipe."""
    mark = fingerprint(recipe.dump(settings))
    return Record(folder_of(settings)).done(stage, fingerprint=mark)


def starts_from(settings: Any) -> bool:
    """Whether a recipe can take its pretrained policy from another record."""
    return "start_from" in {f.name for f in fields(settings)}


def kind_of(name: object, kinds: Mapping[str, Kind] | None = None) -> Kind:
    """Find the kind that a recipe names, among those of the package if no others are given.

    Raises:
        StudyError: no such kind.
    """
    known = KINDS if kinds is None else kinds
    if not isinstance(name, str) or name not in known:
        raise StudyError(f"recipe: a study runs recipes of kind {', '.join(known)}; got {name!r}")
    return known[name]


KINDS: dict[str, Kind] = {
    "control": Kind(
        settings="control.settings:ControlRecipe", pipeline="control.pipeline", together=True
    ),
    "llm": Kind(settings="posttrain.llm.settings:LlmRecipe", pipeline="posttrain.llm.pipeline"),
    "vla": Kind(settings="posttrain.vla.settings:VlaRecipe", pipeline="posttrain.vla.pipeline"),
}
