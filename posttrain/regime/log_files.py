"""How do other tools lay out what they measured? Columns as they stand in a file, unjudged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from posttrain.regime.column import ScoresError

Raw = dict[str, list[Any]]


def read_raw(path: Path) -> Raw:
    """Read the columns of a .csv, .jsonl, .json or .parquet file.

    Raises:
        ScoresError: For another suffix, or a file that is not what its suffix says.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ScoresError(f"wanted a log ending in {', '.join(_FORMATS)}, got '{path.name}'")
    columns = _FORMATS[suffix](path)
    if not columns or not len(next(iter(columns.values()))):
        raise ScoresError("there are no episodes")
    return columns


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoresError(f"not UTF-8 text ({error.reason})") from None


def _csv(path: Path) -> Raw:
    lines = csv.reader(io.StringIO(_text(path)), strict=True)
    try:
        header, *rows = [line for line in lines if line]
    except (ValueError, csv.Error) as error:
        raise ScoresError(f"not a CSV table with a header ({error})") from None
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ScoresError(f"row {number}: has {len(row)} fields, the header {len(header)}")
    if len(set(header)) < len(header):
        raise ScoresError("a column stands twice in the header")
    return {name.strip(): [row[i].strip() or None for row in rows] for i, name in enumerate(header)}


def _jsonl(path: Path) -> Raw:
    rows: list[Any] = []
    for line in _text(path).split("\n"):
        if line.strip():
            rows.append(_json(line, f"row {len(rows) + 1}"))
    return _columns(rows)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScoresError(f"{where}: not JSON ({error})") from None


def _document(path: Path) -> Raw:
    """A list of episodes, LeRobot's forms, or one list a column."""
    plain = _json(_text(path), "the file")
    if isinstance(plain, list):
        return _columns(plain)
    if not isinstance(plain, Mapping):
        raise ScoresError(f"wanted a list of episodes or an object, got {type(plain).__name__}")
    if isinstance(plain.get("per_task"), list):
        return _columns([row for task in plain["per_task"] for row in _lerobot(task)])
    for name in ("per_episode", "episodes", "results"):
        if isinstance(plain.get(name), list):
            return _columns(plain[name])
    lists = {name: value for name, value in plain.items() if isinstance(value, list)}
    if lists and len(lists) == len(plain) and len({len(value) for value in lists.values()}) == 1:
        return lists
    raise ScoresError(
        "no list of episodes in it: wanted a list, LeRobot's 'per_task' or 'per_episode', "
        f"'episodes', 'results', or one list a column (there: {', '.join(map(str, plain))})"
    )


def _lerobot(task: Any) -> list[dict[str, Any]]:
    """Episodes of one entry of `per_task`: {task_group, task_id, metrics: {successes, ...}}.

    Seeds are not in it; they follow the place in the list, which takes their place.
    """
    try:
        name, metrics = f"{task['task_group']}/{task['task_id']}", task["metrics"]
        won = metrics["successes"]
        rewards = metrics.get("sum_rewards", [None] * len(won))
        return [
            {"task": name, "episode": place, "success": success, "lerobot_sum_reward": reward}
            for place, (success, reward) in enumerate(zip(won, rewards, strict=True))
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScoresError(
            "'per_task' must hold task_group, task_id and metrics with a list of successes "
            f"({type(error).__name__}: {error})"
        ) from None


def _columns(rows: list[Any]) -> Raw:
    """Turn episodes into columns, None where one lacks a key."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise ScoresError(f"row {number}: wanted an object, got {type(row).__name__}")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> Raw:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ScoresError(f"not a Parquet table ({error})") from None
    return {name: table.column(name).to_pylist() for name in table.column_names}


_FORMATS: Final[dict[str, Callable[[Path], Raw]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _document,
    ".parquet": _parquet,
}
