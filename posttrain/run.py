"""A recipe from start to finish: its kind decides who runs it, and a report closes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain import recipe


def load(name: str, overrides: Sequence[str] = ()) -> Any:
    """Read a recipe by path or name, with `a.b=value` overrides.

    Raises:
        RecipeError: a sentence that names the field.
    """
    from posttrain.llm.settings import LlmRecipe

    return recipe.load(LlmRecipe, recipe.find_recipe(name), overrides)


def run(
    name: str,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    stop_after: str | None = None,
) -> Path:
    """Run every stage that is not finished, write the report, and return the record's folder."""
    settings = load(name, overrides)
    from posttrain.llm import pipeline

    folder = pipeline.run(settings, fresh=fresh, stop_after=stop_after)
    if pipeline.current().main and (folder / "diagnosis.json").exists():
        from posttrain.report import write_report

        write_report(folder)
    return folder


def score(name: str, overrides: Sequence[str] = (), out: Path | None = None) -> Path:
    """Score a recipe's demonstrations with its reward, and write the table."""
    settings = load(name, overrides)
    from posttrain.llm.score import score_recipe

    return score_recipe(settings, out)
