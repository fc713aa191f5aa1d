"""Demonstrators who are careless on purpose, to make a weaker dataset than the source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from posttrain.llm.data import DataError, Row
from posttrain.llm.settings import DataSettings


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


def demonstrate(rows: list[Row], settings: DataSettings) -> list[Row]:
    """Let every demonstrator answer every row, carelessly or not: its unit and number decide.

    With `settings.rejected` each row also gets a wrong answer in the column `rejected`.
    """
    rows = _answer(rows, settings)
    if settings.rejected is None:
        return rows
    wrong, said = _CORRUPTIONS[settings.rejected], sorted({row.completion for row in rows})
    return [
        replace(row, columns={**row.columns, "rejected": wrong(row, _rng(settings, -1, row), said)})
        for row in rows
    ]


def _answer(rows: list[Row], settings: DataSettings) -> list[Row]:
    corruption = settings.corruption
    if corruption is None:
        return rows * settings.demonstrators
    if any(row.turns for row in rows):
        raise DataError("data.corruption: demonstrations that call tools cannot be made wrong")
    wrong = _CORRUPTIONS[corruption.how]
    said = sorted({row.completion for row in rows})
    result = []
    for number in range(settings.demonstrators):
        for row in rows:
            rng = _rng(settings, number, row)
            careless = rng.random() < corruption.share
            result.append(replace(row, completion=wrong(row, rng, said)) if careless else row)
    return result


def _rng(settings: DataSettings, number: int, row: Row) -> np.random.Generator:
    name = f"{settings.seed}:{number}:{row.unit}"
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
