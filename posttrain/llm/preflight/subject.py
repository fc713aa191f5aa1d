"""What a recipe would start from: its rows, its pi_0, its scores so far. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from posttrain.llm import environment, prompts
from posttrain.llm.data import Row, texts
from posttrain.llm.settings import LlmRecipe
from posttrain.record import Record
from posttrain.tuning import model
from posttrain.tuning.adapted import is_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.tuning.seen import Processing


@dataclass(frozen=True, slots=True)
class Start:
    """The model that RL would start from.

    `path` is a folder or a Hub name from which it can be loaded again, as RL would; `made` says
    whether SFT has made it yet.
    """

    model: PreTrainedModel
    processing: Processing
    path: str
    made: bool

    @property
    def adapter(self) -> bool:
        """Whether adapter layers lie inside the model, as transformers reads an adapter."""
        return bool(getattr(self.model, "_hf_peft_config_loaded", False))

    @property
    def words(self) -> str:
        """What it is, for a sentence."""
        return "pi_0" if self.made else "the model before SFT (pi_0 is not made yet)"


@contextmanager
def start_of(
    recipe: LlmRecipe, record: Record, train: Sequence[Row], heldout: Sequence[Row]
) -> Iterator[Start]:
    """pi_0 where the run has made it, else the model that SFT would start from.

    A model that is made on the spot, or that is an adapter, goes through a folder first, as it
    will in the run: what is loaded back can be another model.

    Raises:
        ModelError: it cannot be loaded.
        EnvironmentError: its chat template cannot write tool calls, and the recipe has tools.
    """
    dtype, acts = recipe.model.dtype, recipe.environment is not None
    if (record.sft / "config.json").exists():
        policy, processing = model.load(record.sft, dtype=dtype)
        if acts:
            environment.prepare(processing)
        yield Start(policy, processing, str(record.sft), made=True)
        return
    said = texts((*train, *heldout))
    policy, processing = prompts.load_base(recipe.model, texts=said, seed=recipe.seed, tools=acts)
    if acts:
        environment.prepare(processing)
    source = str(getattr(policy.config, "_name_or_path", ""))
    if source and not recipe.model.path.startswith("tiny") and not is_adapter(recipe.model.path):
        yield Start(policy, processing, source, made=recipe.sft is None)
        return
    with TemporaryDirectory() as folder:
        model.save(policy, processing, Path(folder))
        policy, processing = model.load(folder, dtype=dtype)
        yield Start(policy, processing, folder, made=recipe.sft is None)


def rollouts_of(record: Record) -> list[dict[str, Any]]:
    """Rollouts of pi_0 under the RL sampler that the run has scored; empty where it has none."""
    scores = record.scores()
    if scores is None or scores.source is None or not (scores.source == "policy").any():
        return []
    mine = scores.where(source="policy")
    if mine.decoding is not None and (mine.decoding == "rollout").any():
        mine = mine.where(decoding="rollout")
    return mine.rows()


def returns_by_unit(rollouts: Sequence[Mapping[str, Any]], low: float) -> dict[str, list[float]]:
    """Returns of each unit's rollouts; one that could not be judged is worth the least."""
    found: dict[str, list[float]] = {}
    for row in rollouts:
        value = row.get("return")
        judged = low if value is None or math.isnan(value) else float(value)
        found.setdefault(str(row["unit"]), []).append(judged)
    return found
