"""Figures of a run of RL: each takes an Axes and data, and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from posttrain.report.figures import Row, _forest, _say, within
from posttrain.report.measure import Curve, Floats, running_median
from posttrain.report.section import plain
from posttrain.report.style import DATA, INK, PAPER, PI0, SOFT, TUNED, Colour
from posttrain.report.words import LLM, Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Levels:
    """The horizontal lines of a training curve: where RL started from."""

    policy: float
    dataset: float

    @property
    def prior(self) -> float:
        """J*_off, the better of the two."""
        return max(self.policy, self.dataset)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the final return is made of, as the run's record says it."""

    stability: float
    plasticity: float
    noise: float | None = None


def training_curve(ax: Axes, curve: Curve, start: Levels, parts: Parts, terms: Terms = LLM) -> None:
    """Return over RL steps, with the prior it must not lose and what it gained."""
    values, steps = curve.values, curve.steps
    low, high = np.array([[p.low, p.high] for p in curve.points]).T
    ax.fill_between(steps, low, high, color=TUNED.light, alpha=0.18, lw=0)
    ax.plot(steps, values, color=TUNED.light, marker="o", ms=4, zorder=3)
    span = float(steps[-1] - steps[0]) or 1.0
    ax.set_xlim(steps[0] - 0.02 * span, steps[-1] + 0.02 * span)
    shown = [v for v in (*low, *high, *values, start.policy, start.dataset) if np.isfinite(v)]
    pad = 0.06 * (max(shown) - min(shown) or 1.0)
    ax.set_ylim(min(shown) - pad, max(shown) + pad)
    _level_lines(ax, start, values)
    worst, best = int(values.argmin()), int(values.argmax())
    for place in (worst, best):
        ax.plot(
            steps[place], values[place], "o", ms=9, mfc="none", mec=INK.light, mew=1.3, zorder=4
        )
    _brackets(ax, start.prior, float(values[worst]), float(values[best]), parts)
    ax.set_xlabel(terms.step)
    ax.set_ylabel(terms.returned)


