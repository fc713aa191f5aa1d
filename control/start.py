"""How does a run begin where another one had got to: with its data, its pi_0 and its diagnosis?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from control.work import Work
from posttrain import recipe as recipes
from posttrain.record import Record, fingerprint, replacing, replacing_folder

SHARED = ("env", "dataset", "networks", "pretrain", "diagnose", "seed")
"""What two runs must have in common for one to begin where the other was diagnosed."""
TAKEN = ("data", "pretrain", "sample")
"""Stages that need not be done again. The diagnosis is read off the same scores once more."""
FILES = (
    "data/dataset.hdf5", "data/dataset.json", "sft_metrics.jsonl", "integrity.json",
    "rollouts/pi0.hdf5", "scores.parquet", "alternatives.json",
)  # fmt: skip


def take(work: Work, folder: Path) -> None:
    """Copy what an earlier run of the same setting and seed has made, unless that is done.

    Raises:
        ValueError: there is no such run, it has not got so far, or a field differs.
    """
    if all(work.record.done(stage, fingerprint=work.mark) for stage in TAKEN):
        return
    source = Record(folder)
    theirs = source.recipe()
    if theirs is None:
        raise ValueError(f"start_from: {folder} is no run's folder")
    _require_equal(theirs, recipes.read(recipes.dump(work.recipe)), folder)
    mark = fingerprint(source.recipe_file.read_text(encoding="utf-8"))
    if not source.done("diagnose", fingerprint=mark):
        raise ValueError(
            f"start_from: {folder} has not been diagnosed yet; run it with --stop-after diagnose"
        )
    for name in FILES:
        if (folder / name).exists():
            with replacing(work.record.path / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    with replacing_folder(work.pi0) as here:
        for file in (folder / "pi0").iterdir():
            shutil.copyfile(file, here / file.name)
    for stage in TAKEN:
        work.record.mark(stage, fingerprint=work.mark, taken_from=folder.name)


def _require_equal(theirs: dict[str, Any], mine: dict[str, Any], folder: Path) -> None:
    for field in SHARED:
        for name in sorted({*_leaves(theirs.get(field), field), *_leaves(mine.get(field), field)}):
            was = _leaves(theirs.get(field), field).get(name)
            now = _leaves(mine.get(field), field).get(name)
            if was != now:
                raise ValueError(
                    f"start_from: {folder} has {name} = {was!r}, this recipe {now!r}; "
                    f"{', '.join(SHARED)} must be equal"
                )


def _leaves(value: Any, name: str) -> dict[str, Any]:
    """Values inside nested mappings by dotted path."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _leaves(inner, f"{name}.{key}")
    return found
