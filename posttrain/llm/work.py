"""A recipe of a language model at work in its record's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain import record
from posttrain.llm import model, reward
from posttrain.llm.data import Row, row_from_dict, texts
from posttrain.llm.sampling import Generator, transformers_generator, vllm_generator
from posttrain.llm.settings import LlmRecipe
from posttrain.llm.world import World
from posttrain.record import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe at work in its record's folder."""

    recipe: LlmRecipe
    record: Record
    world: World
    judge: reward.Judge

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Training rows and held-out rows."""
        return (
            [row_from_dict(r) for r in record.read_jsonl(self.record.data / "train.jsonl")],
            [row_from_dict(r) for r in record.read_jsonl(self.record.data / "heldout.jsonl")],
        )

    def load(self, path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model of this run."""
        return model.load(path, dtype=self.recipe.model.dtype)

    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model before SFT."""
        train, heldout = self.rows()
        said = texts((*train, *heldout))
        return model.load_base(self.recipe.model, texts=said, seed=self.recipe.seed)


def generator(work: Run, path: Path) -> Generator:
    """What draws completions of the model at `path`, by the recipe's backend."""
    policy, tokenizer = work.load(path)
    if work.recipe.diagnose.backend == "vllm":
        return vllm_generator(path, tokenizer)
    return transformers_generator(policy, tokenizer)
