"""A recipe of a language model at work in its record's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import record
from posttrain.llm import environment, prompts, reward
from posttrain.llm.data import Row, row_from_dict, texts
from posttrain.llm.sampling import Generator, transformers_generator, vllm_generator
from posttrain.llm.settings import LlmRecipe
from posttrain.record import Record
from posttrain.tuning import model
from posttrain.tuning.world import World

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

    def factory(self) -> environment.Factory | None:
        """What makes the environments that the policy acts in, where the recipe names one."""
        if self.recipe.environment is None:
            return None
        rewards = self.recipe.reward.kind == "environment"
        return environment.make_factory(self.recipe.environment, rewards=rewards)

    def load(self, path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model of this run."""
        policy, tokenizer = model.load(path, dtype=self.recipe.model.dtype)
        if self.recipe.environment is not None:
            environment.prepare(tokenizer)
        return policy, tokenizer

    def processing(self, path: Path) -> Any:
        """The tokenizer, or the processor, of a model of this run."""
        processing = model.load_processing(path)
        if self.recipe.environment is not None:
            environment.prepare(processing)
        return processing

    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model before SFT."""
        train, heldout = self.rows()
        tools = self.recipe.environment is not None
        policy, tokenizer = prompts.load_base(
            self.recipe.model, texts=texts((*train, *heldout)), seed=self.recipe.seed, tools=tools
        )
        if tools:
            environment.prepare(tokenizer)
        return policy, tokenizer


def generator(work: Run, path: Path) -> Generator:
    """What draws completions of the model at `path`, by the recipe's backend."""
    factory = work.factory()
    if factory is not None:
        from posttrain.llm.rollouts_in_environment import Acting, environment_generator

        return environment_generator(
            Acting(
                load=lambda: work.load(path),
                factory=factory,
                judge=work.judge,
                given={} if work.recipe.rl is None else work.recipe.rl.trainer,
                folder=work.record.path / "checkpoints" / "rollouts",
                world=work.world,
            )
        )
    policy, tokenizer = work.load(path)
    if work.recipe.diagnose.backend == "vllm":
        return vllm_generator(path, tokenizer)
    return transformers_generator(policy, tokenizer)
