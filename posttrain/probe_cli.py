"""`posttrain probe`: what can be typed, and how a race looks; it is run in `posttrain.llm.race`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.ending import rank

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 15
COUNTS = {
    "steps": "steps",
    "rollouts": "rollouts",
    "demonstrations": "imitated",
    "evaluations": "curve",
    "comparisons": "compared",
    "seconds": "seconds",
}
"""What is charged, and its column in a terminal."""


def probe(
    *,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN",
            help="A file, a name that `posttrain recipes` lists, or a run's folder.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Such as probe.steps=10 or seed=1."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the machine form and nothing else.")
    ] = False,
) -> None:
    """Race the plans that the diagnosis leaves open, and let the run go on as the winner.

    A run that has not been diagnosed is, first. What the race cost is printed, and stands in
    probe.json. `posttrain run` with the same recipe then goes on from the winner's checkpoint.
    """
    from posttrain.recipe import RecipeError
    from posttrain.run import load

    said = overrides or []
    name, said = _of_run(recipe, said)
    settings = load(name, [text for text in said if not text.startswith("probe.")])
    if settings.kind != "llm":
        raise RecipeError(f"{recipe}: only a language model's plans can be raced")
    asked = load(name, said).probe
    from posttrain.llm.race import race
    from posttrain.record import read_json, to_json

    folder = race(settings, asked)
    if rank() != 0:
        return
    found = read_json(folder / "probe.json")
    if json:
        typer.echo(to_json(found, indent=2))
        return
    from posttrain.terminal import show

    for name, arm in found["arms"].items():
        typer.echo(f"{name}: {_in_words(arm)}")
    for lap in found["rounds"]:
        typer.echo()
        show(round_table(lap))
    typer.echo()
    show(cost_table(found))
    typer.echo(found["reason"])
    typer.echo(folder)


def _of_run(recipe: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe of a run's folder, which goes on being written where it is."""
    folder = Path(recipe)
    stored = folder / "recipe.yaml"
    if not stored.exists():
        return recipe, list(overrides)
    return str(stored), [*overrides, f"output={folder.resolve().parent}"]


def _in_words(arm: Mapping[str, Any]) -> str:
    from posttrain.intervention.plan import plan_from_dict
    from posttrain.terminal import describe

    if arm["algorithm"] == "sft":
        return "further SFT on D"
    return describe(plan_from_dict(arm["plan"])).replace("\n", "; ")


def round_table(lap: Mapping[str, Any]) -> Table:
    """The arms of a round, best first: means, and how far each is from the best, unit by unit."""
    from rich.table import Table

    arms = lap["arms"]
    others = [arm["against_best"] for arm in arms if arm["name"] != lap["best"]]
    reach = max(abs(end) for found in others for end in found["interval"]) or 1.0
    table = Table(
        f"step {lap['steps']}", "return", "by seed", "to best", "interval", f"±{reach:.3f}", "",
        box=None, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for arm in arms:
        found = arm["against_best"]
        low, high = found["interval"]
        best = arm["name"] == lap["best"]
        table.add_row(
            arm["name"],
            f"{arm['mean']:.3f}",
            " ".join(f"{mean:.3f}" for mean in arm["by_seed"]),
            "" if best else f"{found['gain']:+.3f}",
            "" if best else f"{low:+.3f} to {high:+.3f}",
            "" if best else bar(low, found["gain"], high, reach),
            "on" if arm["goes_on"] else "",
        )
    return table


def bar(low: float, middle: float, high: float, reach: float) -> str:
    """An interval in a row of characters from -reach to reach.

    >>> bar(-0.5, -0.25, 0.0, 1.0)
    '····├●─┤·······'
    """
    line = ["·"] * WIDTH

    def column(value: float) -> int:
        return round((max(-reach, min(reach, value)) + reach) / (2 * reach) * (WIDTH - 1))

    for place in range(column(low), column(high) + 1):
        line[place] = "─"
    line[column(low)], line[column(high)] = "├", "┤"
    line[column(middle)] = "●"
    return "".join(line)


def cost_table(found: Mapping[str, Any]) -> Table:
    """What every arm cost, all seeds together, the sum, and what the run goes on with."""
    from rich.table import Table

    table = Table("cost", *COUNTS.values(), box=None, padding=(0, 2, 0, 0))
    cost = found["cost"]
    spent: dict[str, dict[str, float]] = {}
    for leg in cost["legs"]:
        before = spent.get(leg["arm"], dict.fromkeys(COUNTS, 0))
        spent[leg["arm"]] = {name: before[name] + leg[name] for name in COUNTS}
    spent |= {"all": cost["total"], "handed over": cost["handed_over"]}
    for name, bill in spent.items():
        table.add_row(name, *(f"{bill[count]:,.0f}" for count in COUNTS))
    return table
