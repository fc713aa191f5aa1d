"""How is a refused recipe explained: which field, what was wanted, what came?"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

if typing.TYPE_CHECKING:
    from pydantic import ValidationError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Complaint:
    """One refused field."""

    path: Path
    text: str

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        return f"{where}: {self.text}" if where else self.text


def explain(cls: Any, data: Any, error: ValidationError) -> list[Complaint]:
    """Turn pydantic's errors into complaints by dotted path, one a field.

    Pydantic reports every branch of a union. Where the value got further into one branch,
    what the others wanted is noise; where none fits, their wants are joined by "or".
    """
    found: dict[Path, list[tuple[bool, Complaint]]] = {}
    for item in error.errors(include_url=False):
        place = _place(cls, data, item["loc"])
        if place is None:
            continue
        complaint = Complaint(*_sentence(item, place))
        found.setdefault(complaint.path, []).append((place.in_union, complaint))
    complaints = []
    for path, group in found.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in found)
        texts = list(dict.fromkeys(c.text for union, c in group if not (union and deeper)))
        if texts:
            complaints.append(Complaint(path, _join(texts)))
    return complaints


def _join(texts: list[str]) -> str:
    """One sentence out of what each branch of a union wanted."""
    wants = [text.removeprefix("wanted ").rsplit(", got ", 1)[0] for text in texts]
    if len(texts) > 1 and all(t.startswith("wanted ") and ", got " in t for t in texts):
        return f"wanted {' or '.join(wants)}, got {texts[0].rsplit(', got ', 1)[1]}"
    return "; ".join(texts)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an error lies in the data, and the type that was wanted there."""

    path: Path
    parent: Any
    wanted: Any
    value: Any
    in_union: bool


def _place(cls: Any, data: Any, loc: Sequence[str | int]) -> _Place | None:
    """Follow pydantic's location, which mixes keys with names of union branches.

    Returns None for a branch that the value's `kind` rules out.
    """
    path: Path = ()
    parent, wanted, value, in_union = None, cls, data, False
    for part in loc:
        branches = _branches(wanted)
        if len(branches) > 1:  # the next part names the branch, not a key
            kind = value.get("kind") if isinstance(value, Mapping) else None
            wanted = next((b for b in branches if _is_branch(b, part)), None)
            if any(kind in kinds(b) for b in branches) and kind not in kinds(wanted):
                return None
            in_union = True
            continue
        parent = branches[0] if branches else None
        wanted = _inside(parent, part)
        path = (*path, part)
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        in_union = False
    return _Place(path, parent, wanted, value, in_union)


def _branches(wanted: Any) -> list[Any]:
    """Members of a union but None; the type itself where it is no union."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    if get_origin(wanted) in {Union, types.UnionType}:
        return [
            b for member in get_args(wanted) if member is not type(None) for b in _branches(member)
        ]
    return [wanted]


def _is_branch(branch: Any, label: str | int) -> bool:
    name = getattr(get_origin(branch) or branch, "__name__", "")
    return label in {name, *kinds(branch)} or str(label).startswith(f"{name}[")


def kinds(branch: Any) -> tuple[str, ...]:
    """Values of the `kind` that tells a dataclass apart, if it has one."""
    hint = _hints(branch).get("kind") if is_dataclass(branch) else None
    return get_args(hint) if get_origin(hint) is Literal else ()


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:  # a name only a type checker sees
        return {}


def _inside(wanted: Any, part: str | int) -> Any:
    """Type of a field, a mapping's value or a list's item."""
    if is_dataclass(wanted):
        return _hints(wanted).get(str(part))
    args = [a for a in get_args(wanted) if a is not Ellipsis]
    origin = get_origin(wanted)
    if not args or origin is Literal:
        return None
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return args[-1]
    if origin is tuple and isinstance(part, int) and Ellipsis not in get_args(wanted):
        return args[part] if part < len(args) else None
    return args[0]


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "none_required": "null",
    "path_type": "a path",
    "finite_number": "a finite number",
}


def _sentence(item: Any, place: _Place) -> tuple[Path, str]:
    kind, context = item["type"], item.get("ctx", {})
    got = show(place.value)
    path = place.path
    if kind in _WANTED:
        text = f"wanted {_WANTED[kind]}, got {got}"
    elif kind in {"dataclass_type", "dataclass_exact_type"}:
        text = f"wanted {_mapping_of(place.wanted)}, got {got}"
    elif kind == "missing":
        text = "is missing"
    elif kind in {"unexpected_keyword_argument", "extra_forbidden"}:
        text = "no such field" + _suggest(str(path[-1]), field_names(place.parent))
    elif kind in {"literal_error", "enum"}:
        choices = context["expected"]
        text = f"wanted {choices}, got {got}" + _nearest(place.value, choices)
    elif kind in {"union_tag_not_found", "union_tag_invalid"}:
        path, text = (*path, "kind"), _wrong_tag(context.get("tag"), place.wanted)
    elif kind == "too_long":
        text = f"wanted a list of at most {context['max_length']}, got {got}"
    elif kind in {"value_error", "assertion_error"}:
        text = str(context.get("error", item["msg"]))
    else:
        message = item["msg"].removeprefix("Input should be ")
        text = f"wanted {message}, got {got}" if message != item["msg"] else message
    return path, text


def _wrong_tag(tag: str | None, union: Any) -> str:
    tags = [repr(tag) for branch in _branches(union) for tag in kinds(branch)]
    wanted = f"wanted {_list(tags, 'or')}"
    if tag is None:
        return f"is missing; {wanted}"
    return f"{wanted}, got {show(tag)}" + _nearest(tag, ", ".join(tags))


def field_names(cls: Any) -> tuple[str, ...]:
    """Names a recipe may set in a dataclass."""
    return tuple(f.name for f in fields(cls) if f.init) if is_dataclass(cls) else ()


def _mapping_of(cls: Any) -> str:
    names = field_names(cls)
    return f"a mapping with {_list(names)}" if names else "a mapping"


def _suggest(name: str, known: Sequence[str]) -> str:
    """The nearest known name if one is near, and the list of all if it is short."""
    near = get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; the fields here are {_list(known)}" if known else ""


def _nearest(value: Any, expected: str) -> str:
    """Did-you-mean out of pydantic's own list of quoted choices."""
    near = get_close_matches(str(value), expected.split("'")[1::2], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _list(names: Sequence[str], word: str = "and", limit: int = 20) -> str:
    names = [*names[:limit], f"{len(names) - limit} more"] if len(names) > limit else list(names)
    return (
        f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
    )


def show(value: Any) -> str:
    """A value as a reader of YAML thinks of it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:37] + '...'!r}"
    if isinstance(value, Mapping):
        return f"a mapping with {_list(list(map(str, value)), limit=5)}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "[]"
    return f"the number {str(value)[:40]}"
