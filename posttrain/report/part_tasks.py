"""The section of a robot policy's run about its tasks: whether one verdict is enough for all."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from posttrain.report import words
from posttrain.report.render import Plot
from posttrain.report.section import Section, plain
from posttrain.report.task_figure import Gap, task_gaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.regime.tasks import TaskDiagnosis, TaskGap
    from posttrain.report.evidence import Evidence

MOST: Final = 25
"""Tasks that are drawn; of more, the lowest and the highest."""


def tasks(evidence: Evidence) -> Section:
    """The gap of each task, alone and pooled, and of all."""
    key, title = "tasks", "Task by task"
    found = evidence.robot.tasks
    if found is None:
        absent = "The record holds no verdict by task: there is one task, or D and π₀ share none."
        return Section(key=key, title=title, absent=absent)
    shown, rest = extremes(found.tasks)
    counts = Counter(str(task.pooled_regime) for task in found.tasks)
    body = {
        "t": found,
        "counts": [(name, counts[name]) for name in words.REGIMES if counts[name]],
        "shown": shown,
        "rest": rest,
        "noun": evidence.noun,
        "level": f"{100 * (1 - 2 * found.alpha):g}%",
        "flags": [(words.title(f.kind, words.FLAGS), f.text) for f in found.flags],
        "overruled": str(evidence.diagnosis.regime) != str(found.mean_regime),
        "scaled": tuple(found.scale) != (0, 1),
    }
    plot = _plot(found, shown, len(rest))
    return Section(key=key, title=title, body=body, plots={"gaps": plot})


def extremes(found: Sequence[TaskGap]) -> tuple[list[TaskGap], list[TaskGap]]:
    """The tasks to draw, lowest gap first, and those that are left out between them."""
    if len(found) <= MOST:
        return list(found), []
    half = MOST // 2
    return [*found[:half], *found[-half:]], list(found[half:-half])


def _plot(found: TaskDiagnosis, shown: Sequence[TaskGap], left_out: int) -> Plot:
    rows = [
        Gap(t.task, t.pooled, *t.pooled_interval, raw=t.gap, regime=str(t.pooled_regime))
        for t in shown
    ]
    between = len(rows) // 2 if left_out else None
    mean = Gap(
        f"mean of {len(found.tasks)} tasks",
        found.mean_gap,
        *found.mean_interval,
        raw=None,
        regime=str(found.mean_regime),
    )
    told = "; ".join(
        f"{r.name}: {plain(r.value, signed=True)} [{plain(r.low, signed=True)}, "
        f"{plain(r.high, signed=True)}] {r.regime}"
        for r in (*rows, mean)
    )
    gone = f"; {left_out} tasks between them are left out" if left_out else ""
    height = 84 + 24 * (len(rows) + 1 + bool(left_out))
    return Plot(
        name="task-gaps",
        draw=partial(
            task_gaps, rows=rows, mean=mean, margin=found.margin, between=between, left_out=left_out
        ),
        alt=f"Gap of each task with its interval: {told}{gone}.",
        caption="Faint: the task's own gap. Strong: the gap drawn to the other tasks' as far as "
        f"tasks agree, with its {100 * (1 - 2 * found.alpha):g}% interval. Between the dashed "
        "lines nothing matters.",
        size=(368, height),
        wide=(720, height),
    )
