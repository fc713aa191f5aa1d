"""Prompts and demonstrations, from wherever they lie, as rows of one form, split by a hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from posttrain.llm.settings import DataSettings

Message: TypeAlias = dict[str, str]


class DataError(ValueError):
    """A sentence that names the source, the row and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One demonstration: a conversation up to the answer, and the answer that D holds.

    `columns` are the source's other fields, passed to reward functions by name.
    """

    unit: str
    prompt: tuple[Message, ...]
    completion: str
    answer: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last thing the user says."""
        return self.prompt[-1]["content"]

    def reward_columns(self) -> dict[str, Any]:
        """What a reward function may ask for beside the completion."""
        given = {"prompt": list(self.prompt), "unit": self.unit, "answer": self.answer}
        return {**self.columns, **given}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "unit": self.unit,
            "prompt": list(self.prompt),
            "completion": self.completion,
            "answer": self.answer,
            "columns": self.columns,
        }


def row_from_dict(data: Mapping[str, Any]) -> Row:
    """Rebuild a row from `Row.to_dict`."""
    return Row(**{**data, "prompt": tuple(data["prompt"])})


def unit_of(prompt: Sequence[Message]) -> str:
    """A short name for a prompt: the same prompt has the same name everywhere."""
    text = json.dumps(list(prompt), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """Everything that is said in `rows`."""
    for row in rows:
        yield from (message["content"] for message in row.prompt)
        yield row.completion


def load_rows(settings: DataSettings) -> tuple[list[Row], list[Row]]:
    """Read the source and split it: rows to train on, rows of held-out units.

    Raises:
        DataError: the source is missing or empty, or a row lacks a field.
    """
    rows = _demonstrate(_read(settings.path, settings), settings)
    if settings.heldout_path is not None:
        heldout = _demonstrate(_read(settings.heldout_path, settings), settings)
        seen = {row.unit for row in rows}
        if shared := [row.unit for row in heldout if row.unit in seen]:
            raise DataError(
                f"{settings.heldout_path}: {len(shared)} held-out prompts are also in "
                f"{settings.path} (first: unit {shared[0]}); held-out prompts must be unseen"
            )
        return rows, heldout
    return split(rows, settings.heldout, name=settings.path)


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
        return _reasoning_gym(path.removeprefix("reasoning_gym:"), settings)
    if path.startswith("asset:"):
        from posttrain.assets import resolve

        path = str(resolve(path))
    rows = []
    for number, record in enumerate(_records(path, settings.options), start=1):
        rows.append(_row(record, settings, f"{path}: row {number}"))
        if settings.size is not None and len(rows) == settings.size:
            break
    if not rows:
        raise DataError(f"{path}: wanted at least one row of prompt and completion, got none")
    return rows


def _records(path: str, options: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    file = Path(path)
    if file.suffix in (".jsonl", ".json", ".parquet"):
        if not file.is_file():
            raise DataError(f"{path}: no such file")
        return _parquet(file) if file.suffix == ".parquet" else _jsonl(file)
    import datasets

    try:
        if file.is_dir() and (file / "state.json").exists():
            found = datasets.load_from_disk(path)
        else:
            found = datasets.load_dataset(path, **{"split": "train", **options})
    except Exception as error:
        raise DataError(
            f"{path}: not a local .jsonl or .parquet file, and datasets could not load it: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(found, dict):
        raise DataError(f"{path}: holds the splits {sorted(found)}; name one in data.options.split")
    return found


def _jsonl(file: Path) -> Iterable[Mapping[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}: row {number}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(
                    f"{file}: row {number}: wanted an object, got {type(record).__name__}"
                )
            yield record


def _parquet(file: Path) -> Iterable[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{file}: not a Parquet file: {error}") from error


def _row(record: Mapping[str, Any], settings: DataSettings, where: str) -> Row:
    name = {c: settings.columns.get(c, c) for c in ("prompt", "completion", "answer", "unit")}
    if "messages" in record and name["prompt"] not in record:
        messages = _messages(record["messages"], "user", f"{where}: messages")
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise DataError(f"{where}: messages: wanted the last one from the assistant")
        prompt, completion = messages[:-1], messages[-1]["content"]
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
        completion = _messages(
            record[name["completion"]], "assistant", f"{where}: {name['completion']}"
        )[-1]["content"]
    if settings.system is not None:
        prompt = [{"role": "system", "content": settings.system}, *prompt]
    answer = record.get(name["answer"])
    used = {*name.values(), "messages"}
    return Row(
        unit=str(record.get(name["unit"]) or unit_of(prompt)),
        prompt=tuple(prompt),
        completion=completion,
        answer=None if answer is None else str(answer),
        columns={k: v for k, v in record.items() if k not in used},
    )


def _messages(value: Any, role: str, where: str) -> list[Message]:
    """Read a plain string or number as one message of `role`; check a conversation."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return [{"role": role, "content": str(value)}]
    if isinstance(value, list) and value:
        messages = []
        for message in value:
            if not (isinstance(message, dict) and isinstance(message.get("content"), str)):
                raise DataError(f"{where}: wanted messages with role and content, got {message!r}")
            messages.append({"role": str(message.get("role")), "content": message["content"]})
        return messages
    raise DataError(f"{where}: wanted a text or a list of messages, got {value!r}")


def _reasoning_gym(task: str, settings: DataSettings) -> list[Row]:
    """Distinct questions of a task. The items are rebuilt from `entry` when they are scored."""
    import reasoning_gym

    size = settings.size or 1_000
    try:
        made = reasoning_gym.create_dataset(task, seed=settings.seed, size=size, **settings.options)
    except (ValueError, TypeError, AssertionError) as error:
        raise DataError(f"reasoning_gym:{task}: {error}") from error
    rows: dict[str, Row] = {}
    for i in range(size):
        item = made[i]
        if item["answer"] is None:
            raise DataError(
                f"reasoning_gym:{task}: its items carry no answer, so there is nothing to clone; "
                "bring demonstrations in a file"
            )
        question = (settings.template or "{prompt}").replace("{prompt}", item["question"])
        prompt = _messages(question, "user", task)
        if settings.system is not None:
            prompt = [{"role": "system", "content": settings.system}, *prompt]
        unit = unit_of(prompt)
        rows.setdefault(
            unit,
            Row(
                unit=unit,
                prompt=tuple(prompt),
                completion=str(item["answer"]),
                answer=str(item["answer"]),
                columns={"entry": json.dumps(item, default=str)},
            ),
        )
    return list(rows.values())


def _no_carry(row: Row, _rng: np.random.Generator, _said: Sequence[str]) -> str:
    terms = re.findall(r"\d+", row.text)
    if len(terms) != 2 or "+" not in row.text:
        raise DataError(f"corruption no_carry: wanted a sum of two numbers, got {row.text!r}")
    width = max(map(len, terms))
    digits = zip(*(term.zfill(width) for term in terms), strict=True)
    return str(int("".join(str((int(a) + int(b)) % 10) for a, b in digits)))


def _flip(row: Row, _rng: np.random.Generator, said: Sequence[str]) -> str:
    if len(said) != 2:
        raise DataError(f"corruption flip: wanted two labels, got {len(said)}: {list(said[:5])}")
    return said[1 - said.index(row.completion)]


def _shuffle(_row: Row, rng: np.random.Generator, said: Sequence[str]) -> str:
    return said[int(rng.integers(len(said)))]


_CORRUPTIONS: dict[str, Callable[[Row, np.random.Generator, Sequence[str]], str]] = {
    "no_carry": _no_carry,
    "flip": _flip,
    "shuffle": _shuffle,
}


def _demonstrate(rows: list[Row], settings: DataSettings) -> list[Row]:
    """Let every demonstrator answer every row, carelessly or not: its unit and number decide."""
    corruption = settings.corruption
    if corruption is None:
        return rows * settings.demonstrators
    wrong = _CORRUPTIONS[corruption.how]
    said = sorted({row.completion for row in rows})
    result = []
    for number in range(settings.demonstrators):
        for row in rows:
            name = f"{settings.seed}:{number}:{row.unit}"
            digest = hashlib.sha256(name.encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            careless = rng.random() < corruption.share
            result.append(replace(row, completion=wrong(row, rng, said)) if careless else row)
    return result
