"""The figure of gaps by task: it takes an Axes and data, and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from posttrain.report.style import DATA, INK, PAPER, PI0, SOFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

REGIMES: Final = {
    "superior": (PI0, "o"),
    "comparable": (INK, "D"),
    "inferior": (DATA, "s"),
    "undecided": (SOFT, "o"),
}
"""A colour and a shape by regime; what is undecided is drawn hollow."""


NAME: Final = 22
"""Letters of a task's name in a drawing that is narrower than `NARROW`; twice as many in others."""
NARROW: Final = 500


@dataclass(frozen=True, slots=True)
class Gap:
    """A task's gap with its interval, and its own before pooling."""

    name: str
    value: float
    low: float
    high: float
    raw: float | None
    regime: str


def task_gaps(
    ax: Axes,
    rows: Sequence[Gap],
    mean: Gap,
    margin: float,
    *,
    between: int | None = None,
    left_out: int = 0,
) -> None:
    """Tasks from the lowest gap to the highest, and their mean below a line."""
    places = [i + (between is not None and i >= between) for i in range(len(rows))]
    bottom = places[-1] + 1.15
    _zones(ax, [*rows, mean], margin)
    for y, row in zip([*places, bottom], [*rows, mean], strict=True):
        _gap(ax, y, row, bold=row is mean)
    ax.set_ylim(bottom + 0.7, -0.8)
    ax.axhline(bottom - 0.58, color=SOFT.light, lw=0.8)
    ticks = [*places, bottom]
    letters = NAME if ax.figure.bbox.width * 72 / ax.figure.dpi < NARROW else 2 * NAME
    names = [*(_short(row.name, letters) for row in rows), mean.name]
    if between is not None:
        ticks.insert(between, between)
        names.insert(between, f"… {left_out} more …")
    ax.set_yticks(ticks, names)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("gap J(π₀) − J(D)")


def _zones(ax: Axes, rows: Sequence[Gap], margin: float) -> None:
    ends = [e for r in rows for e in (r.low, r.high, r.raw) if e is not None and np.isfinite(e)]
    low, high = min([*ends, -margin]), max([*ends, margin])
    pad = 0.06 * (high - low)
    ax.set_xlim(low - pad, high + pad)
    ax.axvspan(low - pad, -margin, color=DATA.light, alpha=0.10, lw=0)
    ax.axvspan(margin, high + pad, color=PI0.light, alpha=0.10, lw=0)
    for edge in (-margin, margin):
        ax.axvline(edge, color=SOFT.light, lw=0.9, ls=(0, (3, 2)))
    top: dict[str, Any] = {"transform": ax.transAxes, "va": "bottom", "fontweight": "bold"}
    ax.text(0.0, 1.01, "D is better", color=DATA.light, ha="left", **top)
    ax.text(1.0, 1.01, "π₀ is better", color=PI0.light, ha="right", **top)


def _gap(ax: Axes, y: float, row: Gap, *, bold: bool) -> None:
    colour, shape = REGIMES.get(row.regime, (SOFT, "o"))
    hollow = row.regime == "undecided"
    if np.isfinite(row.low) and np.isfinite(row.high):
        ax.plot([row.low, row.high], [y, y], color=colour.light, lw=3.5 if bold else 2, alpha=0.6)
    if row.raw is not None:
        ax.plot([row.raw], [y], "|", ms=9, mew=1.6, color=colour.light, alpha=0.45)
    ax.plot([row.value], [y], shape, ms=8 if bold else 6, color=colour.light, clip_on=False,
            mfc=PAPER.light if hollow else colour.light,
            mec=colour.light if hollow else PAPER.light, mew=1.3)  # fmt: skip
    ax.annotate(row.regime, (1, y), (5, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", color=colour.light,
                fontweight="bold" if bold else "normal")  # fmt: skip


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1].rstrip()}…"
