"""How did the arms learn? One panel a setting, one curve an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from posttrain.files import replacing
from posttrain.regime.statistics import stratified_bootstrap
from posttrain.report.style import DATA, INK, PI0, RC, SOFT, TUNED
from posttrain.study.read import Finish, SettingRecords
from posttrain.study.table import ArmRow, SettingRow, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

COLUMNS = 3
_COLOURS = {"pi0-centric": PI0, "D-centric": DATA, "mixed": TUNED, "minimal": INK}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))


def write_figure(table: Table, records: Sequence[SettingRecords], path: Path) -> None:
    """Draw all settings that have curves; nothing is written where none has."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = {r.name: r.finishes for r in records if any(_table(c) for c in r.finishes.values())}
    rows = [row for row in table.settings if row.name in found]
    if not rows:
        return
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    with mpl.rc_context({**RC, "figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure = Figure(figsize=(5 * columns, 3.4 * lines + 0.8), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flat
        for ax, row in zip(axes, rows, strict=False):
            panel(ax, row, found[row.name])
        for ax in list(axes)[len(rows) :]:
            ax.set_axis_off()
        lines_by_arm = {str(h.get_label()): h for ax in figure.axes for h in ax.get_lines()}
        handles = {name: h for name, h in lines_by_arm.items() if not name.startswith("_")}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def panel(ax: Axes, row: SettingRow, finishes: Mapping[str, Sequence[Finish]]) -> None:
    """Mean curves of a setting's arms with bootstrap bands over seeds, and where they start."""
    for arm, style in zip(row.arms, _styles(row.arms), strict=True):
        curves = _table(finishes[arm.name])
        if curves is None:
            continue
        steps, values = curves
        ax.plot(steps, values.mean(axis=0), label=arm.name, **style)
        if len(values) > 1:
            low, high = _band(values)
            ax.fill_between(steps, low, high, color=style["color"], alpha=0.12, lw=0)
    starts = [(row.j_policy, PI0, "J(π₀)"), (row.j_dataset, DATA, "J(D)")]
    known = sorted((value, text, colour) for value, colour, text in starts if value is not None)
    for (value, text, colour), side in zip(known, ("top", "bottom"), strict=False):
        ax.axhline(value, color=colour.light, lw=0.9, alpha=0.7)
        ax.annotate(text, (1, value), (2, 0), xycoords=("axes fraction", "data"), va=side,
                    textcoords="offset points", color=colour.light)  # fmt: skip
    predicted = next((p.gap.word for p in row.predictions if p.rule == "returns"), "nothing")
    found = row.outcome.found.word if row.outcome is not None else "nothing yet"
    ax.set_title(f"{row.name}\npredicted {predicted}, found {found}; {len(row.seeds)} seeds",
                 loc="left")  # fmt: skip
    ax.set_xlabel("step")
    ax.set_ylabel("return")


def _styles(arms: Sequence[ArmRow]) -> list[dict[str, Any]]:
    """A colour for a family, a dash for an arm of it."""
    seen: dict[str, int] = {}
    styles = []
    for arm in arms:
        family = arm.family or "unknown"
        number = seen[family] = seen.get(family, -1) + 1
        colour = _COLOURS.get(family, SOFT).light
        styles.append({"color": colour, "ls": _DASHES[number % len(_DASHES)]})
    return styles


def _table(cells: Sequence[Finish]) -> tuple[NDArray[np.int64], Floats] | None:
    """Curves `[seeds, steps]` at the steps that all seeds have; None where there are none."""
    curves = [dict(zip(c.steps.tolist(), c.curve.tolist(), strict=True)) for c in cells]
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not steps:
        return None
    return np.array(steps), np.array([[curve[step] for step in steps] for curve in curves])


def _band(values: Floats) -> tuple[Floats, Floats]:
    """Bootstrap interval of the mean at each step."""
    rng = np.random.default_rng(0)
    ends = [stratified_bootstrap(v[:, None], np.mean, rng=rng, resamples=500) for v in values.T]
    return np.array([e.low for e in ends]), np.array([e.high for e in ends])
