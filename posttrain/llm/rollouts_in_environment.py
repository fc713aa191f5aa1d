"""Rollouts in an environment, drawn by the code that RL draws them with: TRL's tool loop.

A generator in the sense of `posttrain.llm.sampling`, so that looks, early stopping and resuming
are the same: every batch has its own seed and its own file.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import torch

from posttrain.llm.data import Row
from posttrain.llm.environment import Factory, judged_rows, last_word
from posttrain.llm.reward import Judge, Judgement
from posttrain.llm.sampling import Completion, Generator
from posttrain.llm.settings import Decoding
from posttrain.tuning import compat, training
from posttrain.tuning.model import end_ids
from posttrain.tuning.turns import Message
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLER = ("min_p", "repetition_penalty", "cache_implementation", "generation_kwargs")
"""Fields of `rl.trainer` that change what RL samples, so that the diagnosis takes them over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """A policy in an environment, and who judges what it does.

    `load` gives a model that may be changed; `folder` is for the trainer that TRL wants around a
    model; `given` is the recipe's `rl.trainer`.
    """

    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
    factory: Factory
    judge: Judge
    given: Mapping[str, Any]
    folder: Path
    world: World


class _Given(TypedDict):
    factory: Factory
    judge: Judge
    given: Mapping[str, Any]
    folder: Path
    world: World


def environment_generator(acting: Acting, *, at_once: int = 128) -> Generator:
    """Roll out through TRL's tool loop, at most `at_once` episodes at a time."""
    from datasets import Dataset

    made: dict[Decoding, Callable[[Sequence[dict[str, Any]]], list[Completion]]] = {}

    def generate(
        rows: Sequence[Row], decoding: Decoding, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        if decoding not in made:
            made.clear()  # one model at a time
            with _undisturbed():
                made[decoding] = _roller(acting, decoding)
        parts = acting.world.gather([list(rows)])
        spare = next(row for part in parts for row in part)
        wanted = max(map(len, parts))  # TRL gathers, so every process draws as many
        padded = [*rows, *[spare] * (wanted - len(rows))]
        given = Dataset.from_list([{**row.reward_columns(), "stage": "eval"} for row in padded])
        inputs = [row for row in given for _ in range(samples)]
        flat: list[Completion] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(inputs), at_once):
                flat += made[decoding](inputs[start : start + at_once])
        return [flat[i * samples : (i + 1) * samples] for i in range(len(rows))]

    return generate


def in_environment(
    policy: Any, tokenizer: PreTrainedTokenizerBase, **given: Unpack[_Given]
) -> Generator:
    """Roll out a policy that is still being trained: a copy of it, with any adapter merged."""

    def load() -> tuple[Any, PreTrainedTokenizerBase]:
        own = copy.deepcopy(policy)
        return (own.merge_and_unload() if hasattr(own, "merge_and_unload") else own), tokenizer

    return environment_generator(Acting(load=load, **given))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """TRL seeds every stream anew when a trainer is made; what is being trained must not notice."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - TRL seeds this one
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


def _roller(
    acting: Acting, decoding: Decoding
) -> Callable[[Sequence[dict[str, Any]]], list[Completion]]:
    """One decoding's trainer, of which only the rollouts are used."""
    from datasets import Dataset
    from trl import GRPOTrainer

    model, tokenizer = acting.load()
    ends = end_ids(model, tokenizer)
    heard: list[Completion] = []

    def hear(
        prompts: list[Any],
        completions: list[list[Message]],
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float | None]:
        rows = judged_rows(prompts, completions, {**columns, "completion_ids": completion_ids})
        judgements = acting.judge(rows, [last_word(said).strip() for said in completions])
        heard.extend(
            _completion(said, ids, judgement, ends)
            for said, ids, judgement in zip(completions, completion_ids, judgements, strict=True)
        )
        return [judgement.value for judgement in judgements]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=hear,
        args=_config(acting, decoding),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}]}]),
        processing_class=tokenizer,
        environment_factory=acting.factory,
    )
    trainer.model.eval()

    def roll(inputs: Sequence[dict[str, Any]]) -> list[Completion]:
        heard.clear()
        compat.roll(trainer, inputs)
        return list(heard)

    return roll


def _completion(
    said: Sequence[Message], ids: list[int], judgement: Judgement, ends: Sequence[int]
) -> Completion:
    """A rollout as the scores keep it: everything that was said, as JSON."""
    return Completion(
        json.dumps(said, ensure_ascii=False),
        ids,
        finished=bool(ids) and ids[-1] in ends and not said[-1].get("tool_calls"),
        judgement=judgement,
    )


def _config(acting: Acting, decoding: Decoding) -> Any:
    """RL's sampler. Greedy is no temperature to TRL, but an option of its generation."""
    from trl import GRPOConfig

    given = {name: acting.given[name] for name in SAMPLER if name in acting.given}
    greedy = decoding.temperature == 0
    if greedy:
        given["generation_kwargs"] = {**given.get("generation_kwargs", {}), "do_sample": False}
    return training.trainer_config(
        GRPOConfig,
        "rl.trainer",
        given,
        ours={
            "output_dir": str(acting.folder),
            "temperature": 1.0 if greedy else decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k,
            "max_completion_length": decoding.max_new_tokens,
            **acting.factory.limits(),
            "num_generations_eval": 1,
            "max_steps": 1,
        },
    )
