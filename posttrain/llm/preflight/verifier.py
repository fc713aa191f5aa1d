"""Does the reward pay for what is meant: a right answer, and nothing that is none?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.llm.data import Row
from posttrain.llm.preflight import shortcuts
from posttrain.llm.preflight.finding import Finding, Severity, clip
from posttrain.llm.preflight.marks import mark
from posttrain.llm.reward import Judge, RewardError

SLOW_STEP = 5.0
"""Seconds of judging in one RL step that are worth a word."""


def reward_checks(
    rows: Sequence[Row], judge: Judge, *, scale: tuple[float, float], per_step: int
) -> tuple[Finding, ...]:
    """Everything that can be learnt about a reward without a model.

    Args:
        rows: of D; their answers and demonstrations are judged.
        judge: the reward.
        scale: lowest and highest return.
        per_step: completions that one RL step judges.
    """
    found = []
    for name, check in CHECKS.items():
        try:
            found.append(check(rows, judge, scale))
        except RewardError as error:
            found.append(_raised(f"reward.{name}", str(error)))
    if not any(f.check == "reward.raises" for f in found):
        found.append(_speed(rows, judge, per_step))
    return tuple(found)


def _raised(check: str, sentence: str) -> Finding:
    return Finding(
        check="reward.raises",
        severity="stop",
        text=f"{check}: {clip(sentence, 300)[1:-1]}",
        change="make the reward return a number on the scale diagnose.scale for every text that a "
        "policy can write, the empty one too; None where it cannot judge",
        value={"check": check},
    )


def _perfect(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """The row's answer, or else its demonstration, must reach the top of the scale."""
    check, (low, high) = "reward.perfect", scale
    said = mark(judge, rows, [row.completion for row in rows])
    given = mark(
        judge, rows, [row.completion if row.answer is None else row.answer for row in rows]
    )
    known = [row.answer is not None for row in rows]
    best = [
        max(low if v is None else v for v in pair)
        for pair in zip(said.values, given.values, strict=True)
    ]
    share = sum(v == high for v in best) / len(rows)
    value = {
        "rows": len(rows),
        "with_answer": sum(known),
        "answer_at_most": given.share(lambda v: v == high),
        "demonstration_at_most": said.share(lambda v: v == high),
        "share": share,
    }
    text = (
        f"{share:.0%} of {len(rows)} rows have an answer or a demonstration with the highest "
        f"return {high:g} (answers {value['answer_at_most']:.0%}, demonstrations "
        f"{value['demonstration_at_most']:.0%})"
    )
    if share == 1:
        return Finding(check=check, severity="ok", text=text, value=value)
    i = next(i for i, v in enumerate(best) if v < high)
    row = rows[i]
    unread = "" if given.parsed[i] else " (no answer was found in it)"
    example = (
        f"; unit {row.unit}: {clip(row.answer if row.answer is not None else row.completion)} "
        f"gets {given.values[i]}{unread}"
    )
    change = (
        "compare reward.answer, reward.extract and data.columns with that row: what D calls right "
        "must reach the top of diagnose.scale"
    )
    severe: Severity = "stop" if share == 0 or (all(known) and share < 0.5) else "warn"
    if not any(known) and severe == "warn":
        text += "; there are no stored answers, so D itself may be wrong there"
    return Finding(check=check, severity=severe, text=text + example, change=change, value=value)


def replayed_check(records: Sequence[Mapping[str, Any]], *, scale: tuple[float, float]) -> Finding:
    """Demonstrations replayed in their environment: the best of them must reach the top.

    Args:
        records: of `score_demonstrations`.
        scale: lowest and highest return.
    """
    returns = [r["return"] for r in records if r["return"] is not None]
    best = sum(value == scale[1] for value in returns)
    value = {"rows": len(records), "full": best, "unscorable": len(records) - len(returns)}
    text = (
        f"{best} of {len(records)} demonstrations, replayed in their environment, reach the "
        f"highest return {scale[1]:g}; {value['unscorable']} could not be judged"
    )
    if best and value["unscorable"] <= 0.1 * len(records):
        return Finding(check="reward.perfect", severity="ok", text=text, value=value)
    return Finding(
        check="reward.perfect",
        severity="warn" if best else "stop",
        text=text,
        change="compare the tool calls in data.path with the tools of environment.path, and the "
        "returns of its get_reward with diagnose.scale",
        value=value,
    )


def _repeat(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """The same answer twice, once in a batch and once alone, and with white space around it."""
    del scale
    answers = [row.completion for row in rows]
    once, again = mark(judge, rows, answers), mark(judge, rows, answers)
    few = list(rows)[:8]
    alone = tuple(mark(judge, [row], [row.completion]).values[0] for row in few)
    padded = mark(judge, few, [f" {row.completion}\n" for row in few])
    noisy = sum(a != b for a, b in zip(once.values, again.values, strict=True)) / len(rows)
    value = {
        "changed": noisy,
        "alone": sum(a != b for a, b in zip(alone, once.values, strict=False)) / len(few),
        "white_space": sum(a != b for a, b in zip(padded.values, once.values, strict=False))
        / len(few),
    }
    causes = {
        "changed": "the same answers judged twice",
        "alone": "a row judged alone and in a batch",
        "white_space": "an answer with white space around it",
    }
    wrong = [f"{causes[k]} ({v:.0%} of rows)" for k, v in value.items() if v > 0]
    if not wrong:
        text = f"{len(rows)} demonstrations judged twice, alone and padded have the same returns"
        return Finding(check="reward.repeat", severity="ok", text=text, value=value)
    return Finding(
        check="reward.repeat",
        severity="warn",
        text=f"returns differ for {' and '.join(wrong)}",
        change="seed the reward from its row, judge rows one by one, and strip the answer: the "
        "diagnosis and RL must see one return for one answer",
        value=value,
    )


def _speed(rows: Sequence[Row], judge: Judge, per_step: int) -> Finding:
    """Seconds that the reward takes."""
    answers = [row.completion for row in rows]
    start, calls = time.perf_counter(), 0
    while calls < 1_000 and (calls == 0 or time.perf_counter() - start < 1.0):
        mark(judge, rows, answers)
        calls += len(rows)
    thousand = 1_000 * (time.perf_counter() - start) / calls
    step = thousand * per_step / 1_000
    value: dict[str, Any] = {"seconds_per_1000": thousand, "seconds_per_step": step}
    text = (
        f"1,000 answers take {thousand:.2g} s to judge, the {per_step} of one RL step {step:.2g} s"
    )
    if step <= SLOW_STEP:
        return Finding(check="reward.speed", severity="ok", text=text, value=value)
    return Finding(
        check="reward.speed",
        severity="warn",
        text=text,
        change="make the reward faster or judge in parallel inside it: every RL step waits for it "
        "(rl.trainer.per_device_train_batch_size sets how many)",
        value=value,
    )


CHECKS: Mapping[str, Callable[[Sequence[Row], Judge, tuple[float, float]], Finding]] = {
    "perfect": _perfect,
    "empty": shortcuts.empty,
    "echo": shortcuts.echo,
    "swapped": shortcuts.swapped,
    "hedged": shortcuts.hedged,
    "cut": shortcuts.cut,
    "repeat": _repeat,
}
