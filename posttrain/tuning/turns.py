"""Demonstrations of several turns: tool calls, what the tools answered, and the last word.

The model learns what it says itself; what tools answer is read, never imitated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

Message: TypeAlias = dict[str, Any]


class TurnsError(ValueError):
    """A conversation that cannot be read or written as turns, and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Turns(Sequence[int]):
    """Token ids of several turns, and which of them the model says itself.

    Stands where the token ids of a plain completion stand.
    """

    ids: tuple[int, ...]
    said: tuple[bool, ...]

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self.ids[index]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)


def spoken(completion: Sequence[int]) -> Sequence[bool]:
    """Which tokens of a completion are the model's: all but what tools answered."""
    return completion.said if isinstance(completion, Turns) else (True,) * len(completion)


def extras(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message's tool calls, with arguments as a dict, or the name of the tool that answers.

    Arguments without a value (as tables with one column for every argument hold) are left out.

    Raises:
        TurnsError: a call without a name, or arguments that are no JSON object.
    """
    if message.get("role") == "tool":
        name = message.get("name")
        return {} if name is None else {"name": str(name)}
    calls = message.get("tool_calls")
    return {"tool_calls": [_call(call) for call in calls]} if calls else {}


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise TurnsError(f"wanted tool calls with function.name, got {call!r}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise TurnsError(f"the arguments of {name!r} are not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise TurnsError(f"the arguments of {name!r} are no object: {arguments!r}")
    given = {str(k): v for k, v in arguments.items() if v is not None}
    return {"type": "function", "function": {"name": name, "arguments": given}}


def divide(messages: Sequence[Message]) -> tuple[list[Message], tuple[Message, ...]]:
    """Divide a conversation before the demonstration: the prompt, and the turns.

    The turns are empty unless tools are called: then the demonstration is only the last message.

    Raises:
        TurnsError: the demonstration calls tools and has no last word.
    """
    start = len(messages)
    while start and messages[start - 1]["role"] in ("assistant", "tool"):
        start -= 1
    turns = tuple(messages[start:])
    if not any(m["role"] == "tool" or "tool_calls" in m for m in turns):
        return list(messages), ()
    if turns[0]["role"] != "assistant":
        raise TurnsError("a tool answers before it is called")
    if turns[-1]["role"] != "assistant" or "tool_calls" in turns[-1]:
        raise TurnsError(
            "the demonstration ends with a tool; wanted a last message from the assistant without "
            "tool calls, since a rollout ends with one"
        )
    for message, answers in rounds(turns):
        if len(message.get("tool_calls", ())) != len(answers):
            raise TurnsError(
                f"{len(message.get('tool_calls', ()))} tool calls in a message, and then "
                f"{len(answers)} answers of tools"
            )
    return list(messages[:start]), turns


def rounds(turns: Sequence[Message]) -> list[tuple[Message, list[Message]]]:
    """Every message of the assistant with what the tools answered to it."""
    found: list[tuple[Message, list[Message]]] = []
    for turn in turns:
        if turn["role"] == "assistant":
            found.append((turn, []))
        else:
            found[-1][1].append(turn)
    return found


def words(turns: Sequence[Message]) -> Iterator[str]:
    """Everything that occurs in `turns`: contents, names of tools, arguments."""
    for message in turns:
        yield message["content"]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            yield function["name"]
            for name, value in function["arguments"].items():
                yield from (str(name), str(value))


def encode(
    tokenizer: Any,
    prompt: Sequence[Message],
    turns: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]],
    end: int,
) -> tuple[list[int], Turns]:
    """Token ids of a conversation as a rollout of it has them: turn by turn.

    Args:
        tokenizer: with a chat template that writes tool calls.
        prompt: messages up to where the model begins.
        turns: what it says and what tools answer, in order.
        tools: JSON schemas, as the prompt shows them.
        end: the token that ends a turn; what the template writes behind it is not learned.

    Raises:
        TurnsError: the template writes earlier messages differently once later ones follow.
    """

    def written(messages: Sequence[Message], *, ask: bool) -> list[int]:
        encoded = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            add_generation_prompt=ask,
            tokenize=True,
            return_dict=True,
        )
        return list(encoded["input_ids"])

    begin = written(prompt, ask=True)
    ids, said = list(begin), [False] * len(begin)
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = [*prompt, *turns[:number]]
        asked = written(before, ask=True)
        whole = written([*before, turn], ask=False)
        if asked[: len(ids)] != ids or whole[: len(asked)] != asked:
            raise TurnsError(
                f"chat template: what stands before turn {number} is written differently once it "
                "follows, so SFT and a rollout would not see the same conversation"
            )
        answer = whole[len(asked) :]
        answer = answer[: answer.index(end) + 1] if end in answer else answer
        said += [False] * (len(asked) - len(ids)) + [True] * len(answer)
        ids = [*asked, *answer]
    return begin, Turns(tuple(ids[len(begin) :]), tuple(said[len(begin) :]))
