"""The last section: what the run was made of, and the commands that make it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from posttrain.report.section import Section

if TYPE_CHECKING:
    from posttrain.report.evidence import Evidence


def recipe(evidence: Evidence) -> Section:
    """Environment, recipe and commands."""
    key, title = "recipe", "Environment, recipe, commands"
    body = {
        "environment": list(_flat(evidence.environment or {})),
        "recipe": evidence.recipe,
        "commands": list(_commands(evidence)),
    }
    if evidence.environment is None and evidence.recipe is None:
        return Section(
            key=key, title=title, body=body,
            absent="The record holds neither its environment nor its recipe.",
        )  # fmt: skip
    return Section(key=key, title=title, body=body)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def _commands(evidence: Evidence) -> Iterator[tuple[str, str]]:
    folder = f"runs/{evidence.name}"
    started = (evidence.environment or {}).get("command")
    if isinstance(started, str):
        yield "as it was started", started
    if evidence.recipe is not None:
        processes = (evidence.environment or {}).get("processes", 1)
        launch = f"accelerate launch --num_processes {processes} -m " if processes != 1 else ""
        yield "the whole run again", f"{launch}posttrain run {folder}/recipe.yaml"
    yield "this page", f"posttrain report {folder}"
