"""A recipe from start to finish: its kind decides who runs it, and a report closes it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain import recipe
from posttrain.study.kind import KINDS


def load(name: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a recipe by path or name, with `a.b=value` overrides.

    Raises:
        RecipeError: a sentence that names the field.
    """
    path = recipe.find_recipe(name)
    kind = recipe.read(path, overrides).get("kind")
    wanted = " or ".join(repr(known) for known in KINDS)
    if kind is None:
        raise recipe.RecipeError(f"{path}: kind is missing; wanted {wanted}")
    if kind not in KINDS:
        hint = "; a study is run by `posttrain study`" if kind == "study" else ""
        raise recipe.RecipeError(f"{path}: kind: wanted {wanted}, got {kind!r}{hint}")
    module, settings = KINDS[kind].settings.split(":")
    return recipe.load(getattr(importlib.import_module(module), settings), path, overrides)


def run(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    stop_after: str | None = None,
) -> Path:
    """Run every stage that is not finished, write the report, and return the record's folder."""
    settings = load(name, overrides)
    pipeline = importlib.import_module(KINDS[settings.kind].pipeline)
    folder: Path = pipeline.run(settings, fresh=fresh, stop_after=stop_after)
    if _first_process(settings.kind) and (folder / "diagnosis.json").exists():
        from posttrain.report import write_report

        write_report(folder)
    return folder


def _first_process(kind: str) -> bool:
    """Whether this process speaks for the run: of several, the first."""
    if kind == "control":
        return True
    from posttrain.tuning.world import current

    return current().main


def score(name: str | Path, overrides: Sequence[str] = (), out: Path | None = None) -> Path:
    """Score a recipe's demonstrations with its reward, and write the table.

    Raises:
        RecipeError: the recipe is one of control.
    """
    settings = load(name, overrides)
    if settings.kind == "control":
        raise recipe.RecipeError(
            f"{name}: the returns of control data are in the data: python -m control datasets NAME "
            "--read"
        )
    if settings.kind == "vla":
        from posttrain.vla.score import score_recipe as score_demonstrations

        return score_demonstrations(settings, out)
    from posttrain.llm.score import score_recipe

    return score_recipe(settings, out)
