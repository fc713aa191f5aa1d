"""How does a YAML file become a frozen dataclass, with no guessing on the way?

Fields are checked strictly against the dataclass (nested, and unions told apart by `kind`):
no unknown key, and no coercion but whole numbers where a float is wanted. Every complaint
names the file, the line, the dotted field, what was wanted and what came.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Discriminator, TypeAdapter, ValidationError

from posttrain.complaint import explain, show
from posttrain.yaml12 import Document, YamlError, parse_yaml, to_yaml

T = TypeVar("T")

BY_KIND = Discriminator("kind")
"""Tells a union of dataclasses apart by `kind`: `Annotated[Anchor | Replay, BY_KIND]`."""


class RecipeError(ValueError):
    """A recipe cannot be read; the message has one line for each complaint."""


def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Made once a class: a study reads hundreds of recipes."""
    return _made(cls)


@functools.cache
def _made(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cls)  # type: ignore[arg-type]


def load(cls: type[T] | Any, source: Path | str, overrides: Sequence[str] = ()) -> T:
    """Read a recipe into `cls`.

    Args:
        cls: A dataclass, or any type pydantic knows, such as a union told apart by `kind`.
        source: A file when it is a `Path`, YAML text when it is a `str`; `find_recipe` turns a
            name into a `Path`.
        overrides: `train.steps=10`, `interventions.0.weight=0.5`: values are YAML.

    Raises:
        RecipeError: with one line for each complaint.
    """
    name, document = _document(source)
    data = document.data if document.data is not None else {}
    if not isinstance(data, dict):
        hint = "" if isinstance(source, Path) else "; a file is read from a Path, not from a str"
        raise RecipeError(f"{name}: wanted a mapping of fields, got {show(data)}{hint}")
    origins = {path: f"{name}:{line}" for path, line in document.lines.items()}
    for override in overrides:
        path = _override(data, override)
        origins = {p: o for p, o in origins.items() if p[: len(path)] != path}
        origins[path] = "override"
    try:
        instance: T = _adapter(cls).validate_json(json.dumps(data), strict=True, extra="forbid")
    except ValidationError as error:
        complaints = explain(cls, data, error)
        lines = [f"{_origin(origins, c.path, name)}: {c}" for c in complaints]
        raise RecipeError("\n".join(lines)) from None
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{name}: {error}") from None
    return instance


def read(source: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe as plain values, unchecked but for its YAML: to look at its `kind`.

    Raises:
        RecipeError: no such file, or not a mapping in the YAML that recipes speak.
    """
    name, document = _document(source)
    data = document.data if document.data is not None else {}
    if not isinstance(data, dict):
        raise RecipeError(f"{name}: wanted a mapping of fields, got {show(data)}")
    for override in overrides:
        _override(data, override)
    return data


def dump(instance: Any) -> str:
    """Write every field of an instance as YAML, which `load` reads back to an equal one.

    Raises:
        RecipeError: a NaN or an infinity, which recipes cannot hold.
    """
    data = _adapter(type(instance)).dump_python(instance, mode="json")
    plain = _adapter(type(instance)).dump_python(instance)
    if (path := _not_finite(plain)) is not None:
        raise RecipeError(f"{path}: wanted a finite number")
    return to_yaml(data)


def _document(source: Path | str) -> tuple[str, Document]:
    """Name for messages, and the parsed text."""
    if isinstance(source, str):
        name, text = "recipe", source
    else:
        name = (
            os.path.relpath(source) if source.resolve().is_relative_to(Path.cwd()) else str(source)
        )
        try:
            text = source.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{name}: not UTF-8 text: {error.reason}") from None
        except OSError as error:
            raise RecipeError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        return name, parse_yaml(text)
    except YamlError as error:
        where = f"{name}:{error.line}" if error.line else name
        raise RecipeError(f"{where}: {error.problem}") from None


def _origin(origins: Mapping[tuple[str | int, ...], str], path: tuple[Any, ...], name: str) -> str:
    """Where the field was set, or the nearest field around it."""
    for length in range(len(path), 0, -1):
        if found := origins.get(path[:length]):
            return found
    return name


def _override(data: dict[str, Any], override: str) -> tuple[str | int, ...]:
    """Set one `a.b.0.c=value` in plain data, in place; return its path."""
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise RecipeError(f"override {override!r}: wanted field=value, such as train.steps=10")
    try:
        value = parse_yaml(text).data
    except YamlError as error:
        raise RecipeError(f"override {name}: {error.problem}") from None
    path: list[str | int] = []
    here: Any = data
    parts = name.split(".")
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        key = _key(here, part, name, ".".join(parts[:i]))
        path.append(key)
        if last:
            here[key] = value
        elif isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here = here[key]
    return tuple(path)


def _key(here: Any, part: str, name: str, above: str) -> str | int:
    """The key or index that a part of an override means inside `here`."""
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise RecipeError(f"override {name}: {above} is {show(here)}, which has no fields inside")
    if not (part.isascii() and part.isdigit()) or int(part[:9]) >= len(here):
        raise RecipeError(
            f"override {name}: {above} is a list of {len(here)}; "
            f"wanted an index below that, got {part!r}"
        )
    return int(part)


def _not_finite(value: Any, path: str = "") -> str | None:
    """Dotted path of the first float that is not finite."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, float) and not math.isfinite(value):
        return path
    inner = (_not_finite(v, f"{path}.{k}" if path else str(k)) for k, v in items)
    return next((found for found in inner if found is not None), None)


@dataclass(frozen=True, slots=True)
class Listed:
    """A recipe that comes with the package: its name, its first comment, its file."""

    name: str
    summary: str
    path: Path


def recipes_folder() -> Path:
    """Where the packaged recipes lie: inside the wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def list_recipes() -> tuple[Listed, ...]:
    """All packaged recipes by name. Those of `accelerate/` are accelerate's own, not ours."""
    root = recipes_folder()
    found = []
    for path in sorted(root.rglob("*.yaml")):
        name = path.relative_to(root).with_suffix("").as_posix()
        if not name.startswith("accelerate/"):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            summary = first.removeprefix("#").strip() if first.startswith("#") else ""
            found.append(Listed(name, summary, path))
    return tuple(found)


def find_recipe(name: str | Path) -> Path:
    """Resolve a file, or the name of a packaged recipe such as `llm/arithmetic`.

    Raises:
        RecipeError: there is neither; with the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    wanted = str(name).removesuffix(".yaml")
    names = {listed.name: listed.path for listed in list_recipes()}
    if wanted in names:
        return names[wanted]
    near = get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"`posttrain recipes` lists {len(names)}"
    raise RecipeError(f"{name}: no such file, and no packaged recipe has this name; {hint}")
