"""`python -m control VERB`: stages of a control run, evaluation, and what is known of datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from posttrain.ending import guarded

app = typer.Typer(
    name="control",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
P = ParamSpec("P")

Recipe = Annotated[str, typer.Argument(help="A file, or a name that `recipes` lists.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="Such as finetune.steps=500 or seed=1."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Delete what an earlier run left in the folder.")
]


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Register a command whose user errors end in a sentence and an exit status."""
    return app.command()(guarded(function))


@app.callback()
def main() -> None:
    """Offline pretraining, diagnosis and online fine-tuning of control policies.

    `posttrain run RECIPE` does all of it, with a report; `posttrain study` compares plans.
    """


@verb
def pretrain(*, recipe: Recipe, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Read or make D, and train pi_0 on it."""
    _run(recipe, overrides or [], stop_after="pretrain", fresh=fresh)


@verb
def diagnose(*, recipe: Recipe, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Play pi_0, tell whether it or D is better, and say which plan follows."""
    _run(recipe, overrides or [], stop_after="diagnose", fresh=fresh)


@verb
def finetune(*, recipe: Recipe, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Fine-tune pi_0 under the plan, and measure what came of it."""
    _run(recipe, overrides or [], stop_after="outcome", fresh=fresh)


def _run(name: str, overrides: list[str], *, stop_after: str, fresh: bool) -> None:
    """Run the stages up to one, and say where things lie."""
    from control.settings import ControlRecipe
    from posttrain import recipe as recipes

    settings: ControlRecipe = recipes.load(ControlRecipe, recipes.find_recipe(name), overrides)
    from control import pipeline

    folder = pipeline.run(settings, fresh=fresh, stop_after=stop_after)
    from posttrain.record import Record
    from posttrain.terminal import closing, show

    show(closing(Record(folder)))


@verb
def evaluate(
    *,
    agent: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A run's folder, or a saved agent's.")
    ],
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ENV",
            help="An id, or settings such as '{id: Pendulum-v1, horizon: 200}'; a run's own if "
            "not said.",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(help="Decides the starts.")] = 0,
    noise: Annotated[
        bool, typer.Option("--noise", help="Sample the actions instead of taking the mode.")
    ] = False,
    pi0: Annotated[
        bool, typer.Option("--pi0", help="Of a run, play pi_0 and not what became of it.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="File for the scores: .parquet, .jsonl or .csv.")
    ] = None,
) -> None:
    """Play a policy, and print J with its interval."""
    from control.evaluation import evaluate

    typer.echo(
        evaluate(agent, env=env, episodes=episodes, seed=seed, noise=noise, pi0=pi0, out=out)
    )


@verb
def datasets(
    name: Annotated[
        str | None, typer.Argument(help="A name of the list, a file, a Minari id or folder.")
    ] = None,
    *,
    read: Annotated[
        bool, typer.Option("--read", help="Open it: episodes, returns, what to know.")
    ] = False,
) -> None:
    """List what is known of published datasets, or tell about one."""
    from control import catalogue
    from posttrain.terminal import show

    if name is None:
        show(catalogue.table())
    else:
        show(catalogue.contents(name) if read else catalogue.entry(name))


@verb
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
) -> None:
    """List the control recipes that come with the package, or print one."""
    from posttrain.recipe import find_recipe, list_recipes

    if name is not None:
        typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
        return
    from posttrain.terminal import recipe_table, show

    show(recipe_table(r for r in list_recipes() if r.name.startswith("control/")))
