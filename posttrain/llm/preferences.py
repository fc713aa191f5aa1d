"""Preferences: of two answers to a prompt, one is chosen. D is what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.llm.data import Row


class PreferenceError(ValueError):
    """Pairs that nothing can be preferred in; the sentence names the field."""


def as_demonstration(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read a record of `chosen` and `rejected` as a demonstration with a column `rejected`.

    Both may be texts, answers as messages, or whole conversations that begin alike.

    Raises:
        PreferenceError: conversations without a prompt in common.
    """
    chosen, rejected = record["chosen"], record["rejected"]
    rest = {k: v for k, v in record.items() if k not in {"chosen", "rejected"}}
    if isinstance(chosen, list) and "prompt" not in record:
        shared = 0
        for mine, other in zip(chosen[:-1], rejected[:-1], strict=False):
            if mine != other:
                break
            shared += 1
        if shared == 0:
            raise PreferenceError("chosen, rejected: no message in common, and no prompt")
        rest["prompt"] = chosen[:shared]
    return {**rest, "completion": _text(chosen), "rejected": _text(rejected)}


def _text(answer: Any) -> Any:
    return answer[-1]["content"] if isinstance(answer, list) and answer else answer


def pairs(rows: Sequence[Row]) -> Any:
    """Pairs for DPO: the demonstration is chosen, the column `rejected` is not.

    Pairs of equal answers prefer nothing and are left out.

    Raises:
        PreferenceError: a row without a rejected answer, or no pair of different answers.
    """
    from datasets import Dataset

    found = []
    for row in rows:
        other = row.columns.get("rejected")
        if not isinstance(other, str):
            raise PreferenceError(
                f"unit {row.unit}: rl.algorithm dpo needs a text in the column 'rejected', got "
                f"{other!r}; the row has {sorted(row.columns)}"
            )
        if other != row.completion:
            answers = {"chosen": row.completion, "rejected": other}
            said = {k: [{"role": "assistant", "content": text}] for k, text in answers.items()}
            found.append({"prompt": list(row.prompt), **said, **row.shown()})
    if not found:
        raise PreferenceError(f"all of {len(rows)} pairs have equal answers: nothing is preferred")
    return Dataset.from_list(found)
