"""Figures of the diagnosis: each takes an Axes and data, and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.report.measure import BINS, NEVER, ROWS, Estimate, Floats, PassCurve, UnitMap
from posttrain.report.style import DATA, INK, PAPER, PI0, RULE, SIZE, SOFT, TUNED, Colour
from posttrain.report.words import CONTROL, LLM, Terms

Points = tuple[Floats, Floats]
"""Steps and values. [n], [n]"""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.patches import Patch


@dataclass(frozen=True, slots=True)
class Row:
    """One interval of a forest plot: what it is, and whether it decides."""

    label: str
    estimate: Estimate
    colour: Colour = INK
    marker: str = "o"
    decides: bool = True


def margin_band(ax: Axes, rows: Sequence[Row], margin: float) -> None:
    """Intervals of the gap J(pi_0) - J(D) over the three zones that the margin cuts."""
    _gap_limits(ax, rows, margin)
    low, high = ax.get_xlim()
    _forest(ax, rows, room=0.55)
    ax.axvspan(low, -margin, color=DATA.light, alpha=0.10, lw=0)
    ax.axvspan(margin, high, color=PI0.light, alpha=0.10, lw=0)
    for edge in (-margin, margin):
        for y in range(len(rows)):  # in pieces, so that no line crosses a text
            ax.plot([edge, edge], [y - 0.17, y + 0.5], color=SOFT.light, lw=1, ls=(0, (3, 2)))
    top: dict[str, Any] = {"transform": ax.transAxes, "va": "bottom", "fontweight": "bold"}
    ax.text(0.0, 1.03, "D is better", color=DATA.light, ha="left", **top)
    ax.text(1.0, 1.03, "π₀ is better", color=PI0.light, ha="right", **top)
    _say(ax, f"within ±{margin:g}: no difference that matters", 0.0, len(rows) - 0.12, SOFT)
    ax.set_xlabel("gap J(π₀) − J(D)")


def _gap_limits(ax: Axes, rows: Sequence[Row], margin: float) -> None:
    ends = [e for r in rows for e in (r.estimate.low, r.estimate.high) if np.isfinite(e)]
    low, high = min([*ends, -margin]), max([*ends, margin])
    pad = max(1.5 * margin, 0.12 * (high - low))
    ax.set_xlim(low - pad, high + pad)


def levels(ax: Axes, rows: Sequence[Row], scale: tuple[float, float]) -> None:
    """Mean returns with their intervals, on the reward's own scale."""
    low, high = within(scale, [e for row in rows for e in (row.estimate.low, row.estimate.high)])
    pad = 0.03 * (high - low)
    ax.set_xlim(low - pad, high + pad)
    _forest(ax, rows)
    ax.set_xlabel("mean return, on the reward's own scale")


def within(scale: tuple[float, float], values: Sequence[float]) -> tuple[float, float]:
    """The scale, widened to hold values that it does not bound."""
    known = [value for value in values if np.isfinite(value)]
    return min([scale[0], *known]), max([scale[1], *known])


def _forest(ax: Axes, rows: Sequence[Row], *, room: float = 0.0) -> None:
    """Rows from top to bottom, each an interval with its label above it, `room` rows below."""
    ax.set_ylim(len(rows) - 0.5 + room, -0.75)
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    for y, row in enumerate(rows):
        e, width = row.estimate, 4.5 if row.decides else 2.0
        if np.isfinite(e.low):
            ax.plot([e.low, e.high], [y, y], color=row.colour.light, lw=width, alpha=0.55)
        ax.plot([e.value], [y], marker=row.marker, ms=8 if row.decides else 6, ls="",
                color=row.colour.light, mec=PAPER.light, mew=1.2, clip_on=False)  # fmt: skip
        _say(ax, row.label, e.value, y - 0.2, INK if row.decides else SOFT, bold=row.decides)


def _say(ax: Axes, text: str, x: float, y: float, colour: Colour, *, bold: bool = False) -> None:
    """Write a line centred on `x`, moved as far as it must be to stay inside the axes."""
    inside = ax.figure.bbox.width * 72 / ax.figure.dpi - 16
    width = len(text) * SIZE * (0.64 if bold else 0.57) / inside
    low, high = ax.get_xlim()
    start = min((x - low) / (high - low) - width / 2, 0.995 - width)
    ax.annotate(text, (max(start, 0.005), y), xycoords=("axes fraction", "data"), va="bottom",
                color=colour.light, fontweight="bold" if bold else "normal")  # fmt: skip


