"""`posttrain preflight`: what can be typed; the work is done in `posttrain.llm.preflight`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STOP = 4


def preflight(
    *,
    recipe: Annotated[
        str, typer.Argument(help="A file, or a name that `posttrain recipes` lists.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Such as rl.steps=10 or seed=1."),
    ] = None,
    rollouts: Annotated[
        int, typer.Option(min=0, help="Draw so many a prompt where pi_0 has no scores yet.")
    ] = 0,
    accelerate_config: Annotated[
        Path | None, typer.Option(help="The file that accelerate launch will be given.")
    ] = None,
    ngram: Annotated[
        int, typer.Option(min=2, help="Words in a row that make two prompts overlap.")
    ] = 13,
    everything: Annotated[
        bool, typer.Option("--all", help="Show what is in order as well.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the machine form and nothing else.")
    ] = False,
) -> None:
    """Look for what would ruin a language model's run, before it is started.

    Exit status: 0, or 4 when something is wrong enough to stop. Findings are also written to
    preflight.json in the run's folder, where there is one.
    """
    from posttrain.recipe import RecipeError
    from posttrain.run import load

    settings = load(recipe, overrides or ())
    if settings.kind != "llm":
        raise RecipeError(f"{recipe}: only a language model's recipe has a preflight")
    from posttrain.llm.preflight import Options, Overlap, preflight, worst

    found = preflight(
        settings,
        Options(rollouts=rollouts, accelerate=accelerate_config, overlap=Overlap(words=ngram)),
    )
    if json:
        from posttrain.record import to_json

        typer.echo(to_json([finding.to_dict() for finding in found], indent=2))
    else:
        from posttrain.preflight_show import findings_table
        from posttrain.terminal import show

        show(findings_table(found, everything=everything))
    if worst(found) == "stop":
        raise typer.Exit(STOP)
