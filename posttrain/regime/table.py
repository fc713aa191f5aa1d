"""How is a table of scores laid out in JSONL, CSV and Parquet?

Readers give column name -> values as the file has them, unchecked; writers take checked columns.
In CSV an empty field is null and a quoted empty field is the empty text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from posttrain.regime.column import (
    CHOICES,
    COLUMNS,
    COUNTS,
    FLAGS,
    UNKNOWN,
    ScoresError,
    check_names,
    known,
)

if TYPE_CHECKING:
    from pathlib import Path

Raw = dict[str, Any]
Columns = Mapping[str, npt.NDArray[Any]]


def read_table(path: Path) -> Raw:
    """Read the columns of a file as they stand there."""
    return _choose(path)[0](path)


def write_table(columns: Columns, path: Path, *, like: Path) -> None:
    """Write checked columns to `path` in the format that the suffix of `like` says."""
    _choose(like)[1](columns, path)


def transpose(rows: Iterable[Any]) -> Raw:
    """Turn rows (dicts keyed by column) into columns, None where a row lacks a key."""
    listed = list(rows)
    names: dict[str, None] = {}
    seen: set[Any] = set()
    for number, row in enumerate(listed, start=1):
        if not isinstance(row, Mapping):
            raise ScoresError(f"row {number}: wanted an object, got {type(row).__name__}")
        keys = frozenset(row)
        if keys not in seen:
            seen.add(keys)
            names |= dict.fromkeys(row)
            _check_keys(number, row)
    if not listed:
        raise ScoresError("there are no rows")
    check_names(list(names))
    return {name: [row.get(name) for row in listed] for name in names}


def _check_keys(number: int, row: Mapping[Any, Any]) -> None:
    try:
        check_names(["return", *(key for key in row if key != "return")])
    except ScoresError as error:
        raise ScoresError(f"row {number}: {error}") from None


def _choose(path: Path) -> tuple[Callable[[Path], Raw], Callable[[Columns, Path], None]]:
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ScoresError(f"wanted a file ending in {', '.join(_FORMATS)}, got '{path.name}'")
    return _FORMATS[suffix]


def _read_text(path: Path) -> bytes:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise ScoresError("the file is empty")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ScoresError(f"line {line} is not UTF-8 text ({error.reason})") from None
    return data


def _read_jsonl(path: Path) -> Raw:
    rows = []
    for line in _read_text(path).split(b"\n"):
        if not line or line.isspace():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ScoresError(f"row {len(rows) + 1}: not a line of JSON ({error})") from None
    return transpose(rows)


def _write_jsonl(columns: Columns, path: Path) -> None:
    plain = [known(name, column) for name, column in columns.items()]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(
            json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, allow_nan=False)
            + "\n"
            for row in zip(*plain, strict=True)
        )


def _read_csv(path: Path) -> Raw:
    import pyarrow as pa
    from pyarrow import csv

    data = _read_text(path)
    wrong: list[str] = []

    def note(row: Any) -> str:
        wrong.append(f"row {row.number - 1}: has {row.actual_columns} fields, the header "
                     f"{row.expected_columns}")  # fmt: skip
        return "error"

    try:
        table = csv.read_csv(
            pa.py_buffer(data),
            read_options=csv.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise ScoresError(wrong[0] if wrong else f"not a CSV table ({error})") from None
    check_names(table.column_names)
    return {
        name: [_parse(name, text) for text in table.column(name).to_pylist()]
        for name in table.column_names
    }


def _parse(name: str, text: str | None) -> Any:
    """Read a CSV field as its column's type; what does not read stays text, to be refused."""
    if text is None:
        return None
    if name in FLAGS:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if name == "return" or name in COUNTS:
        for kind in (int, float):
            try:
                return kind(text) if "_" not in text else text
            except ValueError:
                continue
    return text


def _write_csv(columns: Columns, path: Path) -> None:
    from pyarrow import csv

    csv.write_csv(_arrow(columns), path)


def _read_parquet(path: Path) -> Raw:
    import pyarrow as pa
    from pyarrow import parquet

    if not path.stat().st_size:
        raise ScoresError("the file is empty")
    try:
        with parquet.ParquetFile(path) as file:
            check_names(file.schema_arrow.names)
            table = file.read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ScoresError(f"not a Parquet table ({error})") from None
    return {name: _unpack(name, table.column(name)) for name in table.column_names}


def _unpack(name: str, column: Any) -> Any:
    """Turn an Arrow column into an array where its type fits, else into a list of Python values."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind) and types.is_string(kind.value_type) and len(column):
        shared = column.unify_dictionaries().combine_chunks()
        words = np.array([*shared.dictionary.to_pylist(), None], dtype=object)
        return words[shared.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    if name in COUNTS and types.is_signed_integer(kind):
        return column.cast(pa.int64()).fill_null(UNKNOWN).to_numpy()
    if name == "return" and (types.is_floating(kind) or types.is_integer(kind)):
        return column.cast(pa.float64(), safe=False).to_numpy()
    if kind in {pa.string(), pa.large_string()} or (kind == pa.bool_() and not column.null_count):
        return column.to_numpy()
    return column.to_pylist()


def _write_parquet(columns: Columns, path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(_arrow(columns), path)


def _arrow(columns: Columns) -> Any:
    import pyarrow as pa

    return pa.table({name: _pack(name, column) for name, column in columns.items()})


def _pack(name: str, column: npt.NDArray[Any]) -> Any:
    import pyarrow as pa

    if name == "return":
        return pa.array(column, mask=np.isnan(column))
    if name in COUNTS:
        return pa.array(column, mask=column == UNKNOWN)
    if name in FLAGS:
        return pa.array(column)
    packed = pa.array(column, type=pa.string())
    return packed.dictionary_encode() if name in {*CHOICES, "unit", "task"} else packed


_FORMATS: Final = {
    ".jsonl": (_read_jsonl, _write_jsonl),
    ".csv": (_read_csv, _write_csv),
    ".parquet": (_read_parquet, _write_parquet),
}
