"""`posttrain study`: what can be typed; the work is done in `posttrain.study`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

FAILED = 1


def study(
    *,
    file: Annotated[
        str, typer.Argument(metavar="STUDY", help="A file, or a name that recipes lists.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Such as seeds=[0,1] or arms.0.name=x."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Processes at once; -1 for one a CPU, or all of a cluster.")
    ] = 1,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Run the I-th of N parts, I from 0.")
    ] = "0/1",
    backend: Annotated[str, typer.Option(help="loky, threading, dask or ray.")] = "loky",
    table: Annotated[
        bool, typer.Option("--table", help="Run nothing; tabulate what there is.")
    ] = False,
) -> None:
    """Run settings x arms x seeds, and say whether the diagnosis was right.

    Cells that are complete are skipped, others go on where they were stopped. Exit status: 0, or 1
    when cells failed; each has its error.txt.
    """
    from posttrain.study.run import load_study, run_study, write_table
    from posttrain.study.show import summary, to_markdown, to_terminal
    from posttrain.terminal import show

    loaded = load_study(file, overrides or ())
    outcomes = [] if table else run_study(loaded, jobs=jobs, part=shard, backend=backend)
    found = write_table(loaded)
    if sys.stdout.isatty():
        show(to_terminal(found))
    else:  # a wide table is not to be folded into a file
        typer.echo(to_markdown(found))
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        typer.echo(f"{outcome.name}: {outcome.reason}", err=True)
    typer.echo(f"{summary(found)}\n{loaded.folder}")
    if failed:
        typer.echo(f"{len(failed)} of {len(outcomes)} cells failed", err=True)
        raise typer.Exit(FAILED)
