"""J(D) in an environment: a demonstration's tool calls, made once more in a fresh one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from posttrain.llm.data import Row
from posttrain.llm.environment import Factory, Stage, judged_columns, last_word
from posttrain.llm.prompts import demonstration_ids
from posttrain.llm.reward import Judge
from posttrain.tuning.seen import tokenizer_of
from posttrain.tuning.turns import Message, rounds, spoken

if TYPE_CHECKING:
    from posttrain.tuning.seen import Processing

Fate: TypeAlias = Literal["replayed", "diverged", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A demonstration after its replay.

    `diverged`: a tool answered otherwise than in D; `failed`: a call raised where it had not. What
    D shows did not happen here then, and there is no return.
    """

    row: Row
    fate: Fate
    why: str
    environment: Any
    turns: tuple[Message, ...]
    length: int
    truncated: bool


def replay(
    row: Row, factory: Factory, processing: Processing, *, limit: int, stage: Stage
) -> Replayed:
    """Make a demonstration's tool calls in a new environment, within a rollout's limits.

    Args:
        row: with its prompt opened.
        factory: makes the environment, and says how many rounds of calls there may be.
        processing: counts tokens.
        limit: most tokens of a rollout, those that tools answer included.
        stage: which of TRL's datasets the row would stand in.
    """
    prompt, completion = demonstration_ids(processing, row)
    turns = row.turns or ({"role": "assistant", "content": row.completion},)
    spans, said = _spans(completion), rounds(turns)
    whole = sum(end <= limit for _, end in spans)
    acted = said[:whole][: factory.iterations]
    environment = factory.begin(row, stage)
    fate, why = _act(environment, factory.tools, acted)
    kept = [part for message, answers in acted for part in (message, *answers)]
    if len(acted) < whole:  # no more rounds are allowed, whatever it calls
        kept.append(said[len(acted)][0])
    elif whole < len(said):
        begin = spans[whole][0]
        while begin > limit and kept and kept[-1]["role"] == "tool":
            kept.pop()  # there was no room for what the tools answered
        if begin < limit:
            before, said_so = [*prompt, *completion[:begin]], list(completion[begin:limit])
            kept.append(_half(tokenizer_of(processing), before, said_so, factory.schemas))
            if whole != factory.iterations:
                _act_unheard(environment, factory.tools, kept[-1])
    return Replayed(
        row=row,
        fate=fate,
        why=why,
        environment=environment,
        turns=tuple(kept),
        length=len(completion),
        truncated=whole < len(said),
    )


def _spans(completion: Sequence[int]) -> list[tuple[int, int]]:
    """First token and end of everything that the model says."""
    said = [False, *spoken(completion), False]
    edges = [i - 1 for i in range(1, len(said)) if said[i] != said[i - 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _half(
    tokenizer: Any, before: list[int], ids: list[int], schemas: Sequence[Mapping[str, Any]]
) -> Message:
    """A message that the limit cut, as TRL reads it: half a call may still be one."""
    from trl.chat_template_utils import parse_response

    message: Message = parse_response(tokenizer, ids, prefix=before, tools=list(schemas))
    return message


def _act_unheard(environment: Any, tools: Sequence[str], message: Message) -> None:
    """Make calls whose answers no longer find room: the tools have acted all the same."""
    for call in message.get("tool_calls", ()):
        _call(environment, tools, call["function"], "")


def _act(
    environment: Any, tools: Sequence[str], acted: Sequence[tuple[Message, Sequence[Message]]]
) -> tuple[Fate, str]:
    """Make the calls in order, up to the first that answers otherwise than in D."""
    for message, answers in acted:
        for call, answer in zip(message.get("tool_calls", ()), answers, strict=True):
            fate, why = _call(environment, tools, call["function"], answer["content"])
            if fate != "replayed":
                return fate, why
    return "replayed", ""


def _call(
    environment: Any, tools: Sequence[str], function: dict[str, Any], recorded: str
) -> tuple[Fate, str]:
    """Call a tool as TRL does, to which an exception is an answer, too."""
    name, arguments = function["name"], function["arguments"]
    raised = False
    try:
        answer = str(_tool(environment, tools, name)(**arguments))
    except Exception as error:
        raised, answer = True, str({"error": str(error)})
    if answer == recorded:
        return "replayed", ""
    told = f"{name}({arguments}) answered {answer!r}, in D {recorded!r}"
    return "failed" if raised else "diverged", told


def _tool(environment: Any, tools: Sequence[str], name: str) -> Any:
    if name not in tools:
        raise ValueError(f"Tool {name} not found.")
    return getattr(environment, name)


def score(
    rows: Sequence[Row],
    factory: Factory,
    judge: Judge,
    processing: Processing,
    *,
    limit: int,
    split: str,
) -> list[dict[str, Any]]:
    """Judge every demonstration as RL would judge a rollout that says the same.

    Returns:
        one record a demonstration, with the columns of a scores table. A demonstration whose
        replay went another way than in D is unscorable, and its text says why.
    """
    stage: Stage = "eval" if split == "heldout" else "train"
    seen: Counter[str] = Counter()
    records = []
    for row in rows:
        told = replay(row, factory, processing, limit=limit, stage=stage)
        value, text = None, f"{told.fate}: {told.why}"
        if told.fate == "replayed":
            columns = judged_columns(row.reward_columns(), told.environment, told.turns)
            judgement = judge([columns], [last_word(told.turns).strip()])[0]
            value = judgement.value if judgement.parsed else None
            text = json.dumps(told.turns, ensure_ascii=False)
        records.append(
            {
                "source": "dataset",
                "unit": row.unit,
                "return": value,
                "seed": seen[row.unit],
                "steps": told.length,
                "truncated": told.truncated,
                "unscorable": value is None,
                "text": text,
                "prompt": row.text,
                "split": split,
                "decoding": None,
            }
        )
        seen[row.unit] += 1
    return records


def account(records: Sequence[Mapping[str, Any]]) -> str:
    """Say how many demonstrations went as in D when they were replayed, and why others did not."""
    fates = [str(record["text"]).partition(":")[0] for record in records]
    lost = [r for r, fate in zip(records, fates, strict=True) if fate in ("diverged", "failed")]
    counts = (f"{fates.count(fate)} {fate}" for fate in ("diverged", "failed"))
    told = f"Demonstrations in the environment: {len(records) - len(lost)} replayed, "
    told += ", ".join(counts)
    return told + (f" (first: unit {lost[0]['unit']}, {lost[0]['text']})" if lost else "") + "."
