"""The reward that RL maximises, as one function of rows and completions.

Demonstrations, rollouts of pi_0 and completions during RL are judged by the same function.
A reward that raises, or returns a number outside the stated scale, stops the run.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from posttrain.llm.settings import (
    EnvironmentReward,
    ExactReward,
    FunctionReward,
    ReasoningGymReward,
    RegexReward,
    RewardSettings,
    TrlReward,
)


class RewardError(ValueError):
    """A reward failed; the sentence names the unit and the completion."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the reward says of one completion.

    `value` is None where the reward declines to judge. `parsed` is False where no answer was
    found in the text: RL scores that 0, and in D it counts as unscorable, not as wrong.
    """

    value: float | None
    parsed: bool = True


Columns: TypeAlias = Mapping[str, Any]
Judge: TypeAlias = Callable[[Sequence[Columns], Sequence[str]], list[Judgement]]
RewardFunction: TypeAlias = Callable[..., Sequence[float | None]]


def make_judge(settings: RewardSettings, *, scale: tuple[float, float]) -> Judge:
    """Build the judge that a recipe names; its values are checked against `scale`.

    Raises:
        RewardError: a name that does not exist.
    """
    inner = _MAKERS[settings.kind](settings)

    def judge(rows: Sequence[Columns], completions: Sequence[str]) -> list[Judgement]:
        try:
            judgements = inner(rows, completions)
        except Exception as error:
            raise _blame(inner, rows, completions, error) from error
        for row, completion, judgement in zip(rows, completions, judgements, strict=True):
            _check(judgement.value, scale, row, completion)
        return judgements

    return judge


def _blame(
    inner: Judge, rows: Sequence[Columns], completions: Sequence[str], error: Exception
) -> RewardError:
    """Find the row that raises by asking for each alone."""
    for row, completion in zip(rows, completions, strict=True):
        try:
            inner([row], [completion])
        except Exception as alone:
            return RewardError(
                f"the reward raised {type(alone).__name__}: {alone} on unit {row.get('unit')!r} "
                f"with completion {completion!r}"
            )
    return RewardError(
        f"the reward raised {type(error).__name__}: {error} on a batch of {len(rows)} rows "
        f"(first: unit {rows[0].get('unit')!r}), and on none of them alone"
    )


def _check(value: float | None, scale: tuple[float, float], row: Columns, completion: str) -> None:
    if value is None:
        return
    low, high = scale
    if not math.isfinite(value) or not low <= value <= high:
        raise RewardError(
            f"the reward gave {value!r} to unit {row.get('unit')!r}, outside the stated scale "
            f"[{low:g}, {high:g}] (diagnose.scale), with completion {completion!r}"
        )


def _first_group(pattern: str, field: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RewardError(f"reward.{field}: not a regular expression: {error}") from error
    if compiled.groups < 1:
        raise RewardError(f"reward.{field}: wanted a group (...) around the answer in {pattern!r}")
    return compiled


def _extractor(pattern: str | None) -> Callable[[str], str | None]:
    if pattern is None:
        return str.strip
    compiled = _first_group(pattern, "extract")

    def extract(text: str) -> str | None:
        found = compiled.search(text)
        return None if found is None else str(found.group(1)).strip()

    return extract


def _rowwise(one: Callable[[Columns, str], Judgement]) -> Judge:
    return lambda rows, texts: [one(r, t) for r, t in zip(rows, texts, strict=True)]


def _exact(settings: ExactReward) -> Judge:
    extract = _extractor(settings.extract)

    def fold(text: str) -> str:
        return text.casefold() if settings.ignore_case else text

    def one(row: Columns, text: str) -> Judgement:
        wanted = row.get(settings.answer)
        if wanted is None:
            raise ValueError(f"the row has no {settings.answer!r} to compare with")
        got = extract(text)
        if got is None:
            return Judgement(0.0, parsed=False)
        return Judgement(float(fold(got) == fold(str(wanted).strip())))

    return _rowwise(one)


def _regex(settings: RegexReward) -> Judge:
    try:
        compiled = re.compile(settings.pattern)
    except re.error as error:
        raise RewardError(f"reward.pattern: not a regular expression: {error}") from error
    return _rowwise(lambda _row, text: Judgement(float(compiled.search(text) is not None)))


def _reasoning_gym(settings: ReasoningGymReward) -> Judge:
    import reasoning_gym

    extract = _extractor(settings.extract)

    def one(row: Columns, text: str) -> Judgement:
        if "entry" not in row:
            raise ValueError("the row has no 'entry': data.path must read reasoning_gym:TASK")
        entry = json.loads(row["entry"])
        answer = extract(text)
        if answer is None:
            return Judgement(0.0, parsed=False)
        if settings.scoring == "exact":
            return Judgement(float(answer == str(entry["answer"]).strip()))
        scorer = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
        score = float(scorer(answer, entry))
        return Judgement(score if settings.scoring == "partial" else float(score == 1.0))

    return _rowwise(one)


def from_function(function: RewardFunction) -> Judge:
    """Call a reward with TRL's signature: `f(prompts, completions, **columns)`."""

    def judge(rows: Sequence[Columns], texts: Sequence[str]) -> list[Judgement]:
        names = [k for k in rows[0] if k != "prompt"] if rows else []
        values = function(
            prompts=[row.get("prompt") for row in rows],
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            **{name: [row[name] for row in rows] for name in names},
        )
        if len(values) != len(texts):
            raise ValueError(f"{len(texts)} completions were given, {len(values)} rewards came")
        return [Judgement(None if v is None else float(v)) for v in values]

    return judge


def _trl(settings: TrlReward) -> Judge:
    import trl.rewards

    names = sorted(n for n in trl.rewards.__all__ if n.endswith("_reward"))
    if settings.name not in names:
        raise RewardError(f"reward.name: trl has no {settings.name!r}; it has {names}")
    inner = from_function(getattr(trl.rewards, settings.name))

    def judge(rows: Sequence[Columns], texts: Sequence[str]) -> list[Judgement]:
        return inner(
            [{**row, "solution": row.get("solution", row["answer"])} for row in rows], texts
        )

    return judge


def _function(settings: FunctionReward) -> Judge:
    module, name = settings.path.split(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RewardError(f"reward.path: cannot load {settings.path!r}: {error}") from error
    if not callable(function):
        raise RewardError(f"reward.path: {settings.path!r} is a {type(function).__name__}")
    return from_function(function)


def _environment(_settings: EnvironmentReward) -> Judge:
    from posttrain.llm.environment import rewarded

    def one(row: Columns, _text: str) -> Judgement:
        if "environments" not in row:
            raise ValueError("reward.kind is environment, and this was said outside of one")
        return Judgement(rewarded(row["environments"]))

    return _rowwise(one)


_MAKERS: dict[str, Callable[[Any], Judge]] = {
    "exact": _exact,
    "regex": _regex,
    "reasoning_gym": _reasoning_gym,
    "trl": _trl,
    "function": _function,
    "environment": _environment,
}
