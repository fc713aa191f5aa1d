"""How does a run begin where another one had got to: with its data, its pi_0 and its scores?"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.record import Record, fingerprint, replacing, replacing_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a kind of run takes over from another."""

    shared: tuple[str, ...]
    """Parts of the recipe that both must have in common."""
    stages: tuple[str, ...]
    """Stages that need not be done again. The diagnosis is read off the same scores once more."""
    files: tuple[str, ...]
    """Of the record's folder; what is not there is not taken."""
    folders: tuple[str, ...]


def take(record: Record, mine: Mapping[str, Any], folder: Path, what: Taken, *, mark: str) -> None:
    """Copy what an earlier run of the same setting and seed has made, unless that is done.

    Args:
        record: of the run that begins.
        mine: its recipe, as plain values.
        folder: of the earlier run.
        what: is taken.
        mark: the fingerprint under which the stages are marked as done.

    Raises:
        ValueError: there is no such run, it has not got so far, or a field differs.
    """
    if all(record.done(stage, fingerprint=mark) for stage in what.stages):
        return
    source = Record(folder)
    theirs = source.recipe()
    if theirs is None:
        raise ValueError(f"start_from: {folder} is no run's folder")
    _require_equal(theirs, mine, folder, what.shared)
    if not source.done(
        "diagnose", fingerprint=fingerprint(source.recipe_file.read_text(encoding="utf-8"))
    ):
        raise ValueError(
            f"start_from: {folder} has not been diagnosed yet; run it with --stop-after diagnose"
        )
    for name in what.files:
        if (folder / name).exists():
            with replacing(record.path / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    for name in what.folders:
        if not (folder / name).is_dir():
            continue
        with replacing_folder(record.path / name) as here:
            shutil.copytree(folder / name, here, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for stage in what.stages:
        record.mark(stage, fingerprint=mark, taken_from=folder.name)


def _require_equal(
    theirs: Mapping[str, Any], mine: Mapping[str, Any], folder: Path, shared: tuple[str, ...]
) -> None:
    for field in shared:
        was, now = _leaves(theirs.get(field), field), _leaves(mine.get(field), field)
        for name in sorted({*was, *now}):
            if was.get(name) != now.get(name):
                raise ValueError(
                    f"start_from: {folder} has {name} = {was.get(name)!r}, this recipe "
                    f"{now.get(name)!r}; {', '.join(shared)} must be equal"
                )


def _leaves(value: Any, name: str) -> dict[str, Any]:
    """Values inside nested mappings by dotted path."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _leaves(inner, f"{name}.{key}")
    return found
