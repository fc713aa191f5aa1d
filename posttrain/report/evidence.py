"""What a report is made from: a record's files, read once, each of them optional."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from posttrain.record import Record, RecordError, read_json, read_jsonl
from posttrain.report import words
from posttrain.report.measure import Curve, curve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from posttrain.regime.diagnosis import Diagnosis
    from posttrain.regime.scores import Scores
    from posttrain.regime.tasks import TaskDiagnosis


@dataclass(frozen=True, slots=True, kw_only=True)
class Robot:
    """What only a robot policy's record holds."""

    films: tuple[Mapping[str, Any], ...] = ()
    """Rows of `films/index.json`, whose files stand in `folder`."""
    folder: Path | None = None
    tasks: TaskDiagnosis | None = None
    signal: Mapping[str, Any] | None = None
    """The share of groups without signal that RL should expect."""
    parity: Mapping[str, Any] | None = None
    """RL's first evaluation beside the diagnosis'."""
    account: str | None = None
    """How the returns of D are known."""
    origin: str | None = None
    """Where D comes from."""
    floor: Mapping[str, Any] | None = None
    """What a policy returns that acts at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything a page may show. None and empty mean that the record does not hold it."""

    name: str
    diagnosis: Diagnosis
    diagnosed_here: bool = False
    """No diagnosis was recorded, so that the report made one from the scores."""
    seen: Diagnosis | None = None
    policy: Scores | None = None
    dataset: Scores | None = None
    texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Rows of the data by unit, with `prompt` and `completion` where known."""
    integrity: Mapping[str, Any] | None = None
    sft_metrics: tuple[Mapping[str, Any], ...] = ()
    plan: Mapping[str, Any] | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    curve: Curve | None = None
    outcome: Mapping[str, Any] | None = None
    after: Scores | None = None
    """The fine-tuned policy on held-out units."""
    alternatives: Mapping[str, Any] | None = None
    """What weaker rules say: the critic's values, the return of a clone of D."""
    environment: Mapping[str, Any] | None = None
    recipe: str | None = None
    kind: str | None = None
    """Of the recipe: llm, control, vla."""
    decides: Literal["rollout", "deployment"] = "rollout"
    """The decoding whose J(pi_0) decides."""
    robot: Robot = field(default_factory=Robot)

    @property
    def terms(self) -> words.Terms:
        """What this kind of run calls things."""
        return words.TERMS.get(self.kind or "llm", words.LLM)

    @property
    def noun(self) -> str:
        """What a unit is called on the page."""
        if self.kind == "control":
            return "episodes"
        if self.kind == "vla":
            return "starts"
        return "prompts" if self.has_prompts else "units"

    @property
    def has_prompts(self) -> bool:
        """Whether units are prompts."""
        scores = (self.policy, self.dataset)
        return bool(self.texts) or any(s is not None and s.prompt is not None for s in scores)


def read_evidence(folder: Path) -> Evidence:
    """Read a record folder.

    Raises:
        RecordError: neither a diagnosis nor scores to make one from, or a damaged file.
    """
    record = Record(folder)
    scores = record.scores()
    diagnosis = record.diagnosis()
    policy = scores.where(source="policy") if scores is not None else None
    dataset = scores.where(source="dataset") if scores is not None else None
    told = record.recipe() or {}
    return Evidence(
        name=folder.resolve().name,
        diagnosis=diagnosis or _diagnose(policy, dataset, folder),
        diagnosed_here=diagnosis is None,
        seen=record.diagnosis(seen=True),
        policy=policy,
        dataset=dataset,
        texts=_texts(record),
        integrity=record.integrity(),
        sft_metrics=tuple(record.sft_metrics.read()),
        plan=record.plan(),
        metrics=tuple(record.metrics.read()),
        curve=_curve(record),
        outcome=record.outcome(),
        after=record.outcome_scores(),
        alternatives=_json(folder / "alternatives.json"),
        environment=record.environment(),
        recipe=record.recipe_file.read_text() if record.recipe_file.exists() else None,
        kind=told.get("kind"),
        decides=_mapping(told.get("diagnose")).get("decides", "rollout"),
        robot=_robot(record) if told.get("kind") == "vla" else Robot(),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _robot(record: Record) -> Robot:
    """Read what a robot policy's run has beside what every run has.

    Raises:
        RecordError: a file holds something else than it should.
    """
    films = record.films / "index.json"
    return Robot(
        films=tuple(read_json(films)) if films.exists() else (),
        folder=record.films,
        tasks=_tasks(record.tasks_file),
        signal=_json(record.signal_file),
        parity=_json(record.parity_file),
        account=_mapping(_json(record.data / "account.json")).get("text"),
        origin=_mapping(_json(record.data / "about.json")).get("account"),
        floor=_json(record.floor_file),
    )


def _tasks(path: Path) -> TaskDiagnosis | None:
    from posttrain.regime.tasks import TaskDiagnosis

    if not path.exists():
        return None
    try:
        return TaskDiagnosis.from_dict(read_json(path))
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path}: not a diagnosis by task: {error}") from None


def _json(path: Path) -> Mapping[str, Any] | None:
    found = read_json(path) if path.exists() else None
    return found if isinstance(found, dict) else None


def _diagnose(policy: Scores | None, dataset: Scores | None, folder: Path) -> Diagnosis:
    """Diagnose the split and the decoding that decide."""
    from posttrain.regime.diagnosis import diagnose

    if policy is None or dataset is None:
        raise RecordError(
            f"{folder}: a report needs diagnosis.json or scores.parquet; neither is there"
        )
    return diagnose(deciding(policy), deciding(dataset))


def deciding(scores: Scores, decoding: Literal["rollout", "deployment"] = "rollout") -> Scores:
    """Rows of the split and decoding that decide: held-out and rollout, where they are marked."""
    if scores.split is not None and (scores.split == "heldout").any():
        scores = scores.where(split="heldout")
    if scores.decoding is not None and (scores.decoding == decoding).any():
        scores = scores.where(decoding=decoding)
    return scores


def _texts(record: Record) -> dict[str, Mapping[str, Any]]:
    rows: dict[str, Mapping[str, Any]] = {}
    for name in ("train.jsonl", "heldout.jsonl"):
        path = record.data / name
        if path.exists():
            rows |= {str(row["unit"]): row for row in read_jsonl(path) if "unit" in row}
    return rows


def _curve(record: Record) -> Curve | None:
    table = record.evaluations()
    if table is None or table.num_rows == 0:
        return None
    columns = table.to_pydict()
    return curve(columns["step"], columns["unit"], columns["return"])
