"""Answers that know nothing, and what the reward pays for them."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding, Severity
from posttrain.llm.preflight.marks import Marks, mark, right
from posttrain.llm.reward import Judge


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
    severe: Severity = "stop" if mean - low > 0.5 * (high - low) else "warn"
    return Finding(check=f"reward.{name}", severity=severe, text=text, change=change, value=value)


def empty(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """Silence."""
    marks = mark(judge, rows, [""] * len(rows))
    change = "give an empty answer the lowest return of diagnose.scale, or RL learns to be silent"
    return _shortcut("empty", "an empty answer", change, marks, scale)


def echo(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """The prompt, said back."""
    marks = mark(judge, rows, [row.text for row in rows])
    change = (
        "judge what stands in the answer and not what stood in the question: anchor "
        "reward.extract or reward.pattern to the form of an answer"
    )
    return _shortcut("echo", "the prompt said back", change, marks, scale)


def hedged(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """A list of many answers, the right one among them, is no answer."""
    several = list(dict.fromkeys(right(row) for row in rows))[:20]
    answers = ["\n".join(dict.fromkeys([*several, right(row)])) for row in rows]
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


def swapped(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
    """Another row's answer: what a policy gets that does not look at its prompt."""
    low, high = scale
    answers = [right(row) for row in rows]
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


def cut(rows: Sequence[Row], judge: Judge, scale: tuple[float, float]) -> Finding:
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
