"""Prompts and demonstrations, from wherever they lie, as rows of one form, split by a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.llm.preferences import PreferenceError, as_demonstration
from posttrain.llm.settings import DataSettings
from posttrain.tuning import pictures
from posttrain.tuning.turns import Message, TurnsError, divide, extras, words


class DataError(ValueError):
    """A sentence that names the source, the row and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One demonstration: a conversation up to the answer, and the answer that D holds.

    `columns` are the source's other fields, passed to reward functions by name. `images` are the
    pictures that the first user message shows, each as `posttrain.tuning.pictures` writes it.

    A demonstration that calls tools has `turns`: every message after the prompt, of which
    `completion` is the last one's text. `tools` are the JSON schemas that the prompt shows.
    """

    unit: str
    prompt: tuple[Message, ...]
    completion: str
    answer: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The last thing the user says."""
        return self.prompt[-1]["content"]

    def reward_columns(self) -> dict[str, Any]:
        """What a reward function may ask for beside the completion."""
        given: dict[str, Any] = {
            "prompt": list(self.prompt),
            "unit": self.unit,
            "answer": self.answer,
        }
        return {**self.columns, **given, **self.shown()}

    def shown(self) -> dict[str, Any]:
        """The pictures, decoded, as the column that TRL reads; no column without any."""
        if not self.images:
            return {}
        return {"images": [pictures.decode(image) for image in self.images]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {
            "unit": self.unit,
            "prompt": list(self.prompt),
            "completion": self.completion,
            "answer": self.answer,
            "columns": self.columns,
        }
        rare = {"images": self.images, "turns": self.turns, "tools": self.tools}
        return {**plain, **{name: list(value) for name, value in rare.items() if value}}


def row_from_dict(data: Mapping[str, Any]) -> Row:
    """Rebuild a row from `Row.to_dict`."""
    lists = ("prompt", "images", "turns", "tools")
    return Row(**{**data, **{name: tuple(data.get(name, ())) for name in lists}})


def unit_of(prompt: Sequence[Message], images: Sequence[str] = ()) -> str:
    """A short name for a prompt and its pictures: the same has the same name everywhere."""
    text = json.dumps(list(prompt), sort_keys=True, ensure_ascii=False)
    text = "\n".join((text, *images))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """Everything that is said in `rows`."""
    for row in rows:
        yield from (message["content"] for message in row.prompt)
        yield row.completion
        yield from words(row.turns)


def load_rows(settings: DataSettings) -> tuple[list[Row], list[Row]]:
    """Read the source and split it: rows to train on, rows of held-out units.

    Raises:
        DataError: the source is missing or empty, or a row lacks a field.
    """
    from posttrain.llm.demonstrators import demonstrate

    rows = demonstrate(_read(settings.path, settings), settings)
    if settings.heldout_path is not None:
        heldout = demonstrate(_read(settings.heldout_path, settings), settings)
        seen = {row.unit for row in rows}
        if shared := [row.unit for row in heldout if row.unit in seen]:
            raise DataError(
                f"{settings.heldout_path}: {len(shared)} held-out prompts are also in "
                f"{settings.path} (first: unit {shared[0]}); held-out prompts must be unseen"
            )
        _check_shown((*rows, *heldout), settings.path)
        return rows, heldout
    _check_shown(rows, settings.path)
    return split(rows, settings.heldout, name=settings.path)


def _check_shown(rows: Sequence[Row], path: str) -> None:
    blind = sum(not row.images for row in rows)
    if blind not in (0, len(rows)):
        raise DataError(
            f"{path}: {blind} of {len(rows)} rows show no picture; either all rows show pictures "
            "or none does"
        )


def split(rows: Sequence[Row], heldout: int, *, name: str) -> tuple[list[Row], list[Row]]:
    """Set aside the `heldout` units whose hash is smallest; all rows of a unit stay together."""
    units = sorted({row.unit for row in rows}, key=lambda u: hashlib.sha256(u.encode()).digest())
    if len(units) <= heldout:
        raise DataError(
            f"{name}: {heldout} held-out units wanted, but there are only {len(units)} units in "
            "all; set data.heldout lower or bring more data"
        )
    aside = set(units[:heldout])
    return [r for r in rows if r.unit not in aside], [r for r in rows if r.unit in aside]


def _read(path: str, settings: DataSettings) -> list[Row]:
    if path.startswith("reasoning_gym:"):
        from posttrain.llm import reasoning

        return reasoning.make_rows(path.removeprefix("reasoning_gym:"), settings)
    if path == "shapes":
        from posttrain.llm import shapes

        return shapes.make_rows(settings)
    if path == "vault":
        from posttrain.llm import vault

        return vault.make_rows(settings)
    if path.startswith("asset:"):
        from posttrain.assets import resolve

        path = str(resolve(path))
    from posttrain.llm.sources import records

    rows = []
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for number, record in enumerate(records(path, settings.options), start=1):
        rows.append(_row(record, settings, f"{path}: row {number}", folder))
        if settings.size is not None and len(rows) == settings.size:
            break
    if not rows:
        raise DataError(f"{path}: wanted at least one row of prompt and completion, got none")
    return rows


def _row(record: Mapping[str, Any], settings: DataSettings, where: str, folder: Path) -> Row:
    if "chosen" in record and "rejected" in record and "completion" not in settings.columns:
        try:
            record = as_demonstration(record)
        except PreferenceError as error:
            raise DataError(f"{where}: {error}") from error
    name = {c: settings.columns.get(c, c) for c in ("prompt", "completion", "answer", "unit")}
    name["images"] = settings.columns.get("images", "images" if "images" in record else "image")
    if "messages" in record and name["prompt"] not in record:
        messages = _messages(record["messages"], "user", f"{where}: messages")
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise DataError(f"{where}: messages: wanted the last one from the assistant")
        prompt, turns = _divide(messages, where)
        if not turns:
            prompt = prompt[:-1]
        completion = messages[-1]["content"]
    else:
        for ours in ("prompt", "completion"):
            if record.get(name[ours]) is None:
                raise DataError(
                    f"{where}: no field {name[ours]!r} for the {ours}; it has {sorted(record)}. "
                    "Map the names with data.columns"
                )
        value = record[name["prompt"]]
        if isinstance(value, str) and settings.template is not None:
            value = settings.template.replace("{prompt}", value)
        prompt = _messages(value, "user", f"{where}: {name['prompt']}")
        said = _messages(record[name["completion"]], "assistant", f"{where}: {name['completion']}")
        turns, completion = _divide(said, where)[1], said[-1]["content"]
    if settings.system is not None:
        prompt = [{"role": "system", "content": settings.system}, *prompt]
    answer = record.get(name["answer"])
    used = {*name.values(), "messages"}
    images = _images(record, name["images"], where=where, folder=folder)
    _check_places(record.get("messages", record.get(name["prompt"])), len(images), where)
    return Row(
        unit=str(record.get(name["unit"]) or unit_of(prompt, images)),
        prompt=tuple(prompt),
        completion=completion,
        answer=None if answer is None else str(answer),
        columns={k: v for k, v in record.items() if k not in used},
        images=images,
        turns=turns,
    )


def _divide(messages: list[Message], where: str) -> tuple[list[Message], tuple[Message, ...]]:
    try:
        return divide(messages)
    except TurnsError as error:
        raise DataError(f"{where}: {error}") from error


def _images(record: Mapping[str, Any], name: str, *, where: str, folder: Path) -> tuple[str, ...]:
    """The pictures of a record, one or several."""
    value = record.get(name)
    values = [] if value is None else value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(pictures.read(one, folder=folder) for one in values)
    except pictures.PictureError as error:
        raise DataError(f"{where}: {name}: {error}") from error


def _messages(value: Any, role: str, where: str) -> list[Message]:
    """Read a plain string or number as one message of `role`; check a conversation."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return [{"role": role, "content": str(value)}]
    if isinstance(value, list) and value:
        messages = []
        for message in value:
            content = _content(message.get("content")) if isinstance(message, dict) else None
            try:
                more = extras(message) if isinstance(message, dict) else {}
            except TurnsError as error:
                raise DataError(f"{where}: {error}") from error
            if content is None and not more.get("tool_calls"):
                raise DataError(f"{where}: wanted messages with role and content, got {message!r}")
            messages.append({"role": str(message.get("role")), "content": content or "", **more})
        return messages
    raise DataError(f"{where}: wanted a text or a list of messages, got {value!r}")


def _content(content: Any) -> str | None:
    """What a message says, also where it is written as parts; None where it is neither."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    said = [part.get("text") for part in content if part.get("type") == "text"]
    return "".join(map(str, said))


def _check_places(value: Any, images: int, where: str) -> None:
    """Pictures stand before the first user message, since that is where TRL will put them."""
    messages = value if isinstance(value, list) else []
    places = [
        (number, part)
        for number, message in enumerate(messages)
        if isinstance(message.get("content"), list)
        for part, piece in enumerate(message["content"])
        if piece.get("type") != "text"
    ]
    first = next((i for i, m in enumerate(messages) if m.get("role") == "user"), 0)
    if places and places != [(first, part) for part in range(images)]:
        raise DataError(
            f"{where}: wanted {images} image parts, all in front of the first user message's text, "
            f"got parts that are not text at (message, part) {places}"
        )
