"""Does RL's length limit leave room for the answers of D, and for those of pi_0?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.prompts import prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOME, MOST = 0.01, 0.5
"""Shares of cut answers that are worth a word, and that leave nothing to learn from."""


def demonstrations_check(records: Sequence[Mapping[str, Any]], *, limit: int) -> Finding:
    """The share of demonstrations that RL's limit would cut.

    Args:
        records: of `score_demonstrations`.
        limit: most tokens of a rollout, its end token included.
    """
    lengths = np.array([record["steps"] for record in records])
    cut = float((lengths > limit).mean())
    p99 = int(np.quantile(lengths, 0.99, method="higher"))
    text = (
        f"{cut:.1%} of {len(lengths)} demonstrations are longer than rollout.max_new_tokens = "
        f"{limit}; their median is {int(np.median(lengths))} tokens, 99 % have at most {p99}"
    )
    return _judge(
        "length.demonstrations",
        cut,
        text,
        change=f"set rollout.max_new_tokens={p99} or more, or leave longer rows out of data: RL "
        "judges a cut answer as wrong, and J(D) with it",
        value={"cut": cut, "limit": limit, "p99": p99, "longest": int(lengths.max())},
    )


def rollouts_check(records: Sequence[Mapping[str, Any]], *, limit: int) -> Finding:
    """The share of pi_0's rollouts that reached the limit."""
    check = "length.rollouts"
    flags = [r["truncated"] for r in records if r.get("truncated") is not None]
    if not flags:
        return Finding(
            check=check,
            severity="unknown",
            text="pi_0 has no rollouts yet, so how often it reaches the limit is not known",
            change="`posttrain run RECIPE --stop-after sample` makes pi_0 and its scores; where "
            "pi_0 is there already, preflight --rollouts 8 draws some now",
        )
    cut = float(np.mean(flags))
    return _judge(
        check,
        cut,
        f"{cut:.1%} of {len(flags)} rollouts of pi_0 reached rollout.max_new_tokens = {limit} "
        "without ending",
        change="raise rollout.max_new_tokens, or teach pi_0 to end its answers (see template.end); "
        "rl.trainer.mask_truncated_completions keeps cut rollouts out of the loss",
        value={"cut": cut, "limit": limit, "rollouts": len(flags)},
        some=0.1,
    )


def _judge(
    check: str, cut: float, text: str, *, change: str, value: dict[str, Any], some: float = SOME
) -> Finding:
    if cut > MOST:
        return Finding(check=check, severity="stop", text=text, change=change, value=value)
    if cut > some:
        return Finding(check=check, severity="warn", text=text, change=change, value=value)
    return Finding(check=check, severity="ok", text=text, value=value)


def context_check(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    window: int | None,
) -> Finding:
    """Prompt and answer must fit into the model's window together.

    Args:
        rows: whose prompts are measured.
        tokenizer: counts tokens.
        limit: most tokens of a rollout.
        window: positions that the model knows; None where its configuration does not say.
    """
    check = "length.context"
    longest = max(len(prompt_ids(tokenizer, row.prompt, row.images)) for row in rows)
    value = {"prompt": longest, "limit": limit, "window": window}
    text = f"the longest of {len(rows)} prompts has {longest} tokens; with {limit} for the answer"
    if window is None:
        return Finding(
            check=check,
            severity="unknown",
            text=f"{text}, and the model's configuration names no window",
            change="look the model's context length up in its card",
            value=value,
        )
    if longest + limit > window:
        return Finding(
            check=check,
            severity="stop",
            text=f"{text} that is more than the model's {window} positions",
            change="lower rollout.max_new_tokens, or leave the longest prompts out of data",
            value=value,
        )
    return Finding(
        check=check,
        severity="ok",
        text=f"{text} they fit into {window} positions",
        value=value,
    )
