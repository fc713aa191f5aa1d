"""How does plain data become a frozen value again? Strictly: every key and every type must fit."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def read(kind: Any, plain: Any, where: str) -> Any:
    """Read `plain` (what `json.loads` gives) as a value of type `kind`.

    Knows dataclasses, named tuples, string enums, literals, unions with None, homogeneous and
    fixed tuples, dicts with integer keys, booleans and finite numbers; `where` is the dotted path
    so far. A key may be missing where its field has a default: the record is older than the field.

    Raises:
        ValueError: With the path, what was wanted and what came.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        (wanted,) = (argument for argument in arguments if argument is not type(None))
        return None if plain is None else read(wanted, plain, where)
    generic = {Literal: _one_of, tuple: _tuple, dict: _dict}
    if origin in generic:
        return generic[origin](arguments, plain, where)
    if is_dataclass(kind):
        return _object(kind, plain, where)
    if issubclass(kind, tuple):
        values = _tuple(tuple(get_type_hints(kind).values()), plain, where)
        return kind(*values)
    return (
        kind(_one_of(tuple(kind), plain, where))
        if issubclass(kind, StrEnum)
        else _scalar(kind, plain, where)
    )


def _object(kind: Any, plain: Any, where: str) -> Any:
    names = [field.name for field in fields(kind)]
    if not isinstance(plain, Mapping):
        raise _wrong(where, "an object", plain)
    if unknown := sorted(set(plain) - set(names)):
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}; the keys are {names}")
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    if missing := [name for name in needed if name not in plain]:
        raise ValueError(f"{where} lacks the key {missing[0]!r}")
    hints = get_type_hints(kind)
    given = [name for name in names if name in plain]
    return kind(**{name: read(hints[name], plain[name], f"{where}.{name}") for name in given})


def _tuple(arguments: tuple[Any, ...], plain: Any, where: str) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        values = _list(plain, where)
        kinds = [arguments[0]] * len(values)
    else:
        values = _list(plain, where, length=len(arguments))
        kinds = list(arguments)
    return tuple(
        read(kind, value, f"{where}[{i}]")
        for i, (kind, value) in enumerate(zip(kinds, values, strict=True))
    )


def _dict(arguments: tuple[Any, ...], plain: Any, where: str) -> dict[int, Any]:
    if not isinstance(plain, Mapping):
        raise _wrong(where, "an object", plain)
    for key in plain:
        if not (isinstance(key, str) and key.isdecimal()):
            raise _wrong(f"{where}: a key", "a whole number", key)
    return {int(key): read(arguments[1], value, f"{where}.{key}") for key, value in plain.items()}


def _list(plain: Any, where: str, length: int | None = None) -> list[Any]:
    if not isinstance(plain, list | tuple) or length not in {None, len(plain)}:
        size = "" if length is None else f" of {length}"
        raise _wrong(where, f"a list{size}", plain)
    return list(plain)


def _one_of(options: tuple[Any, ...], plain: Any, where: str) -> Any:
    if not isinstance(plain, str) or plain not in options:
        raise _wrong(where, f"one of {[str(option) for option in options]}", plain)
    return plain


def _scalar(kind: Any, plain: Any, where: str) -> Any:
    number = isinstance(plain, int | float) and not isinstance(plain, bool)
    if kind is float and number and math.isfinite(plain):
        return float(plain)
    if kind is int and number and plain == int(plain):
        return int(plain)
    if kind in {str, bool} and isinstance(plain, kind):
        return plain
    words = {
        float: "a finite number",
        int: "a whole number",
        str: "a string",
        bool: "true or false",
    }
    raise _wrong(where, words[kind], plain)


def _wrong(where: str, wanted: str, plain: Any) -> ValueError:
    return ValueError(f"{where} must be {wanted}, got {plain!r}")
