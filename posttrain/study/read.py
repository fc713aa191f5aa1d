"""What do the records of a study hold? Everything that its table needs, and nothing live.

Numbers are on the unit scale: the reward's own scale, which the diagnosis names, becomes [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.inputs import Sides, read_sides
from posttrain.record import Record, read_json
from posttrain.regime.diagnosis import Diagnosis
from posttrain.regime.scores import Scores
from posttrain.study.settings import SHARED, Family, Metric, Study

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What one seed starts from."""

    seed: int
    diagnosis: Diagnosis
    policy: Floats
    """Returns of pi_0 `[n]`, on the unit scale."""
    dataset: Floats
    """Returns of D `[m]`, on the unit scale."""
    q_gap: float | None
    """Q's value of pi_0 minus that of D, divided by Q's own scale; None without a critic, or where
    that scale is nothing."""
    j_clone: float | None
    """Return of a behaviour clone of D."""

    @property
    def j_policy(self) -> float:
        """J(pi_0)."""
        return float(self.policy.mean())

    @property
    def j_dataset(self) -> float:
        """J(D)."""
        return float(self.dataset.mean())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finish:
    """What one cell came to."""

    seed: int
    family: Family | None
    """The family of its plan; None where no plan was recorded."""
    final: float
    """Return after fine-tuning."""
    steps: NDArray[np.int64]
    """Of the evaluations `[k]`, perhaps none."""
    curve: Floats
    """Mean returns `[k]`."""

    def value(self, metric: Metric) -> float:
        """The cell's number: `mean` and `best` are of the evaluations, where there are any."""
        if metric == "final" or not self.curve.size:
            return self.final
        return float(self.curve.mean() if metric == "mean" else self.curve.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRecords:
    """A setting's records: seeds and cells that are complete."""

    name: str
    starts: tuple[Start, ...]
    finishes: Mapping[str, tuple[Finish, ...]]
    """By arm, in the order of the study."""


def read_study(study: Study) -> tuple[SettingRecords, ...]:
    """Read what a study has left so far."""
    return tuple(_read_setting(study, setting.name) for setting in study.settings)


def _read_setting(study: Study, name: str) -> SettingRecords:
    folder = study.folder / name
    found = [read_start(folder / SHARED / f"seed-{seed}", seed) for seed in study.seeds]
    starts = tuple(start for start in found if start is not None)
    finishes: dict[str, tuple[Finish, ...]] = {}
    for arm in study.arms if starts else ():
        scale = starts[0].diagnosis.scale
        cells = (read_finish(folder / arm.name / f"seed-{s}", s, scale) for s in study.seeds)
        finishes[arm.name] = tuple(cell for cell in cells if cell is not None)
    return SettingRecords(name=name, starts=starts, finishes=finishes)


def read_start(folder: Path, seed: int) -> Start | None:
    """Read the record of what a seed starts from; None until it is diagnosed."""
    diagnosis = Record(folder).diagnosis()
    if diagnosis is None:
        return None
    sides: Sides = read_sides(folder)
    beside = folder / "alternatives.json"
    other: dict[str, Any] = read_json(beside) if beside.exists() else {}
    q, clone = other.get("q"), other.get("bc")
    return Start(
        seed=seed,
        diagnosis=diagnosis,
        policy=_unit(sides.policy, diagnosis.scale),
        dataset=_unit(sides.dataset, diagnosis.scale),
        q_gap=float((q["policy"] - q["dataset"]) / q["scale"]) if q and q["scale"] else None,
        j_clone=None if clone is None else _scaled(float(clone["j"]), diagnosis.scale),
    )


def read_finish(folder: Path, seed: int, scale: tuple[float, float]) -> Finish | None:
    """Read a cell's record; None until it is complete.

    A cell without RL comes to the return of the policy that it pretrained.
    """
    record = Record(folder)
    outcome = record.outcome()
    if outcome is not None:
        final = float(outcome["after"])
    elif "outcome" in record.stages() and (diagnosis := record.diagnosis()) is not None:
        final = diagnosis.j_policy
    else:
        return None
    steps, means = _curve(record)
    plan = (record.plan() or {}).get("plan", {})
    return Finish(
        seed=seed,
        family=plan.get("family"),
        final=_scaled(final, scale),
        steps=steps,
        curve=_scaled(means, scale),
    )


def _curve(record: Record) -> tuple[NDArray[np.int64], Floats]:
    """Steps and mean returns of the evaluations."""
    table = record.evaluations()
    if table is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    returns = table["return"].to_numpy().astype(np.float64)
    steps, index = np.unique(table["step"].to_numpy().astype(np.int64), return_inverse=True)
    means = np.bincount(index, weights=returns) / np.bincount(index)
    return steps, means


def _unit(scores: Scores, scale: tuple[float, float]) -> Floats:
    returns: Floats = _scaled(scores.scorable.returns, scale)
    return returns


def _scaled(value: Any, scale: tuple[float, float]) -> Any:
    return (value - scale[0]) / (scale[1] - scale[0])
