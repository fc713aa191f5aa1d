"""The returns of a recipe's demonstrations as a table, without any policy."""

from __future__ import annotations

from pathlib import Path

from posttrain import progress
from posttrain.regime.scores import Scores, write_scores
from posttrain.vla.load import load
from posttrain.vla.returns import scores_of
from posttrain.vla.settings import VlaRecipe


def score_recipe(settings: VlaRecipe, out: Path | None = None) -> Path:
    """Read or make D, give every episode its return, and write the table.

    Args:
        settings: the recipe.
        out: where to; by default `demonstrations.parquet` in the run's folder.
    """
    found, account = load(settings.data, settings.environment)
    heldout = min(settings.data.heldout, len(found.episodes) - 1)
    scored = scores_of(found, settings.data, settings.environment, heldout=heldout)
    path = out or Path(settings.output) / settings.name / "demonstrations.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scores(Scores.from_rows(scored.records), path)
    for told in (account, scored.account, *(f"! {flag.text}" for flag in scored.flags)):
        progress.say(told)
    return path
