"""`posttrain card` and `posttrain push`: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def card(folder: Run) -> None:
    """Write a model card with the diagnosis into the run's rl folder."""
    from posttrain.card import write_card

    typer.echo(write_card(folder))


def push(
    *,
    folder: Run,
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
) -> None:
    """Upload the run's model with its card to the Hugging Face Hub.

    The token is the one that `hf auth login` stored, or HF_TOKEN. Nothing else ever uploads.
    """
    from posttrain.push import push

    typer.echo(push(folder, repo_id, private=private))
