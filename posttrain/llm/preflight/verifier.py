"""Does the reward pay for what is meant: a right answer, and nothing that is none?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding, Severity, clip
from posttrain.llm.reward import Judge, RewardError

SLOW_STEP = 5.0
"""Seconds of judging in one RL step that are worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Returns of one kind of answer, row by row; None where the reward declines."""

    values: tuple[float | None, ...]
    parsed: tuple[bool, ...]

    def mean(self, low: float) -> float:
        """Mean return; an answer that is not judged is worth the least."""
        return sum(low if v is None else v for v in self.values) / len(self.values)

    def share(self, wanted: Callable[[float], bool]) -> float:
        """Share of rows whose return is as wanted."""
        return sum(v is not None and wanted(v) for v in self.values) / len(self.values)


def mark(judge: Judge, rows: Sequence[Row], answers: Sequence[str]) -> Marks:
    """Judge one answer a row.

    Raises:
        RewardError: the reward raised, or left its scale.
    """
    found = judge([row.reward_columns() for row in rows], list(answers))
    return Marks(
        values=tuple(j.value for j in found),
        parsed=tuple(j.parsed for j in found),
    )


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
    for check in (_perfect, _empty, _echo, _swapped, _hedged, _cut, _repeat):
        try:
            found.append(check(rows, judge, scale))
        except RewardError as error:
            name = check.__name__.strip("_")
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


def _shortcut(
    name: str, what: str, change: str, marks: Marks, scale: tuple[float, float]
) -> Finding:
    """An answer that knows nothing must score the least."""
    low, high = scale
    mean, paid = marks.mean(low), marks.share(lambda v: v > low)
    full = marks.share(lambda v: v >= high)
    value = {"mean": mean, "paid": paid, "full": full, "rows": len(marks.values)}
    text = f"{what} scores {mean:.3g} on average; above the lowest return on {paid:.0%} of rows"
    if paid == 0:
        return Finding(check=f"reward.{name}", severity="ok", text=text, value=value)
    text += f", at the highest on {full:.0%}"
    severe: Severity = "stop" if full > 0.5 or mean - low > 0.5 * (high - low) else "warn"
    return Finding(check=f"reward.{name}", severity=severe, text=text, change=change, value=value)


def _empty(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    marks = mark(judge, rows, [""] * len(rows))
    change = "give an empty answer the lowest return of diagnose.scale, or RL learns to be silent"
    return _shortcut("empty", "an empty answer", change, marks, scale)


def _echo(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    marks = mark(judge, rows, [row.text for row in rows])
    change = (
        "judge what stands in the answer and not what stood in the question: anchor "
        "reward.extract or reward.pattern to the form of an answer"
    )
    return _shortcut("echo", "the prompt said back", change, marks, scale)


def _hedged(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """A list of many answers, the right one among them, is no answer."""
    several = list(dict.fromkeys(_right(row) for row in rows))[:20]
    answers = ["\n".join(dict.fromkeys([*several, _right(row)])) for row in rows]
    if len(several) < 2:
        return Finding(
            check="reward.hedged", severity="ok", text="all rows have the same answer", value={}
        )
    marks = mark(judge, rows, answers)
    change = (
        "compare the whole answer (reward.kind: exact, or scoring: exact or solved), or take the "
        "last one in reward.extract: credit for containing the answer teaches lists"
    )
    what = f"a list of {len(several)} or more answers, the right one among them,"
    return _shortcut("hedged", what, change, marks, scale)


def _swapped(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """Another row's answer: what a policy gets that does not look at its prompt."""
    low, high = scale
    answers = [_right(row) for row in rows]
    other = [
        next((a for a in answers[i + 1 :] + answers[:i] if a != own), None)
        for i, own in enumerate(answers)
    ]
    pairs = [(row, a) for row, a in zip(rows, other, strict=True) if a is not None]
    check = "reward.swapped"
    if not pairs:
        return Finding(
            check=check,
            severity="warn",
            text="every row has the same answer, so a policy need not look at its prompt",
            change="bring rows with different answers in data.path",
        )
    marks = mark(judge, [row for row, _ in pairs], [a for _, a in pairs])
    paid = marks.share(lambda v: v >= high)
    text = f"another row's answer reaches the highest return on {paid:.0%} of rows"
    value = {"full": paid, "mean": marks.mean(low), "rows": len(pairs)}
    if paid <= 0.05:
        return Finding(check=check, severity="ok", text=text, value=value)
    return Finding(
        check=check,
        severity="stop" if paid > 0.9 else "warn",
        text=text,
        change="make the reward depend on the row: check reward.answer, reward.extract and "
        "reward.pattern; if only the form is judged on purpose, RL will improve nothing but form",
        value=value,
    )


def _cut(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """The first half of a demonstration that reaches the top must not reach it as well."""
    low, high = scale
    full = mark(judge, rows, [row.completion for row in rows])
    long = [
        row
        for row, v in zip(rows, full.values, strict=True)
        if v == high and len(row.completion) > 1
    ]
    if not long:
        return Finding(
            check="reward.cut",
            severity="ok",
            text="no demonstration at the highest return is long enough to be cut",
            value={"rows": 0},
        )
    marks = mark(judge, long, [row.completion[: len(row.completion) // 2] for row in long])
    full_again = marks.share(lambda v: v >= high)
    text = (
        f"the first half of a right demonstration scores {marks.mean(low):.3g} on average, the "
        f"highest return on {full_again:.0%} of rows"
    )
    value = {"full": full_again, "mean": marks.mean(low), "rows": len(long)}
    if full_again <= 0.05:
        return Finding(check="reward.cut", severity="ok", text=text, value=value)
    return Finding(
        check="reward.cut",
        severity="warn",
        text=text,
        change="let the reward ask for the end of an answer (anchor reward.extract or "
        "reward.pattern with $), or RL learns to stop early",
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


def _right(row: Row) -> str:
    return row.completion if row.answer is None else row.answer
