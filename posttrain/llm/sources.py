"""Records from wherever they lie: JSON lines, Parquet, and whatever `datasets` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.llm.data import DataError


def records(path: str, options: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The records of a file, a saved data set or a Hub name.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
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
