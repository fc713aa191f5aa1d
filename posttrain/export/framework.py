"""What is known of a framework's options, and at which version it was read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

from posttrain.export.says import Algorithm

Form: TypeAlias = Literal["overrides", "flags", "switches", "equals", "yaml"]
"""How options are written: key=value; --key value; --key value with bare switches; --key=value;
nested YAML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Where an option's name was read: `text` stands in `file` of the repository.

    `values` are all that an export may give it, where they are words; each stands in `values_file`.
    """

    file: str
    text: str
    values: tuple[str, ...] = ()
    values_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A trainer that somebody else maintains."""

    name: str
    title: str
    repository: str
    """owner/name on GitHub."""
    version: str
    source: str
    """What was read: a commit of the repository, or the release of a package."""
    form: Form
    command: str
    algorithms: tuple[Algorithm, ...]
    """Those that an export knows; the first is the default."""
    options: Mapping[str, Option]


@cache
def frameworks() -> Mapping[str, Framework]:
    """All frameworks by name, as options.toml has them."""
    text = resources.files("posttrain.export").joinpath("options.toml").read_text("utf-8")
    return {name: _framework(name, table) for name, table in tomllib.loads(text).items()}


def _framework(name: str, table: Mapping[str, Any]) -> Framework:
    source = table.get("commit") or f"{table['package']} {table['version']}"
    return Framework(
        name=name,
        title=table["title"],
        repository=table["repository"],
        version=table["version"],
        source=source,
        form=table["form"],
        command=table["command"],
        algorithms=tuple(table["algorithms"]),
        options={key: _option(key, entry) for key, entry in table["options"].items()},
    )


def _option(key: str, entry: Mapping[str, Any]) -> Option:
    return Option(
        file=entry["file"],
        text=entry.get("text", key),
        values=tuple(entry.get("values", ())),
        values_file=entry.get("values_file", entry["file"]),
    )
