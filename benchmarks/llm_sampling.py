"""Tokens per second of the diagnosis' sampling beside bare `generate`: docs/llm_speed.md.

    OMP_NUM_THREADS=1 python benchmarks/llm_sampling.py --write
    python benchmarks/llm_sampling.py --models smollm2      # on a GPU: the same, by wall time

Arms take turns in one run, at the same number of sequences at once, on the same prompts. A token
counts up to and with the answer's end; time is all that the arm does for it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import clock, machine, publish, ratio, rounds, spread, table

from posttrain.assets import resolve
from posttrain.llm import decode, sampling
from posttrain.llm.data import Row
from posttrain.llm.prompts import prompt_ids
from posttrain.llm.settings import Decoding
from posttrain.tuning import tiny
from posttrain.tuning.model import device, end_ids, load, trim_after_end

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
SIZES = {"tiny": (128, 2), "wide": (256, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked: `low` to `high` words a prompt; `stops` in a thousand tokens end an answer."""

    name: str
    low: int
    high: int
    stops: int


LOADS = (
    Load(name="even", low=24, high=24, stops=0),
    Load(name="mixed prompts", low=4, high=60, stops=0),
    Load(name="mixed prompts and answers", low=4, high=60, stops=60),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[*SIZES, "smollm2"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--mark", default="sampling", help="which block of the page")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    if device().type == "cpu":
        torch.set_num_threads(1)
    rows = [line for name in asked.models for line in cells(name, asked)]
    head = ("model", "load", "bare generate, tokens/s", "ours by generate", "our loop", "ours")
    batch = f"{asked.prompts} prompts x {asked.samples} samples, {asked.at_once} at once"
    text = (
        f"{machine()}; {asked.rounds} rounds; {batch}, at most {asked.tokens} tokens.\n\n"
        + table(head, rows)
    )
    publish(asked.mark, text, write=asked.write)


def cells(name: str, asked: argparse.Namespace) -> list[tuple[str, ...]]:
    """One line of the table for each load."""
    model, tokenizer = model_of(name)
    model = model.to(device()).eval()
    own = end_ids(model, tokenizer)
    lines = []
    for given in LOADS:
        if name == "smollm2" and given.name != LOADS[-1].name:
            continue  # it ends its answers itself
        ends = own if name == "smollm2" else stopping(tokenizer, given.stops)
        model.generation_config.eos_token_id = ends
        reason = decode.why_not(model)
        if reason:
            raise SystemExit(f"{name}: {reason}")
        found = rounds(arms(model, tokenizer, given, asked), count=asked.rounds)
        bare = found.pop("bare")
        ratios = [f"{ratio(rates, bare):.2f}" for rates in found.values()]
        lines.append((name, given.name, f"{spread(bare).median:,.0f}", *ratios))
        print(lines[-1], flush=True)
    return lines


def model_of(name: str) -> tuple[Any, Any]:
    """A model with its tokenizer, by the name in the table."""
    if name == "smollm2":
        return load(resolve("asset:smollm2"))
    hidden, layers = SIZES[name]
    tokenizer = tiny.make_tokenizer(WORDS)
    return tiny.make_model(tokenizer, hidden=hidden, layers=layers), tokenizer


def stopping(tokenizer: Any, thousandth: int) -> list[int]:
    """End tokens that take so much of a new model's nearly uniform probability."""
    ends = round(len(tokenizer) * thousandth / 1000)
    return [int(tokenizer.eos_token_id), *range(len(tokenizer) - ends, len(tokenizer))]


def arms(
    model: Any, tokenizer: Any, given: Load, asked: argparse.Namespace
) -> dict[str, Callable[[], float]]:
    """The arms, each of which returns tokens per second."""
    draw = random.Random(0)  # noqa: S311 - no secret
    rows = [
        Row(
            unit=str(i),
            prompt=(
                {
                    "role": "user",
                    "content": " ".join(draw.choices(WORDS, k=draw.randint(given.low, given.high))),
                },
            ),
            completion="",
        )
        for i in range(asked.prompts)
    ]
    prompts = [prompt_ids(tokenizer, row.prompt) for row in rows]
    ends, pad = end_ids(model, tokenizer), int(tokenizer.pad_token_id)
    decoding = Decoding(max_new_tokens=asked.tokens)
    seeds = iter(range(10**6))
    n = asked.at_once // asked.samples
    tensors = [ready(prompts[i : i + n], asked.samples, pad) for i in range(0, len(prompts), n)]

    def bare() -> list[list[int]]:
        torch.manual_seed(next(seeds))
        answers = []
        for batch in tensors:
            options = {**sampling._options(decoding), "eos_token_id": ends, "pad_token_id": pad}  # noqa: SLF001
            out = model.generate(**batch, **options)
            answers += out[:, batch["input_ids"].shape[1] :].tolist()
        return answers

    def loop() -> list[list[int]]:
        answers = []
        for i in range(0, len(prompts), n):
            size = (len(prompts[i : i + n]) * asked.samples, asked.tokens)
            u = torch.rand(size, dtype=torch.float64)
            answers += decode.decode(
                model, prompts[i : i + n], decoding, samples=asked.samples, ends=ends, pad=pad,
                uniform=u,
            )  # fmt: skip
        return answers

    ours = sampling.transformers_generator(model, tokenizer, at_once=asked.at_once)
    by_generate = through_generate(model, tokenizer, asked.at_once)

    def whole(generate: sampling.Generator) -> list[list[int]]:
        groups = generate(rows, decoding, samples=asked.samples, seed=next(seeds))
        return [c.ids for group in groups for c in group]

    def rate(run: Callable[[], list[list[int]]]) -> Callable[[], float]:
        def timed() -> float:
            start = clock()
            answers = run()
            seconds = clock() - start
            return sum(len(trim_after_end(ids, ends)[0]) for ids in answers) / seconds

        return timed

    return {
        "bare": rate(bare),
        "ours by generate": rate(lambda: whole(by_generate)),
        "our loop": rate(loop),
        "ours": rate(lambda: whole(ours)),
    }


def through_generate(model: Any, tokenizer: Any, at_once: int) -> sampling.Generator:
    """Our generator as it is for a model that the loop does not take."""
    kept = sampling.why_not
    sampling.why_not = lambda _: "for comparison"
    try:
        return sampling.transformers_generator(model, tokenizer, at_once=at_once)
    finally:
        sampling.why_not = kept


def ready(prompts: Sequence[list[int]], samples: int, pad: int) -> dict[str, torch.Tensor]:
    """Tensors on the device, before the clock starts."""
    longest = max(map(len, prompts))
    many = [p for p in prompts for _ in range(samples)]
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in many])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in many])
    return {"input_ids": ids.to(device()), "attention_mask": mask.to(device())}


if __name__ == "__main__":
    main()
