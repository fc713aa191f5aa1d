"""What does the RL reward say of the demonstrations themselves?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from posttrain.llm.data import Row
from posttrain.llm.reward import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def score_demonstrations(
    rows: Sequence[Row],
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    split: str,
) -> list[dict[str, Any]]:
    """Judge every demonstration as RL would judge a rollout: cut at its length limit.

    A demonstration in which no answer is found, or that the reward declines to judge, has no
    return: it is unscorable, which is not the same as wrong.

    Args:
        rows: the demonstrations.
        judge: the reward.
        tokenizer: counts tokens.
        limit: most tokens a rollout may have, its end token included.
        split: "seen" or "heldout".

    Returns:
        one record a demonstration, with the columns of a scores table.
    """
    texts, lengths = [], []
    for row in rows:
        ids = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
        lengths.append(len(ids) + 1)
        kept = row.completion if len(ids) < limit else tokenizer.decode(ids[:limit]).strip()
        texts.append(kept)
    judgements = judge([row.reward_columns() for row in rows], texts)
    seen: dict[str, int] = {}
    records = []
    for row, text, length, judgement in zip(rows, texts, lengths, judgements, strict=True):
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
