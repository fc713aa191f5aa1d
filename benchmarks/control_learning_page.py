"""From the curves of `control_learning.py` to tables and a figure in docs/."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from posttrain.regime.statistics import Mean, clustered_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURE = DOCS / "learning.md", DOCS / "img" / "learning.png"
COLOURS = {
    "SAC": "#2f57c9",
    "TD3": "#b8480a",
    "BC": "#57606b",
    "TD3+BC": "#b8480a",
    "IQL": "#00734f",
    "CQL": "#2f57c9",
    "Cal-QL": "#8a3ffc",
}
BOUNDS = {"offline": (0.0, 1.0)}
BEHAVIOUR = 0.34
"""Success of the random walks: the share of D's episodes that meet the goal."""
PANELS = {
    "Pendulum-v1": ("Pendulum-v1, online", "environment steps", "return"),
    "InvertedDoublePendulum-v5": (
        "InvertedDoublePendulum-v5, online",
        "environment steps",
        "return",
    ),
    "offline": ("umaze from random walks, offline", "updates", "success"),
}


class Curve(Protocol):
    """As `control_learning.Curve`."""

    steps: list[int]
    returns: list[list[float]]
    seconds: float


def write(curves: Mapping[str, Curve]) -> None:
    """Put tables and figure into the docs."""
    _replace("online", online_table(curves))
    _replace("offline", offline_table(curves))
    figure(curves)


def online_table(curves: Mapping[str, Curve]) -> list[str]:
    lines = _head(
        "task", "algorithm", "steps", "mean of 5 seeds (95 %)", "each seed", "CPU-s a seed"
    )
    for task in list(PANELS)[:2]:
        for algorithm in ("SAC", "TD3"):
            for control in ("", " shuffled"):
                curve = curves.get(f"{task} {algorithm}{control}")
                if curve is None:
                    continue
                name = f"{algorithm}, rewards shuffled" if control else algorithm
                lines.append(
                    _row(task, name, f"{curve.steps[-1]:,}", _interval(task, curve),
                         ", ".join(f"{x:.0f}" for x in curve.returns[-1]),
                         f"{curve.seconds / len(curve.returns[-1]):.0f}")
                )  # fmt: skip
    alone, beside = curves["Pendulum-v1 SAC alone"], curves["Pendulum-v1 SAC"]
    apart = max(
        abs(one[0] - all_seeds[0])
        for one, all_seeds in zip(alone.returns, beside.returns, strict=True)
    )
    lines.append(
        _row("Pendulum-v1", "SAC, the first seed alone", f"{alone.steps[-1]:,}", "",
             f"{alone.returns[-1][0]:.0f}, at most {apart:.0f} from its curve among five",
             f"{alone.seconds:.0f}")
    )  # fmt: skip
    return lines


def offline_table(curves: Mapping[str, Curve]) -> list[str]:
    lines = _head("algorithm", "mean of 5 seeds (95 %)", "each seed", "CPU-s a seed",
                  "shuffled")  # fmt: skip
    for algorithm in list(COLOURS)[2:]:
        true, control = (curves[f"offline {algorithm}{end}"] for end in ("", " shuffled"))
        lines.append(
            _row(algorithm, _interval("offline", true),
                 ", ".join(f"{x:.1f}" for x in true.returns[-1]),
                 f"{true.seconds / len(true.returns[-1]):.0f}", _interval("offline", control))
        )  # fmt: skip
    return lines


def figure(curves: Mapping[str, Curve]) -> None:
    """Draw a panel a task: means over seeds, 95 % intervals, dashed where rewards mean nothing."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from posttrain.report.style import INK, RC, SOFT

    with mpl.rc_context({**RC, "figure.facecolor": "white", "savefig.facecolor": "white"}):
        drawn, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
        for ax, (task, (title, across, up)) in zip(axes, PANELS.items(), strict=True):
            for algorithm, colour in COLOURS.items():
                for control in ("", " shuffled"):
                    curve = curves.get(f"{task} {algorithm}{control}")
                    if curve is not None:
                        means = [_mean(task, row) for row in curve.returns]
                        _draw(ax, curve.steps, means, colour, label=None if control else algorithm,
                              band=task not in BOUNDS)  # fmt: skip
            if task in BOUNDS:
                ax.axhline(BEHAVIOUR, color=SOFT.light, lw=1, ls=":", label="D")
                ax.set_ylim(-0.04, 1.04)
            ax.set_title(title, loc="left", color=INK.light, fontweight="bold")
            ax.set_xlabel(across)
            ax.set_ylabel(up)
            ax.legend(frameon=False, labelcolor=SOFT.light,
                      loc="center right" if task in BOUNDS else "center left")  # fmt: skip
        FIGURE.parent.mkdir(exist_ok=True)
        drawn.savefig(FIGURE, dpi=110)
        plt.close(drawn)


def _draw(
    ax: Axes,
    steps: Sequence[int],
    means: Sequence[Mean],
    colour: str,
    *,
    label: str | None,
    band: bool,
) -> None:
    dashes = "--" if label is None else "-"
    ax.plot(steps, [m.mean for m in means], dashes, color=colour, label=label, lw=1.8)
    if label is not None and band:
        low, high = [m.low for m in means], [m.high for m in means]
        ax.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)


def _mean(task: str, values: Sequence[float]) -> Mean:
    low, high = BOUNDS.get(task, (-math.inf, math.inf))
    mean = clustered_mean(values, bounds=BOUNDS.get(task))
    return replace(mean, low=max(mean.low, low), high=min(mean.high, high))


def _interval(task: str, curve: Curve) -> str:
    mean = _mean(task, curve.returns[-1])
    digits = 2 if task in BOUNDS else 0
    return f"{mean.mean:.{digits}f} ({mean.low:.{digits}f} to {mean.high:.{digits}f})"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _replace(name: str, lines: list[str]) -> None:
    """Put lines between the markers of this table."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page, found = pattern.subn(lambda _: begin + "\n".join(lines) + "\n" + end, page)
    if found != 1:
        raise SystemExit(f"{PAGE.name} needs the markers {begin.strip()} and {end} once")
    PAGE.write_text(page, encoding="utf-8")
