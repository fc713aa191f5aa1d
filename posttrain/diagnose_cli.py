"""`posttrain diagnose`: what can be typed, and what is told."""

from __future__ import annotations

import functools
import json as plain_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.ending import UNDECIDED

if TYPE_CHECKING:
    from posttrain.inputs import Sides
    from posttrain.regime.diagnosis import Diagnosis
    from posttrain.regime.logs import Reading
    from posttrain.regime.tasks import TaskDiagnosis

Source = Annotated[
    Path | None,
    typer.Argument(
        help="A run's folder, or one score file whose column 'source' tells sides apart."
    ),
]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Scores of pi_0.")]
DatasetFile = Annotated[Path | None, typer.Option("--dataset", help="Scores of the dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print the machine form and nothing else.")]


def diagnose(
    *,
    source: Source = None,
    policy: PolicyFile = None,
    dataset: DatasetFile = None,
    deployment: Annotated[
        Path | None, typer.Option(help="Scores of pi_0 under the decoding it is deployed with.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Smallest gap that matters; 0.05 if not said.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Chance of a wrong verdict; 0.05 if not said.")
    ] = None,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH", help="Lowest and highest possible return; 0 1 if not said."
        ),
    ] = None,
    unbounded: Annotated[
        bool,
        typer.Option(
            "--unbounded", help="The scale is two returns to compare with, and bounds nothing."
        ),
    ] = False,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential", help="Stay valid however often you look while the files grow."
        ),
    ] = False,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=COLUMN",
            help="Which column of a log is the return, success, task, init, steps, unit, source "
            "or truncated.",
        ),
    ] = None,
    time_penalty: Annotated[
        float | None,
        typer.Option(help="Returns of success and time: success * (1 - this * steps / limit)."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="The limit on an episode's steps, for --time-penalty.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page here.")] = None,
    json: Json = False,
) -> None:
    """Tell which is better: the policy or its dataset.

    Exit status: 0 for a verdict, 3 for undecided, 2 for bad input. Files are .jsonl, .csv or
    .parquet with the column 'return', and 'unit' where episodes can be paired; or evaluation logs
    of other tools, .json too. Where both sides say their tasks, each gets a verdict of its own.
    """
    from posttrain.inputs import read_diagnosis, read_sides

    stored = read_diagnosis(source) if source is not None else None
    reading = _reading(columns, time_penalty=time_penalty, max_steps=max_steps)
    sides = functools.cache(
        functools.partial(
            read_sides,
            source,
            policy=policy,
            dataset=dataset,
            deployment=deployment,
            reading=reading,
        )
    )
    if (
        stored is None
        or sequential
        or unbounded
        or any(x is not None for x in (deployment, margin, alpha, scale, columns, time_penalty))
    ):
        settings = settings_of(stored, margin=margin, alpha=alpha, scale=scale, unbounded=unbounded)
        stored = compare(sides(), sequential=sequential, **settings)
    if report is not None:
        from posttrain.report import write_report_from_scores

        write_report_from_scores(stored, sides().policy, sides().dataset, report)
    here = source is None or not _alone(source)
    tasks = None if sequential or not here else _tasks(sides(), stored)
    plain = None if time_penalty is None else _by_success(sides(), stored)
    _tell(stored, tasks, plain, json=json)
    if stored.regime == "undecided":
        raise typer.Exit(UNDECIDED)


def settings_of(
    stored: Diagnosis | None,
    *,
    margin: float | None = None,
    alpha: float | None = None,
    scale: tuple[float, float] | None = None,
    unbounded: bool = False,
) -> dict[str, Any]:
    """What was said, else what an earlier diagnosis of the run used, else the defaults."""
    return {
        "margin": margin if margin is not None else stored.margin if stored else 0.05,
        "alpha": alpha if alpha is not None else stored.alpha if stored else 0.05,
        "scale": scale if scale is not None else stored.scale if stored else None,
        "bounded": not unbounded and (stored is None or scale is not None or stored.bounded),
    }


def compare(sides: Sides, *, sequential: bool, **settings: Any) -> Diagnosis:
    """Diagnose by the test for one look, or for as many as wanted."""
    from posttrain.regime.diagnosis import diagnose
    from posttrain.regime.sequential import diagnose_sequential

    test = diagnose_sequential if sequential else diagnose
    return test(sides.policy, sides.dataset, deployment=sides.deployment, **settings)


def _reading(
    columns: list[str] | None, *, time_penalty: float | None, max_steps: int | None
) -> Reading:
    from posttrain.regime.logs import Reading
    from posttrain.regime.scores import ScoresError

    named: dict[str, str] = {}
    for choice in columns or ():
        what, equals, column = choice.partition("=")
        if not (equals and column):
            raise ScoresError(f"--columns: wanted WHAT=COLUMN such as return=score, got '{choice}'")
        named[what] = column
    return Reading(columns=named, time_penalty=time_penalty, max_steps=max_steps)


def _alone(source: Path) -> bool:
    """Whether there is a diagnosis and no scores beside it."""
    return not (source / "scores.parquet").exists() if source.is_dir() else source.suffix == ".json"


def _tasks(sides: Sides, of: Diagnosis) -> TaskDiagnosis | None:
    """Verdicts by task; None where no side says its tasks, or, with a word, where they miss."""
    from posttrain.regime.scores import ScoresError
    from posttrain.regime.tasks import by_task

    if sides.policy.task is None and sides.dataset.task is None:
        return None
    try:
        return by_task(
            sides.policy,
            sides.dataset,
            margin=of.margin,
            alpha=of.alpha,
            scale=of.scale,
            bounded=of.bounded,
        )
    except ScoresError as error:
        typer.echo(f"No verdict by task: {error}", err=True)
        return None


def _by_success(sides: Sides, of: Diagnosis) -> Diagnosis | None:
    """What success alone says, beside returns that count time."""
    from posttrain.regime.diagnosis import diagnose
    from posttrain.regime.logs import by_success

    policy, dataset = by_success(sides.policy), by_success(sides.dataset)
    if policy is None or dataset is None:
        return None
    return diagnose(policy, dataset, margin=of.margin, alpha=of.alpha)


def _tell(
    result: Diagnosis, tasks: TaskDiagnosis | None, plain: Diagnosis | None, *, json: bool
) -> None:
    if json:
        more = {"tasks": tasks, "by_success": plain}
        told = {name: value.to_dict() for name, value in more.items() if value is not None}
        typer.echo(plain_json.dumps({**result.to_dict(), **told}, indent=2, allow_nan=False))
        return
    from posttrain.terminal import show, task_panel, verdict_panel

    show(verdict_panel(result))
    if plain is not None:
        show(f"By success alone: {plain.sentence}")
    if tasks is not None:
        show(task_panel(tasks))
