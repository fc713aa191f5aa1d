"""Is one verdict enough for all tasks? Each task's gap, alone and pooled, and their mean."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.regime import unbounded
from posttrain.regime.evidence import check_settings
from posttrain.regime.gap import gap_interval
from posttrain.regime.pooling import pool, standard_errors
from posttrain.regime.sample import check_scale, pair, sample
from posttrain.regime.scores import Scores, ScoresError
from posttrain.regime.strict import read
from posttrain.regime.verdict import Flag, Interval, Regime, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from posttrain.regime.sample import Pairing

LEAST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGap:
    """One task's verdict: from its own episodes alone, and with the others' help."""

    task: str
    j_policy: float
    """Mean return of pi_0, in the reward's own units."""
    j_dataset: float
    success_policy: float | None
    """Share of episodes that succeed; None where the scores do not say."""
    success_dataset: float | None
    gap: float
    """J(pi_0) - J(D) on the scale where the reward's range is 1."""
    interval: Interval
    """Of the gap, from this task alone; each end has error alpha."""
    regime: Regime
    """By `interval`: for this task, each wrong verdict has a chance of alpha at most."""
    together: Regime
    """By an interval at alpha / tasks: each wrong verdict, in any task, has a chance of alpha."""
    pooled: float
    """The gap, drawn to the other tasks' as far as tasks agree."""
    pooled_interval: Interval
    """Of the pooled gap; right at level alpha on average over tasks, not for each."""
    pooled_regime: Regime
    units_policy: int
    units_dataset: int
    episodes_policy: int
    episodes_dataset: int
    paired: bool
    """Whether units were compared as pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDiagnosis:
    """Verdicts by task, and what holds for the tasks as a whole."""

    tasks: tuple[TaskGap, ...]
    """In the order of their pooled gaps, the lowest first."""
    mean_gap: float
    """Mean of the tasks' gaps; each task counts equally, whatever its episodes."""
    mean_interval: Interval
    """Of `mean_gap` for these very tasks; each end has error alpha."""
    mean_regime: Regime
    tau: float
    """How much true gaps differ between tasks: a standard deviation, posterior median."""
    tau_interval: Interval
    margin: float
    alpha: float
    scale: tuple[float, float]
    bounded: bool
    flags: tuple[Flag, ...]

    @property
    def agree(self) -> bool:
        """Whether no two tasks lie in different regimes, as far as pooling can tell."""
        return len({t.pooled_regime for t in self.tasks} - {Regime.UNDECIDED}) < 2

    @property
    def sentence(self) -> str:
        """The mean gap, how much tasks differ, and the regimes by count."""
        counts = Counter(t.pooled_regime for t in self.tasks)
        told = ", ".join(f"{counts[regime]} {regime}" for regime in Regime if counts[regime])
        low, high = self.mean_interval
        level = f"{100 * (1 - 2 * self.alpha):g} %"
        return (
            f"{len(self.tasks)} tasks: {told}. Mean gap {self.mean_gap:+.3f} ({level} interval "
            f"{low:+.3f} to {high:+.3f}: {self.mean_regime}); gaps differ between tasks by "
            f"{self.tau:.3f} ({self.tau_interval.low:.3f} to {self.tau_interval.high:.3f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts under the field names."""
        return dict(json.loads(json.dumps(asdict(self), allow_nan=False)))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TaskDiagnosis:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: Naming the key that is missing, unknown or of the wrong type.
        """
        value: TaskDiagnosis = read(cls, plain, "tasks")
        return value


def by_task(
    policy: Scores,
    dataset: Scores,
    *,
    margin: float = 0.05,
    alpha: float = 0.05,
    scale: tuple[float, float] | None = None,
    bounded: bool = True,
) -> TaskDiagnosis:
    """Diagnose every task that both sides have.

    Args:
        policy: Scores of pi_0 with the column `task`.
        dataset: Scores of the demonstrations, likewise.
        margin: The smallest gap that matters, as a share of the reward's range.
        alpha: Chance of a wrong verdict, of each of the three.
        scale: Lowest and highest possible return; None says that returns lie in [0, 1].
        bounded: Whether the scale bounds the returns, or is only their unit.

    Raises:
        ScoresError: When a side does not say its tasks, or no task has 2 units on both sides.
        ValueError: As `diagnose` does.
    """
    check_settings(margin=margin, alpha=alpha)
    ends = check_scale(scale)
    here = {side: _tasks(scores, side) for side, scores in _named(policy, dataset)}
    pairings, left_out = _pair(policy, dataset, here, scale=scale, bounded=bounded)
    method = partial(gap_interval if bounded else unbounded.gap_interval)
    gaps = np.array([_gap(pairing) for pairing in pairings.values()])
    intervals = [method(pairing, alpha=alpha) for pairing in pairings.values()]
    errors = standard_errors(tuple(pairings.values()), alpha=alpha, bounded=bounded)
    pooled = pool(gaps, errors, alpha=alpha)
    found = [
        _task_gap(
            task,
            pairing,
            (policy.where(task=task), dataset.where(task=task)),
            ends=ends,
            interval=intervals[i],
            regimes=(
                decide(intervals[i], margin),
                decide(method(pairing, alpha=alpha / len(pairings)), margin),
                decide(pooled.intervals[i], margin),
            ),
            pooled=(float(pooled.means[i]), pooled.intervals[i]),
        )
        for i, (task, pairing) in enumerate(pairings.items())
    ]
    mean = mean_over_tasks(gaps, intervals)
    return TaskDiagnosis(
        tasks=tuple(sorted(found, key=lambda t: (t.pooled, t.task))),
        mean_gap=float(gaps.mean()),
        mean_interval=mean,
        mean_regime=decide(mean, margin),
        tau=pooled.tau,
        tau_interval=pooled.tau_interval,
        margin=margin,
        alpha=alpha,
        scale=ends,
        bounded=bounded,
        flags=tuple(_flags(found, left_out)),
    )


def mean_over_tasks(gaps: Sequence[float] | Any, intervals: Sequence[Interval]) -> Interval:
    """Bound the mean of the gaps of fixed tasks, each end at the intervals' own error.

    Tasks are strata: distances to the ends add up as standard errors do, each side for itself
    (MOVER: G. Zou, W. Huang and X. Zhang, Comput. Stat. Data Anal. 53, 2009).

    Args:
        gaps: Gap of each task `[tasks]`.
        intervals: Its interval.
    """
    middle = np.asarray(gaps, dtype=np.float64)
    low, high = np.asarray(intervals, dtype=np.float64).T
    mean = float(middle.mean())
    return Interval(
        mean - float(np.linalg.norm(middle - low)) / middle.size,
        mean + float(np.linalg.norm(high - middle)) / middle.size,
    )


def _named(policy: Scores, dataset: Scores) -> tuple[tuple[str, Scores], ...]:
    return ("policy", policy), ("dataset", dataset)


def _tasks(scores: Scores, side: str) -> set[str]:
    if scores.task is None:
        raise ScoresError(f"{side}: no column 'task' to tell tasks apart")
    nameless = sum(task is None for task in scores.task)
    if nameless:
        raise ScoresError(f"{side}: {nameless} of {len(scores)} episodes say no task")
    return set(scores.task)


def _pair(
    policy: Scores,
    dataset: Scores,
    here: dict[str, set[str]],
    *,
    scale: tuple[float, float] | None,
    bounded: bool,
) -> tuple[dict[str, Pairing], list[str]]:
    """Pair the tasks that both sides have with enough units; name the others."""
    pairings: dict[str, Pairing] = {}
    every = here["policy"] | here["dataset"]
    make: Callable[..., Any] = partial(sample, scale=scale, bounded=bounded, least=1)
    for task in sorted(here["policy"] & here["dataset"]):
        sides = [(side, scores.where(task=task)) for side, scores in _named(policy, dataset)]
        if all(len(scores.scorable) for _, scores in sides):
            pairing = pair(*(make(scores, side=side) for side, scores in sides))
            if min(pairing.policy.values.size, pairing.dataset.values.size) >= LEAST:
                pairings[task] = pairing
    if not pairings:
        raise ScoresError(
            f"no task has {LEAST} units on both sides (policy: {_some(here['policy'])}; "
            f"dataset: {_some(here['dataset'])})"
        )
    return pairings, sorted(every - set(pairings))


def _gap(pairing: Pairing) -> float:
    return float(pairing.policy.values.mean() - pairing.dataset.values.mean())


def _task_gap(
    task: str,
    pairing: Pairing,
    scores: tuple[Scores, Scores],
    *,
    ends: tuple[float, float],
    interval: Interval,
    regimes: tuple[Regime, Regime, Regime],
    pooled: tuple[float, Interval],
) -> TaskGap:
    p, d = pairing.policy, pairing.dataset
    low, width = ends[0], ends[1] - ends[0]
    won = [None if s.success is None else float(np.mean(s.success)) for s in scores]
    return TaskGap(
        task=task,
        j_policy=low + width * float(p.values.mean()),
        j_dataset=low + width * float(d.values.mean()),
        success_policy=won[0],
        success_dataset=won[1],
        gap=_gap(pairing),
        interval=interval,
        regime=regimes[0],
        together=regimes[1],
        pooled=pooled[0],
        pooled_interval=pooled[1],
        pooled_regime=regimes[2],
        units_policy=p.values.size,
        units_dataset=d.values.size,
        episodes_policy=p.episodes,
        episodes_dataset=d.episodes,
        paired=pairing.paired,
    )


def _flags(found: Sequence[TaskGap], left_out: Sequence[str]) -> Iterator[Flag]:
    decided: dict[Regime, list[str]] = {}
    for task in sorted(found, key=lambda t: (t.pooled, t.task)):
        if task.pooled_regime is not Regime.UNDECIDED:
            decided.setdefault(task.pooled_regime, []).append(task.task)
    if len(decided) > 1:
        told = "; ".join(f"{regime}: {_some(names)}" for regime, names in decided.items())
        yield Flag(
            "tasks_differ",
            f"Tasks differ ({told}): one verdict for all of them hides that, and one plan for all "
            "of them may not suit each.",
        )
    if len(found) < 3:
        yield Flag(
            "few_tasks",
            f"Only {len(found)} task(s): how much tasks differ is mostly the prior's word.",
        )
    if left_out:
        yield Flag(
            "tasks_left_out",
            f"{len(left_out)} task(s) are left out, since a side has fewer than {LEAST} units of "
            f"them: {_some(left_out)}.",
        )


def _some(names: Sequence[str] | set[str]) -> str:
    listed = sorted(names) if isinstance(names, set) else list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(f"'{name}'" for name in listed[:3]) + more
