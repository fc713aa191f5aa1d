"""Options for another framework, and everything that had to be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from posttrain.export.framework import Form, Framework
from posttrain.export.says import Algorithm, Value

How: TypeAlias = Literal["exact", "approximate", "cannot", "without effect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A plan in the words of another framework.

    `options` are in the order in which they should be read. `fields` says of every field of the
    plan that asks for something how it was honoured; what is not exact is explained in `notes` and
    `cannot`. `warnings` are traps of the framework that this plan runs into. `instead` names the
    slots that cannot be said there and that Posttrain itself honours; `recipe` is the plan for
    `posttrain run`, where the framework is the one that it stands on.
    """

    framework: Framework
    algorithm: Algorithm
    options: Mapping[str, Value]
    fields: Mapping[str, How]
    notes: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    instead: str = ""
    recipe: str = ""

    @property
    def text(self) -> str:
        """The options in the framework's own form, under two lines on what they are for."""
        f = self.framework
        head = [f"# {f.title} {f.version}, {f.repository} at {f.source[:12]}", f"# {f.command}"]
        return "\n".join([*head, *lines(self.options, f.form)]) + "\n"

    @property
    def sources(self) -> dict[str, str]:
        """The file that each option's name was read in."""
        return {name: self.framework.options[name].file for name in self.options}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "framework": self.framework.name,
            "version": self.framework.version,
            "repository": self.framework.repository,
            "read_from": self.framework.source,
            "algorithm": self.algorithm,
            "options": dict(self.options),
            "sources": self.sources,
            "fields": dict(self.fields),
            "notes": list(self.notes),
            "cannot": list(self.cannot),
            "warnings": list(self.warnings),
            "instead": self.instead or None,
            "recipe": self.recipe or None,
        }


def lines(options: Mapping[str, Value], form: Form) -> list[str]:
    """Write options as a framework reads them.

    >>> lines({"--use": True, "--off": False, "--beta": 0.05}, "switches")
    ['--use', '--beta 0.05']
    >>> lines({"a.b": 1, "a.c": True}, "yaml")
    ['a:', '  b: 1', '  c: true']
    """
    match form:
        case "overrides":
            return [f"{name}={value}" for name, value in options.items()]
        case "flags":
            return [f"{name} {_lower(value)}" for name, value in options.items()]
        case "equals":
            return [f"{name}={_lower(value)}" for name, value in options.items()]
        case "switches":
            return [
                name if value is True else f"{name} {value}"
                for name, value in options.items()
                if value is not False
            ]
        case "yaml":
            return _yaml(options).splitlines()


def _lower(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _yaml(options: Mapping[str, Value]) -> str:
    import yaml

    tree: dict[str, Any] = {}
    for name, value in options.items():
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return yaml.safe_dump(tree, sort_keys=False) if tree else ""
