"""Which episodes succeeded, and what happens to J(D) when only those are kept?

Loaders of sparse Adroit data drop every episode without a success and cut the rest at it. On what
is left J(D) is 1 by construction, so a diagnosis on it calls nearly every policy Inferior:
whatever is filtered here says what J(D) was before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from control.datasets.dataset import TRANSITIONS, Dataset, DatasetError
from control.datasets.known import Success

__all__ = ["end_at_success", "filter_success", "filtered", "judge", "relabel_goal"]


def judge(dataset: Dataset, rule: Success) -> Dataset:
    """Say which episodes succeeded, from their rewards; recorded success is replaced."""
    if rule.of == "return":
        values = dataset.returns()
    else:
        values = np.maximum.reduceat(dataset.rewards, dataset.starts)
        if dataset.last_rewards is not None:
            values = np.fmax(values, dataset.last_rewards)
    words = f"{'highest reward' if rule.of == 'reward' else 'return'} >= {rule.at:g}"
    return replace(
        dataset, success=values >= rule.at, about={**dataset.about, "success judged by": words}
    )


def filtered(before: Dataset, after: Dataset, *, rule: str) -> Dataset:
    """Note in `after` how many episodes there were and what they returned, before and after."""
    report = {"rule": rule, "before": _summary(before), "after": _summary(after)}
    earlier = list(before.about.get("filters", []))
    return replace(after, about={**after.about, "filters": [*earlier, report]})


def _summary(dataset: Dataset) -> dict[str, Any]:
    whole = np.ones(dataset.episodes, bool) if dataset.incomplete is None else ~dataset.incomplete
    returns = dataset.returns()[whole]
    return {
        "episodes": dataset.episodes,
        "rows": len(dataset),
        "mean return": float(returns.mean()) if len(returns) else None,
        "success rate": None if dataset.success is None else float(dataset.success.mean()),
    }


def filter_success(
    dataset: Dataset, *, at: float = 0.0, cut: Literal["last", "first", "none"] = "last"
) -> Dataset:
    """Keep only episodes with a success, cut at it, as Cal-QL's loader of Adroit data does.

    A row is a success where its raw reward is at least `at`. With `cut="last"` an episode keeps
    what came up to its last success, and every success in it is terminal: the published
    convention (-1, -1, 0, -1, 0, -1 becomes -1, -1, 0, -1, 0). With "first" it ends at the first.

    Returns:
        The filtered dataset; `about["filters"]` has J(D) before and after. Report the first.

    Raises:
        DatasetError: When no episode succeeds.
    """
    won = dataset.rewards >= at
    some = np.logical_or.reduceat(won, dataset.starts)
    if not some.any():
        raise DatasetError(f"'{dataset.name}': no episode has a reward of at least {at:g}")
    marked = judge(dataset, Success(at=at))
    rule = f"episodes with a reward >= {at:g}"
    if cut == "none":
        return filtered(marked, marked.take(some), rule=rule)
    terminal = replace(marked, terminals=dataset.terminals | won)
    kept = _cut_after(terminal, won, which=cut).take(some)
    return filtered(marked, kept, rule=f"{rule}, cut at the {cut}")


def end_at_success(dataset: Dataset, *, at: float) -> Dataset:
    """End each episode at its first reward of at least `at`, as a terminal; keep the others whole.

    For data of a task that ends at its goal, recorded by an environment that went on.
    """
    won = dataset.rewards >= at
    marked = replace(judge(dataset, Success(at=at)), terminals=dataset.terminals | won)
    return filtered(
        dataset, _cut_after(marked, won, which="first"), rule="end at the first success"
    )


def _cut_after(dataset: Dataset, won: Any, *, which: Literal["last", "first"]) -> Dataset:
    """Drop the rows after the first or last marked row of each episode that has one."""
    rows = np.arange(len(dataset))
    if which == "first":
        at = np.minimum.reduceat(np.where(won, rows, len(rows)), dataset.starts)
        at = np.minimum(at, dataset.stops - 1)
    else:
        at = np.maximum.reduceat(np.where(won, rows, -1), dataset.starts)
        at = np.where(at < 0, dataset.stops - 1, at)
    keep = rows <= at[dataset.episode]
    ends = rows == at[dataset.episode]
    columns: dict[str, Any] = {name: getattr(dataset, name)[keep] for name in TRANSITIONS}
    columns["ends"] = ends[keep]
    has = np.logical_or.reduceat(won, dataset.starts)
    if dataset.incomplete is not None:
        columns["incomplete"] = dataset.incomplete & ~has
    if dataset.last_rewards is not None:
        columns["last_rewards"] = np.where(has, np.nan, dataset.last_rewards)
    return replace(dataset, **columns)


def relabel_goal(dataset: Dataset, goal: tuple[float, float], *, radius: float = 0.45) -> Dataset:
    """Pay 1 where the next observation is within `radius` of one goal, else 0, and end there.

    For mazes whose data were driven to many goals while policies are evaluated on one, and whose
    first two observed numbers are x and y. D4RL relabels its AntMaze data so.
    """
    distance = np.linalg.norm(
        dataset.next_observations[:, :2] - np.asarray(goal, np.float32), axis=1
    )
    reached = replace(
        dataset, rewards=(distance <= radius).astype(float), terminals=np.zeros(len(dataset), bool)
    )
    about = {**dataset.about, "rewards": f"relabelled: 1 within {radius:g} of {list(goal)}"}
    return end_at_success(replace(reached, about=about), at=1.0)
