"""What does a run leave behind?

A record is a folder of plain files, each written atomically. A stage is finished when its
marker says so, for the very recipe parts that are asked for; a record never changes recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain.environment import environment
from posttrain.files import (
    MetricsLog,
    RecordError,
    fingerprint,
    locked,
    read_json,
    read_jsonl,
    replacing,
    replacing_folder,
    to_json,
    write_json,
    write_jsonl,
    write_text,
)
from posttrain.recipe import read

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from posttrain.regime.diagnosis import Diagnosis
    from posttrain.regime.scores import Scores

__all__ = [
    "MetricsLog",
    "Record",
    "RecordError",
    "environment",
    "fingerprint",
    "locked",
    "read_json",
    "read_jsonl",
    "replacing",
    "replacing_folder",
    "to_json",
    "write_json",
    "write_jsonl",
    "write_text",
]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A name inside the folder of the record that it is read from."""

    name: str

    def __get__(self, record: Record, owner: type[Record]) -> Path:
        return record.path / self.name


@dataclass(frozen=True, slots=True)
class Record:
    """The folder of one run. Readers read what exists and return None for what does not."""

    path: Path

    recipe_file = _Entry("recipe.yaml")
    environment_file = _Entry("environment.json")
    data = _Entry("data")
    sft = _Entry("sft")
    rl = _Entry("rl")
    figures = _Entry("figures")
    scores_file = _Entry("scores.parquet")
    diagnosis_file = _Entry("diagnosis.json")
    diagnosis_seen_file = _Entry("diagnosis_seen.json")
    integrity_file = _Entry("integrity.json")
    plan_file = _Entry("plan.json")
    evaluations_file = _Entry("evaluations.parquet")
    outcome_scores_file = _Entry("outcome.parquet")
    outcome_file = _Entry("outcome.json")
    report_file = _Entry("report.html")
    films = _Entry("films")
    tasks_file = _Entry("tasks.json")
    signal_file = _Entry("signal.json")
    parity_file = _Entry("parity.json")
    floor_file = _Entry("floor.json")

    @property
    def metrics(self) -> MetricsLog:
        """What RL logged."""
        return MetricsLog(self.path / "metrics.jsonl")

    @property
    def sft_metrics(self) -> MetricsLog:
        """What supervised fine-tuning logged."""
        return MetricsLog(self.path / "sft_metrics.jsonl")

    def recipe(self) -> dict[str, Any] | None:
        """The resolved recipe as plain values."""
        if not self.recipe_file.exists():
            return None
        return read(self.recipe_file)

    def environment(self) -> dict[str, Any] | None:
        """Versions and machine of the run's first start."""
        return self._json(self.environment_file)

    def integrity(self) -> dict[str, Any] | None:
        """Whether supervised fine-tuning had converged."""
        return self._json(self.integrity_file)

    def plan(self) -> dict[str, Any] | None:
        """The plan with its reasons, as `plan.json` holds them."""
        return self._json(self.plan_file)

    def outcome(self) -> dict[str, Any] | None:
        """Held-out return before and after RL."""
        return self._json(self.outcome_file)

    def diagnosis(self, *, seen: bool = False) -> Diagnosis | None:
        """The diagnosis that decided, or with `seen` the one on the training prompts."""
        from posttrain.regime.diagnosis import Diagnosis

        path = self.diagnosis_seen_file if seen else self.diagnosis_file
        if not path.exists():
            return None
        try:
            return Diagnosis.from_dict(read_json(path))
        except (TypeError, KeyError, ValueError) as error:
            raise RecordError(f"{path}: not a diagnosis: {error}") from None

    def scores(self) -> Scores | None:
        """Returns of pi_0 and of the demonstrations."""
        return self._scores(self.scores_file)

    def outcome_scores(self) -> Scores | None:
        """Returns of the fine-tuned policy on held-out units."""
        return self._scores(self.outcome_scores_file)

    def evaluations(self) -> pa.Table | None:
        """Held-out returns at every evaluation: columns step, unit, return."""
        if not self.evaluations_file.exists():
            return None
        import pyarrow.parquet as pq

        return pq.read_table(self.evaluations_file)

    def begin(
        self, recipe: str, *, seed: int, fresh: bool = False, free: tuple[str, ...] = ()
    ) -> None:
        """Claim the folder for a resolved recipe: make it, or find it made by the same recipe.

        Args:
            recipe: YAML from `posttrain.recipe.dump`.
            seed: Goes into `environment.json`, which a resumed run keeps from its first start.
            fresh: Delete what an earlier run left in the folder.
            free: Dotted fields that may differ, such as where to write.

        Raises:
            RecordError: the folder belongs to another recipe, or holds something else.
        """
        stored = self.recipe_file.exists()
        if not stored and self.path.exists() and not _only_hidden(self.path):
            raise RecordError(f"{self.path}: not empty and not a run's record; name another folder")
        if stored and fresh:
            with replacing_folder(self.path):  # at once, so that a kill leaves all or nothing
                pass
        elif stored:
            changes = _differences(self.recipe() or {}, read(recipe), free=free)
            if changes:
                shown = "; ".join(changes[:5]) + ("; ..." if len(changes) > 5 else "")
                raise RecordError(
                    f"{self.path} was made by another recipe: {shown}. "
                    "Start over with --fresh, or write to another folder."
                )
        write_text(self.recipe_file, recipe)
        if not self.environment_file.exists():
            write_json(self.environment_file, environment(seed))

    def mark(self, stage: str, *, fingerprint: str, **facts: Any) -> None:
        """Declare a stage finished. Write its files first."""
        write_json(self._marker(stage), {"fingerprint": fingerprint, **facts}, nan_as_null=True)

    def done(self, stage: str, *, fingerprint: str) -> bool:
        """Whether the stage was finished for the same fingerprint."""
        marker = self._marker(stage)
        return marker.exists() and read_json(marker).get("fingerprint") == fingerprint

    def stages(self) -> dict[str, dict[str, Any]]:
        """Markers of the finished stages by name."""
        folder = self.path / ".stages"
        return {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}

    def _marker(self, stage: str) -> Path:
        return self.path / ".stages" / f"{stage}.json"

    def _json(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        value = read_json(path)
        if not isinstance(value, dict):
            raise RecordError(f"{path}: wanted a JSON object, got {type(value).__name__}")
        return value

    def _scores(self, path: Path) -> Scores | None:
        from posttrain.regime.scores import read_scores

        return read_scores(path) if path.exists() else None


def _only_hidden(folder: Path) -> bool:
    """Nothing but what a killed start may have left."""
    return all(entry.name.startswith(".") for entry in folder.iterdir())


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, free: tuple[str, ...]
) -> list[str]:
    """Sentences naming the dotted fields in which two recipes differ."""
    before, after = _leaves(old), _leaves(new)
    changes = []
    for name in sorted({*before, *after}):
        if name in free or before.get(name, _ABSENT) == after.get(name, _ABSENT):
            continue
        was, now = before.get(name, _ABSENT), after.get(name, _ABSENT)
        changes.append(f"{name} was {was!r}, now {now!r}")
    return changes


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted path."""
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in items:
        leaves |= _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    return leaves
