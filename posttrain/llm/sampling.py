"""Rollouts of a policy: batched, k for each prompt, stopped once the regime is decided.

Every batch is drawn from its own seed and written as soon as it is finished, so a killed run
goes on where it stopped and ends with the same rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from posttrain import record
from posttrain.llm.data import Row
from posttrain.llm.decode import decode, why_not
from posttrain.llm.prompts import prompt_ids
from posttrain.llm.reward import Judge, Judgement
from posttrain.llm.settings import Decoding
from posttrain.tuning.model import ModelError, device, end_ids, trim_after_end
from posttrain.tuning.seen import place_holders, sights, tokenizer_of
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain.tuning.seen import Processing

TOKENS = "tokens"
"""Folder beside the records of rollouts that holds their token ids."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer: its text, its tokens, and whether it ended before the limit.

    `judgement` is there where the answer had to be judged at once: in an environment.
    """

    text: str
    ids: list[int]
    finished: bool
    judgement: Judgement | None = None


class Generator(Protocol):
    """Draws `samples` completions for each row; the same seed draws the same."""

    def __call__(
        self, rows: Sequence[Row], decoding: Decoding, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        """Completions by row."""
        ...


def transformers_generator(
    model: PreTrainedModel, processing: Processing, *, at_once: int = 128
) -> Generator:
    """Generate with transformers, at most `at_once` sequences at a time, long prompts first.

    A causal language model with a plain cache is decoded by our loop, any other by its own
    `generate` (`posttrain.llm.decode.why_not` tells). The two draw other samples from a seed.
    """
    model = model.to(device()).eval()
    tokenizer = tokenizer_of(processing)
    ends, pad = end_ids(model, processing), int(tokenizer.pad_token_id)
    draw = _generate if why_not(model) else decode

    def generate(
        rows: Sequence[Row], decoding: Decoding, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        prompts = [prompt_ids(processing, row.prompt, row.images) for row in rows]
        copies = samples if decoding.temperature else 1  # greedy: one answer, said again
        uniform = torch.rand(
            (len(rows), copies, decoding.max_new_tokens),
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float64,
        )
        said: list[list[Completion]] = [[] for _ in rows]
        for units, first, count in _calls([len(p) for p in prompts], copies, at_once):
            answers = draw(
                model,
                [prompts[i] for i in units],
                decoding,
                samples=count,
                ends=ends,
                pad=pad,
                uniform=uniform[units, first : first + count].flatten(0, 1),
            )
            for place, ids in enumerate(answers):
                said[units[place // count]].append(_completion(tokenizer, ids, ends))
        return [group * (samples // copies) for group in said]

    return generate


def _calls(
    lengths: Sequence[int], samples: int, at_once: int
) -> Iterator[tuple[list[int], int, int]]:
    """Cut prompts into calls of at most `at_once` sequences, long prompts first.

    Yields:
        prompts, their first sample in this call, and how many samples of each.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    together = max(1, at_once // samples)
    for start in range(0, len(order), together):
        for first in range(0, samples, at_once):
            yield order[start : start + together], first, min(at_once, samples - first)


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    samples: int,
    ends: Sequence[int],
    pad: int,
    uniform: torch.Tensor,
) -> list[list[int]]:
    """`decode` for models that it does not take, by their own `generate`.

    The sampler is theirs, too; it is seeded with the first of our random numbers.
    """
    copies = [prompt for prompt in prompts for _ in range(samples)]
    longest = max(map(len, copies))
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in copies])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in copies])
    with torch.random.fork_rng():
        torch.manual_seed(int(uniform[0, 0] * 2**53))
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            **sights(copies, longest, model.device, left=True),
            **_options(decoding),
            suppress_tokens=place_holders(model),
            eos_token_id=list(ends),
            pad_token_id=pad,
        )
    return out[:, longest:].tolist()