def _level_lines(ax: Axes, start: Levels, values: Floats) -> None:
    """J(pi_0) and J(D), labelled at the end where the curve is further away."""
    third = max(1, len(values) // 3)
    bottom, top = ax.get_ylim()
    upper_is_policy = start.policy >= start.dataset
    for name, value, colour, dashes, is_policy in (
        ("J(π₀)", start.policy, PI0, (0, (5, 2)), True),
        ("J(D)", start.dataset, DATA, (0, (1.5, 1.5)), False),
    ):
        prior = is_policy == upper_is_policy
        ax.axhline(value, color=colour.light, lw=1.6 if prior else 1.1, ls=dashes, zorder=2)
        up = prior and value < bottom + 0.93 * (top - bottom)
        up = up or value < bottom + 0.07 * (top - bottom)
        text = f"{name} = {value:.2f}" + (", the prior" if prior else "")
        left = np.abs(values[:third] - value).min() > np.abs(values[-third:] - value).min()
        ax.annotate(text, (0 if left else 1, value), (2 if left else -2, 3 if up else -3),
                    xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="left" if left else "right", va="bottom" if up else "top",
                    color=colour.light, fontweight="bold" if prior else "normal")  # fmt: skip


def _brackets(ax: Axes, prior: float, worst: float, best: float, parts: Parts) -> None:
    """Arrows in the right margin: stability from the prior down, plasticity back up."""
    bottom, top = ax.get_ylim()
    for x, tail, head, colour in ((1.03, prior, worst, DATA), (1.075, worst, best, TUNED)):
        ax.annotate("", (x, head), (x, tail), xycoords=("axes fraction", "data"),
                    textcoords=("axes fraction", "data"), annotation_clip=False,
                    arrowprops={"arrowstyle": "-|>", "color": colour.light, "lw": 1.6,
                                "shrinkA": 0, "shrinkB": 0})  # fmt: skip
    noise = "" if parts.noise is None else f"\nof it noise {plain(parts.noise)}"
    lines = [
        (f"stability\n{plain(parts.stability, signed=True)}", (prior + worst) / 2, DATA),
        (f"plasticity\n{plain(parts.plasticity, signed=True)}{noise}", (worst + best) / 2, TUNED),
    ]
    places = _apart([(y - bottom) / (top - bottom) for _, y, _ in lines], 0.24)
    for (text, _, colour), y in zip(lines, places, strict=True):
        ax.text(1.1, y, text, transform=ax.transAxes, va="center", color=colour.light,
                fontweight="bold", linespacing=1.15)  # fmt: skip


def _apart(places: Sequence[float], least: float) -> list[float]:
    """Move two heights in [0, 1] apart until they differ by `least`."""
    first, second = (min(max(p, 0.1), 0.9) for p in places)
    if (lack := least - abs(first - second)) > 0:
        sign = 1 if first >= second else -1
        first, second = first + sign * lack / 2, second - sign * lack / 2
    shift = max(0.0, 0.1 - min(first, second)) - max(0.0, max(first, second) - 0.9)
    return [first + shift, second + shift]


def series(
    ax: Axes,
    lines: Mapping[str, tuple[Floats, Floats, Colour]],
    planned: Callable[[int], float] | None = None,
) -> None:
    """Logged values over steps, thin, with a running median where there are many."""
    for label, (steps, values, colour) in lines.items():
        many = len(values) > 60 and planned is None  # a schedule has no noise to smooth
        ax.plot(steps, values, color=colour.light, lw=0.8 if many else 1.6, label=label,
                alpha=0.4 if many else 1.0, marker="" if len(values) > 1 else "o")  # fmt: skip
        if many:
            smooth = running_median(values, max(5, len(values) // 12))
            ax.plot(steps, smooth, color=colour.light, lw=1.8)
    if planned is not None:
        steps = next(iter(lines.values()))[0]
        ax.plot(steps, [planned(int(s)) for s in steps], color=INK.light, lw=1, ls=(0, (2, 2)))
    ax.margins(x=0.02, y=0.12)
    ax.locator_params(axis="both", nbins=4)
    low, high = ax.get_ylim()
    if low > 0 and low < 0.6 * high:
        ax.set_ylim(0, high)


def ramp(ax: Axes, strength: Callable[[int], float], horizon: int) -> None:
    """How a strength moves over the run."""
    steps = np.unique(np.linspace(0, horizon, 120).astype(int))
    values = np.array([strength(int(s)) for s in steps])
    ax.fill_between(steps, 0, values, color=TUNED.light, alpha=0.15, lw=0)
    ax.plot(steps, values, color=TUNED.light, lw=1.6)
    ax.set_xlim(0, max(horizon, 1))
    ax.set_ylim(0, (values.max() or 1.0) * 1.15)
    ax.set_yticks(
        np.unique([0.0, values.max()]), [f"{v:g}" for v in np.unique([0.0, values.max()])]
    )
    ax.set_xticks([0, horizon], ["0", f"{horizon} steps"])
    ax.get_xticklabels()[-1].set_horizontalalignment("right")


def before_after(
    ax: Axes,
    rows: Sequence[tuple[str, float, float]],
    scale: tuple[float, float],
    terms: Terms = LLM,
) -> None:
    """Return of pi_0 and of the fine-tuned policy, one arrow a decoding."""
    low, high = within(scale, [value for _, *ends in rows for value in ends])
    pad = 0.03 * (high - low)
    ax.set_xlim(low - pad, high + pad)
    ax.set_ylim(len(rows) - 0.5, -0.75)
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    for y, (label, before, after) in enumerate(rows):
        ax.annotate("", (after, y), (before, y), arrowprops={"arrowstyle": "-|>", "lw": 1.8,
                    "color": SOFT.light, "shrinkA": 4, "shrinkB": 4})  # fmt: skip
        for value, colour, marker in ((before, PI0, "o"), (after, TUNED, "D")):
            ax.plot(value, y, marker, ms=8, color=colour.light, mec=PAPER.light, mew=1.2)
        _say(ax, label, (before + after) / 2, y - 0.2, SOFT if y else INK, bold=not y)
    ax.set_xlabel(f"mean {terms.returned}")


def gains(ax: Axes, rows: Sequence[Row], terms: Terms = LLM) -> None:
    """Paired gain of every decoding against no change."""
    ends = [e for r in rows for e in (r.estimate.low, r.estimate.high, 0.0) if np.isfinite(e)]
    pad = 0.1 * (max(ends) - min(ends) or 1.0)
    ax.set_xlim(min(ends) - pad, max(ends) + pad)
    _forest(ax, rows)
    for y in range(len(rows)):  # in pieces, so that no line crosses a text
        ax.plot([0, 0], [y - 0.17, y + 0.5], color=SOFT.light, lw=1, ls=(0, (3, 2)))
    ax.set_xlabel(f"gain in {terms.returned} (dashed: no change)")
