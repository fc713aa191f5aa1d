"""Which YAML do recipes speak?

The JSON part of YAML 1.2: mappings, lists, texts, numbers, `true`/`false` and `null`. Against
YAML 1.1 (PyYAML's default) `5e-4` is a number, `no`, `on` and dates are texts. Refused, since
a recipe is read by people and hashed by machines: duplicate keys, tags, and aliases (which
can also build loops, or terabytes out of a few lines).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml


class YamlError(ValueError):
    """The text is not the YAML that recipes speak."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and the line on which each of them (or its key) begins."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write equal objects out in full."""
        return True


_INT = r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+"
_FLOAT = (
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", _INT, list("-+0123456789")),
        ("float", _FLOAT, list("-+.0123456789")),
    ):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), _first
        )


def parse_yaml(text: str) -> Document:
    """Read one document.

    Raises:
        YamlError: bad syntax, or YAML beyond what recipes speak, with its line.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(
            f"not valid YAML: {error.problem or error.context}", mark.line + 1 if mark else None
        ) from None
    except RecursionError:
        raise YamlError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError) as error:
        raise YamlError(f"not valid YAML: {str(error).splitlines()[0]}") from None
    builder = _Builder()
    try:
        return Document(None if node is None else builder.value(node, ()), builder.lines)
    except RecursionError:
        raise YamlError("nested too deeply") from None


class _Builder:
    """Turns nodes into plain values, and remembers where each began."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.seen: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if id(node) in self.seen:
            raise YamlError(
                "aliases (*name) are not read in recipes: write the value out", self.lines[path]
            )
        self.seen.add(id(node))
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in {"str", "null", "bool", "int", "float"}:
            return _scalar(node.value, kind, line)
        raise YamlError(f"tags such as {node.tag} are not read in recipes", line)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError("a key must be a plain word, got a list or a mapping", line)
            key = _scalar(key_node.value, "str", line)
            if key in values:
                raise YamlError(
                    f"key {key!r} appears twice, first on line {self.lines[(*path, key)]}", line
                )
            self.lines[(*path, key)] = line
            values[key] = self.value(value_node, (*path, key))
        return values


def _scalar(text: str, kind: str, line: int) -> Any:
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            digits = text.replace("_", "")
            return int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))
        if kind == "float":
            return _finite(text, line)
        text.encode()
    except UnicodeEncodeError:
        raise YamlError(f"half of a surrogate pair in {text!a}", line) from None
    except YamlError:
        raise
    except ValueError as error:
        raise YamlError(f"{text[:40]!r} cannot be read as {kind}: {error}", line) from None
    return text


def _finite(text: str, line: int) -> float:
    if "n" in text.lower():  # .inf or .nan
        raise YamlError(f"{text}: a number in a recipe must be finite", line)
    number = float(text.replace("_", ""))
    if not math.isfinite(number):
        raise YamlError(f"{text[:40]}: a number in a recipe must be finite", line)
    return number


def to_yaml(data: Any) -> str:
    """Write plain values so that `parse_yaml` reads the same ones back."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=False,
    )