def vllm_generator(path: Path, tokenizer: PreTrainedTokenizerBase) -> Generator:
    """Generate with vLLM, where it is installed."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise ModelError(
            "diagnose.backend is vllm, but vllm is not installed; install it or set "
            "diagnose.backend=transformers"
        ) from error
    engine = LLM(model=str(path))

    def generate(
        rows: Sequence[Row], decoding: Decoding, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        parameters = SamplingParams(
            n=samples,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k or -1,
            max_tokens=decoding.max_new_tokens,
            seed=seed,
        )
        if any(row.images for row in rows):
            raise ModelError(
                "diagnose.backend is vllm, which is not shown pictures here; set "
                "diagnose.backend=transformers"
            )
        prompts = [{"prompt_token_ids": prompt_ids(tokenizer, row.prompt)} for row in rows]
        outputs = engine.generate(prompts, parameters, use_tqdm=False)
        return [
            [
                Completion(o.text.strip(), list(o.token_ids), o.finish_reason == "stop")
                for o in request.outputs
            ]
            for request in outputs
        ]

    return generate


def _options(decoding: Decoding) -> dict[str, Any]:
    """What the recipe says, and nothing of the model's own, as in RL."""
    draw = decoding.temperature > 0
    return {
        "max_new_tokens": decoding.max_new_tokens,
        "do_sample": draw,
        "temperature": decoding.temperature if draw else None,
        "top_p": decoding.top_p if draw else None,
        "top_k": decoding.top_k if draw else None,
        "min_p": None,
        "repetition_penalty": 1.0,
    }


def _completion(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Sequence[int]
) -> Completion:
    kept, finished = trim_after_end(ids, ends)
    return Completion(tokenizer.decode(kept, skip_special_tokens=True).strip(), kept, finished)


def judge_completions(
    judge: Judge,
    rows: Sequence[Row],
    completions: Sequence[Sequence[Completion]],
    **columns: Any,
) -> list[dict[str, Any]]:
    """Score rollouts of pi_0 as RL would: a rollout without an answer is wrong.

    Returns:
        one record a rollout, with the columns of a scores table.
    """
    flat = [(row, c) for row, group in zip(rows, completions, strict=True) for c in group]
    judgements = [c.judgement for _, c in flat if c.judgement is not None] or judge(
        [{**row.reward_columns(), "completion_ids": c.ids} for row, c in flat],
        [c.text for _, c in flat],
    )
    number = {row.unit: 0 for row in rows}
    records = []
    for (row, completion), judgement in zip(flat, judgements, strict=True):
        records.append(
            {
                "source": "policy",
                "unit": row.unit,
                "return": judgement.value,
                "seed": number[row.unit],
                "steps": len(completion.ids),
                "truncated": not completion.finished,
                "unscorable": judgement.value is None,
                "text": completion.text,
                "prompt": row.text,
                **columns,
            }
        )
        number[row.unit] += 1
    return records


def _tokens(
    rows: Sequence[Row], completions: Sequence[Sequence[Completion]]
) -> list[dict[str, Any]]:
    """What was sampled, token by token: a text may have been written with others."""
    return [
        {"unit": row.unit, "ids": list(completion.ids)}
        for row, group in zip(rows, completions, strict=True)
        for completion in group
    ]


def tokens_of(folder: Path) -> dict[str, list[list[int]]]:
    """Token ids of the rollouts that were drawn into `folder`, by unit, in their order."""
    found: dict[str, list[list[int]]] = {}
    for part in sorted((folder / TOKENS).glob("*.jsonl")):
        for row in record.read_jsonl(part):
            found.setdefault(row["unit"], []).append(row["ids"])
    return found


def rollouts(
    rows: Sequence[Row],
    generate: Generator,
    judge: Judge,
    decoding: Decoding,
    *,
    samples: int,
    batch: int,
    seed: int,
    folder: Path,
    enough: Callable[[list[dict[str, Any]]], bool],
    tick: Callable[[int], None],
    world: World,
    split: str,
    kind: str,
) -> list[dict[str, Any]]:
    """Roll out `rows` batch by batch until `enough` says so.

    Args:
        rows: one for each unit, in the order in which they are drawn.
        generate: draws completions.
        judge: the reward.
        decoding: temperature and limits.
        samples: completions a unit.
        batch: units between two looks.
        seed: of everything drawn here.
        folder: where finished batches are kept.
        enough: looks at all records so far.
        tick: told the number of units done.
        world: the processes, each of which draws a part of every batch.
        split: "seen" or "heldout".
        kind: "rollout" or "deployment".
    """
    found: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(rows), batch)):
        part = folder / f"{number:05d}.jsonl"
        if part.exists():
            records = record.read_jsonl(part)
        else:
            chunk = world.share(rows[start : start + batch])
            seeds = np.random.SeedSequence([seed, number, world.rank]).generate_state(1)
            drawn = generate(chunk, decoding, samples=samples, seed=int(seeds[0]))
            records = world.gather(
                judge_completions(judge, chunk, drawn, split=split, decoding=kind)
            )
            said = world.gather(_tokens(chunk, drawn))
            if world.main:
                record.write_jsonl(folder / TOKENS / part.name, said)
                record.write_jsonl(part, records)
        found += records
        tick(min(start + batch, len(rows)))
        if enough(found):
            break
    return found
