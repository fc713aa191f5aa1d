"""How does a dataset look in a terminal: what is known of it, and what is in it?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from control.datasets.known import Known
from control.datasets.registry import REGISTRY, known, near


def table(entries: Iterable[Known] | None = None) -> Table:
    """Every dataset of the registry; a star marks our reading of the paper's 21."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("dataset", "study", "environment", "steps", "J"):
        shown.add_column(name, no_wrap=True)
    for e in REGISTRY.values() if entries is None else entries:
        shown.add_row(e.name, "*" if e.study else "", e.env.id, str(e.horizon), e.score)
    return shown


def entry(name: str) -> Group:
    """All that is known of one.

    Raises:
        ValueError: nothing is.
    """
    found = known(name)
    if found is None:
        close = near(name)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"{name}: no such dataset is known{hint}; --read opens files and folders")
    success = None
    if found.success is not None:
        success = f"{found.success.of} >= {found.success.at:g}"
    facts = {
        "file": found.hdf5 or "none was published in this format",
        "from": found.url,
        "environment": _environment(found.env),
        "horizon": found.horizon,
        "J counts": found.score,
        "success": success,
        "normalised 0 and 1": None
        if found.ref_min is None
        else f"{_number(found.ref_min)} (random), {_number(found.ref_max)} (expert)",
        "rewards in learning": f"{found.reward_scale:g} r {found.reward_bias:+g}",
        "successor on Minari": found.minari,
        "its environment": None if found.minari_env is None else _environment(found.minari_env),
        "among the study's 21": "yes" if found.study else "no",
    }
    return _facts(found.name, facts)


def contents(name: str) -> Group:
    """What is in a dataset that lies here: episodes, J(D), success, warnings.

    Raises:
        DatasetError: it cannot be opened; says where it was looked for.
    """
    from control.datasets import open_dataset
    from control.datasets.normalise import normalised

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_dataset(name)
    scores = dataset.scores("return").scorable
    lengths = dataset.lengths()
    entry_of = known(dataset.name)
    fraction = None
    if entry_of is not None and entry_of.ref_max is not None and len(scores):
        fraction = f"{100 * float(normalised(scores.returns, dataset.name).mean()):.1f}"
    facts = {
        "episodes": f"{dataset.episodes:,}, {len(scores):,} of them with a return",
        "rows": f"{len(dataset):,} of {dataset.observations.shape[1]} observed numbers and "
        f"{dataset.actions.shape[1]} actions",
        "J(D)": f"{scores.returns.mean():.6g} (from {scores.returns.min():.6g} to "
        f"{scores.returns.max():.6g})"
        if len(scores)
        else "unknown",
        "normalised": fraction,
        "success": "unknown" if dataset.success is None else f"{dataset.success.mean():.1%}",
        "length": f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.1f}",
        "cut by time": f"{int(dataset.truncated.sum()):,} episodes",
    }
    told = [Text(f"! {w.message}", style="yellow") for w in caught]
    about = Text(json.dumps(dict(dataset.about), indent=1, default=str), style="dim")
    return Group(_facts(dataset.name, facts), *told, about)


def _facts(title: str, facts: dict[str, Any]) -> Group:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    for key, value in facts.items():
        if value is not None:
            grid.add_row(key, Text(str(value), overflow="fold"))
    return Group(Text(title, style="bold"), grid)


def _environment(env: Any) -> str:
    kwargs = f" with {dict(env.kwargs)}" if env.kwargs and "maze_map" not in env.kwargs else ""
    maze = " with the data's map" if "maze_map" in env.kwargs else ""
    differs = f" ({env.differs})" if env.differs else ""
    return f"{env.id}{kwargs}{maze}{differs}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
