"""What does the RL reward say of the demonstrations themselves?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.llm import environment, replayed
from posttrain.llm.data import Row, load_rows, texts
from posttrain.llm.environment import Factory
from posttrain.llm.prompts import load_tokenizer
from posttrain.llm.reward import Judge, make_judge
from posttrain.llm.settings import LlmRecipe
from posttrain.regime.scores import Scores, write_scores
from posttrain.tuning.seen import tokenizer_of

if TYPE_CHECKING:
    from posttrain.tuning.seen import Processing


def score_demonstrations(
    rows: Sequence[Row],
    judge: Judge,
    processing: Processing,
    *,
    limit: int,
    split: str,
    factory: Factory | None = None,
) -> list[dict[str, Any]]:
    """Judge every demonstration as RL would judge a rollout: cut at its length limit.

    A demonstration in which no answer is found, or that the reward declines to judge, has no
    return: it is unscorable, which is not the same as wrong.

    Args:
        rows: the demonstrations.
        judge: the reward.
        processing: a tokenizer that counts tokens, or the processor that holds it.
        limit: most tokens a rollout may have, its end token included.
        split: "seen" or "heldout".
        factory: makes the environments in which demonstrations are replayed.

    Returns:
        one record a demonstration, with the columns of a scores table.
    """
    if factory is not None:
        return replayed.score(rows, factory, judge, processing, limit=limit, split=split)
    tokenizer = tokenizer_of(processing)
    kept, lengths, columns = [], [], []
    for row in rows:
        ids = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
        lengths.append(len(ids) + 1)
        columns.append({**row.reward_columns(), "completion_ids": ids[:limit]})
        kept.append(row.completion if len(ids) < limit else tokenizer.decode(ids[:limit]).strip())
    judgements = judge(columns, kept)
    seen: dict[str, int] = {}
    records = []
    for row, text, length, judgement in zip(rows, kept, lengths, judgements, strict=True):
        unscorable = judgement.value is None or not judgement.parsed
        number = seen[row.unit] = seen.get(row.unit, -1) + 1
        records.append(
            {
                "source": "dataset",
                "unit": row.unit,
                "return": None if unscorable else judgement.value,
                "seed": number,
                "steps": length,
                "truncated": length > limit,
                "unscorable": unscorable,
                "text": text,
                "prompt": row.text,
                "split": split,
                "decoding": None,
            }
        )
    return records


def score_recipe(settings: LlmRecipe, out: Path | None) -> Path:
    """Score a recipe's demonstrations and write the table; nothing is trained.

    Returns:
        `out`, or `demonstrations.parquet` in the run's folder.
    """
    judge = make_judge(settings.reward, scale=settings.diagnose.scale)
    train, heldout = load_rows(settings.data)
    factory = None
    if settings.environment is not None:
        rewards = settings.reward.kind == "environment"
        factory = environment.make_factory(settings.environment, rewards=rewards)
    train, heldout = environment.enter(train, heldout, factory)
    said = texts((*train, *heldout))
    tokenizer = load_tokenizer(settings.model, texts=said, tools=factory is not None)
    if factory is not None:
        environment.prepare(tokenizer)
    limit = settings.rollout.max_new_tokens
    records = [
        row
        for split, rows in (("heldout", heldout), ("seen", train))
        for row in score_demonstrations(
            rows, judge, tokenizer, limit=limit, split=split, factory=factory
        )
    ]
    path = out or Path(settings.output) / settings.name / "demonstrations.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scores(Scores.from_rows(records), path)
    return path
