"""Which returns did the user name: two files, one file with both sources, or a run's folder?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from posttrain.record import Record, RecordError, read_json
from posttrain.regime.diagnosis import Diagnosis
from posttrain.regime.logs import PLAIN, Reading, read_any
from posttrain.regime.scores import Scores, ScoresError

if TYPE_CHECKING:
    from pathlib import Path

    from posttrain.intervention.capabilities import Capabilities
    from posttrain.regime.scores import Decoding


BESIDE = ("tasks", "by_success")
"""What `posttrain diagnose --json` puts beside a diagnosis."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The two sides of a diagnosis, and pi_0 under its deployment decoding where known."""

    policy: Scores
    dataset: Scores
    deployment: Scores | None = None


def read_sides(
    source: Path | None,
    *,
    policy: Path | None = None,
    dataset: Path | None = None,
    deployment: Path | None = None,
    reading: Reading = PLAIN,
) -> Sides:
    """Read the scores of both sides, or logs of other tools.

    Held-out units decide where a file marks them, and the rollout's decoding where it marks that.

    Args:
        source: A run's folder, or one file whose `source` column tells the sides apart.
        policy: File with the returns of pi_0.
        dataset: File with the returns of the dataset.
        deployment: File with the returns of pi_0 under the decoding it is deployed with.
        reading: How to read logs, and whether returns count time.

    Raises:
        ScoresError: a file cannot be read, or a side is missing.
    """
    if source is not None and policy is None and dataset is None:
        policy = dataset = source / "scores.parquet" if source.is_dir() else source
        if source.is_dir() and not policy.exists():
            raise RecordError(f"{source}: no scores.parquet in this folder; is it a run's record?")
    elif source is not None or policy is None or dataset is None:
        raise ScoresError(
            "wanted either --policy and --dataset, or one file or run folder that holds both"
        )
    read = partial(read_any, reading=reading)
    if source is not None and read(policy).source is None:
        raise ScoresError(f"{source}: no column 'source' to tell policy from dataset")
    side = _heldout(read(policy, source="policy"))
    other = _decoded(side, "deployment")
    if deployment is not None:
        other = _heldout(read(deployment, source="policy"))
    return Sides(
        policy=_decoded(side, "rollout") or side,
        dataset=_heldout(read(dataset, source="dataset")),
        deployment=other,
    )


def _heldout(scores: Scores) -> Scores:
    if scores.split is not None and (scores.split == "heldout").any():
        return scores.where(split="heldout")
    return scores


def _decoded(scores: Scores, decoding: Decoding) -> Scores | None:
    """Episodes under one decoding; None where there are none."""
    if scores.decoding is None or not (scores.decoding == decoding).any():
        return None
    return scores.where(decoding=decoding)


def read_diagnosis(path: Path) -> Diagnosis | None:
    """A diagnosis that was made before: `diagnosis.json`, or a run's; None for scores.

    Raises:
        RecordError: the file is no diagnosis.
    """
    if path.is_dir():
        return Record(path).diagnosis()
    if path.suffix != ".json":
        return None
    try:
        plain = read_json(path)
        return Diagnosis.from_dict({k: v for k, v in plain.items() if k not in BESIDE})
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{path}: not a diagnosis: {error}") from None


def learner_of(path: Path | None) -> Capabilities:
    """What the learner of a run's recipe can be told; GRPO's abilities where there is no run."""
    from posttrain.intervention.capabilities import (
        CONTROL_SAC,
        CONTROL_TD3,
        LLM_GRPO,
        LLM_GRPO_LORA,
    )

    recipe = (Record(path).recipe() if path is not None and path.is_dir() else None) or {}
    if recipe.get("kind") == "control":
        deterministic = recipe["networks"]["policy"] == "deterministic"
        return CONTROL_TD3 if deterministic else CONTROL_SAC
    return LLM_GRPO_LORA if (recipe.get("model") or {}).get("lora") else LLM_GRPO


def planned_steps(path: Path | None) -> int:
    """Length of RL in the recipe of a run's folder; 100 where there is none."""
    recipe = Record(path).recipe() if path is not None and path.is_dir() else None
    rl = (recipe or {}).get("rl") or (recipe or {}).get("finetune") or {}
    return int(rl.get("steps", 100))


def algorithm_of(path: Path | None) -> str | None:
    """The RL algorithm in the recipe of a run's folder; None where there is none."""
    recipe = (Record(path).recipe() if path is not None and path.is_dir() else None) or {}
    if recipe.get("kind") == "control":
        return "sac"
    found = (recipe.get("rl") or {}).get("algorithm")
    return None if found is None else str(found)
