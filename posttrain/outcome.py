"""What did RL change? Evaluations as a table, the gain paired by unit: for every kind of run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.files import replacing
from posttrain.regime.statistics import clustered_mean

if TYPE_CHECKING:
    from pathlib import Path

    from posttrain.files import MetricsLog
    from posttrain.regime.scores import Scores


def unit_means(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean return by unit, in the order of first appearance; what is unscorable is left out."""
    found: dict[str, list[float]] = {}
    for row in records:
        if not row.get("unscorable") and row["return"] is not None:
            found.setdefault(row["unit"], []).append(row["return"])
    return {unit: float(np.mean(values)) for unit, values in found.items()}


def write_evaluations(curve: MetricsLog, path: Path) -> None:
    """Every return of every evaluation, one row each: columns step, unit, return."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"step": [], "unit": [], "return": []}
    for row in curve.read():
        columns["step"] += [row["step"]] * len(row["unit"])
        columns["unit"] += row["unit"]
        columns["return"] += row["return"]
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def gain(
    before: Scores, after: Scores, *, alpha: float, scale: tuple[float, float] | None
) -> dict[str, Any]:
    """Mean change of the return, paired by unit, with its interval at level 1 - alpha.

    Args:
        before: Returns of pi_0.
        after: Returns of the fine-tuned policy, of which the units that both have are taken.
        alpha: Error of the interval.
        scale: Lowest and highest possible return; None where there are none.
    """
    old, new = (unit_means(side.rows()) for side in (before, after))
    shared = [unit for unit in old if unit in new]
    reach = None if scale is None else scale[1] - scale[0]
    change = clustered_mean(
        [new[unit] - old[unit] for unit in shared],
        level=1 - alpha,
        bounds=None if reach is None else (-reach, reach),
    )
    return {
        "before": float(np.mean([old[unit] for unit in shared])),
        "after": float(np.mean([new[unit] for unit in shared])),
        "gain": change.mean,
        "interval": [change.low, change.high],
        "alpha": alpha,
        "units": len(shared),
    }