def unit_heatmap(ax: Axes, units: UnitMap) -> None:
    """Units by what their demonstration scores (rows) and how often pi_0 succeeds (columns)."""
    rows = [i for i in range(len(ROWS)) if i < 2 or units.table[i].any()]
    most = max(int(units.table.max()), 1)
    ax.set_xlim(-0.5, len(BINS) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    for y, i in enumerate(rows):
        for x, count in enumerate(units.table[i]):
            colour = (SOFT if i else DATA) if x == NEVER else (PI0 if i else TUNED)
            shade = 0.06 + 0.45 * np.sqrt(count / most) if count else 0.0
            ax.add_patch(_tile(x, y, colour, float(shade)))
            ax.text(x, y, f"{count:,}", ha="center", va="center",
                    color=INK.light if count else SOFT.light)  # fmt: skip
    ax.axvline(0.5, color=INK.light, lw=1.2)
    ax.set_xticks(range(len(BINS)), BINS)
    ax.set_yticks(range(len(rows)), [ROWS[i] for i in rows])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("share of π₀'s samples that succeed")
    ax.set_ylabel("demonstration")


def _tile(x: float, y: float, colour: Colour, shade: float) -> Patch:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x - 0.46, y - 0.44), 0.92, 0.88, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=(colour.light, shade), edgecolor=RULE.light, lw=0.6, mutation_aspect=1,
    )  # fmt: skip


def pass_at_k(ax: Axes, curve: PassCurve, reached: float | None) -> None:
    """pass@k of pi_0 with its interval; `reached` is the share of units D gets right."""
    ax.fill_between(curve.k, curve.low, curve.high, color=PI0.light, alpha=0.18, lw=0)
    ax.plot(curve.k, curve.value, color=PI0.light, marker="o", ms=5, clip_on=False, zorder=3)
    if reached is not None and np.isfinite(reached):
        ax.axhline(reached, color=DATA.light, lw=1.4, ls=(0, (5, 2)))
        below = reached > 0.9
        ax.annotate("share of units that D gets right", (1, reached), (0, -4 if below else 3),
                    xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
                    va="top" if below else "bottom", color=DATA.light)  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(curve.k, [str(k) for k in curve.k])
    ax.minorticks_off()
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("samples k per unit")
    ax.set_ylabel("share of units solved")


def tries(ax: Axes, curve: PassCurve) -> None:
    """Chance that some of k episodes of pi_0 succeeds."""
    ax.fill_between(curve.k, curve.low, curve.high, color=PI0.light, alpha=0.18, lw=0)
    ax.plot(curve.k, curve.value, color=PI0.light, marker="o", ms=5, clip_on=False, zorder=3)
    ax.set_xscale("log", base=2)
    ax.set_xticks(curve.k, [str(k) for k in curve.k])
    ax.minorticks_off()
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("episodes k")
    ax.set_ylabel("chance of a success")


def return_histograms(
    ax: Axes,
    policy: Floats,
    dataset: Floats,
    scale: tuple[float, float],
    told: tuple[str, str] = ("mean of each of {:,} units", "each of {:,} demonstrations"),
) -> None:
    """Unit means of pi_0 upwards, returns of D downwards, on shared bins."""
    scale = within(scale, [*policy, *dataset])
    edges = np.linspace(scale[0], scale[1], 21)
    tallest = {1: 0.05, -1: 0.05}
    for values, colour, sign in ((policy, PI0, 1), (dataset, DATA, -1)):
        counts, _ = np.histogram(np.clip(values, *scale), bins=edges)
        shares = counts / max(counts.sum(), 1)
        tallest[sign] = max(0.05, float(shares.max(initial=0)))
        ax.bar(edges[:-1], sign * shares, width=np.diff(edges), align="edge", lw=0.5,
               facecolor=(colour.light, 0.55), edgecolor=colour.light)  # fmt: skip
        if len(values):
            ax.plot([values.mean()] * 2, [0, sign * tallest[sign]], color=colour.light, lw=1.4,
                    ls=(0, (2, 1.5)))  # fmt: skip
    room = 0.16 * sum(tallest.values())  # for the two lines of text
    ax.set_ylim(-tallest[-1] - room, tallest[1] + room)
    ax.axhline(0, color=SOFT.light, lw=0.8)
    ticks = [t for t in ax.get_yticks() if -tallest[-1] - room <= t <= tallest[1] + room]
    ax.set_yticks(ticks, [f"{abs(t):.0%}" for t in ticks])
    for text, y, colour, va in (
        (f"π₀: {told[0].format(len(policy))}", 0.99, PI0, "top"),
        (f"D: {told[1].format(len(dataset))}", 0.01, DATA, "bottom"),
    ):
        ax.text(0.02, y, text, transform=ax.transAxes, va=va, color=colour.light, fontweight="bold")
    ax.set_xlabel("return (dashed: mean)")


def loss_curve(
    ax: Axes, training: Points | None, heldout: Points | None, terms: Terms = LLM
) -> None:
    """Losses of pretraining: on the rows it learns, and on rows it does not see."""
    for points, label, style in ((training, "training", "-"), (heldout, "held out", "o-")):
        if points is None:
            continue
        steps, losses = points
        colour = SOFT if label == "training" else PI0
        ax.plot(steps, losses, style, color=colour.light, ms=4, lw=1.4)
        told = "" if terms == CONTROL else label
        ax.annotate(told, (steps[-1], losses[-1]), (5, 0), textcoords="offset points",
                    va="center", color=colour.light, annotation_clip=False)  # fmt: skip
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.set_xlabel(f"{terms.pretraining} step")
    ax.set_ylabel(terms.losses)
