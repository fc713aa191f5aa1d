"""How do a verdict and its plans look in a terminal?"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from posttrain.assets import Asset
    from posttrain.intervention.plan import Plan
    from posttrain.intervention.prescription import Prescription
    from posttrain.recipe import Listed
    from posttrain.record import Record
    from posttrain.regime.diagnosis import Diagnosis
    from posttrain.regime.scores import Scores
    from posttrain.regime.tasks import TaskDiagnosis, TaskGap

COLOURS = {"superior": "green", "comparable": "cyan", "inferior": "red", "undecided": "yellow"}
_ASCII = str.maketrans("├┤─●░·±", "[]-o:.~")


def show(renderable: Any, *, stderr: bool = False) -> None:
    """Print with rich; plain characters where the terminal's encoding knows no others."""
    console = Console(stderr=stderr, highlight=False, safe_box=True)
    if not console.encoding.lower().startswith("utf"):
        with console.capture() as captured:
            console.print(renderable)
        plain = captured.get().translate(_ASCII).encode(console.encoding, "replace")
        console.file.write(plain.decode(console.encoding))
        return
    console.print(renderable)


def draw_gap(
    gap: float, interval: tuple[float, float], margin: float, *, width: int = 61
) -> tuple[str, str, str]:
    r"""Draw the gap's interval under the band of the margin, in three lines of `width`.

    The ends of the axis are symmetric and as near as the picture allows, so that the middle
    column is a gap of 0.

    >>> print("\n".join(draw_gap(-0.4, (-0.5, -0.3), 0.1, width=31)))
    ············░░░░░░░············
      ├──●─┤
    -0.575       ±0.1        +0.575
    """
    low, high = interval
    half = min(1.0, max(3 * margin, *(1.15 * abs(end) for end in (low, high, gap))))

    def column(value: float) -> int:
        return round((max(-half, min(half, value)) + half) / (2 * half) * (width - 1))

    band = ["·"] * width
    band[column(-margin) : column(margin) + 1] = "░" * (column(margin) - column(-margin) + 1)
    bar = [" "] * width
    bar[column(low) : column(high) + 1] = "─" * (column(high) - column(low) + 1)
    bar[column(low)], bar[column(high)] = "├", "┤"
    bar[column(gap)] = "●"
    labels = [" "] * (width + 8)
    wide = column(margin) - column(-margin) > 14
    middle = {-margin: f"{-margin:+.3g}", 0.0: "0", margin: f"{margin:+.3g}"}
    for value, label in (middle if wide else {0.0: f"±{margin:.3g}"}).items():
        _write(labels, column(value), label, width)
    for value in (-half, half):
        _write(labels, column(value), f"{value:+.3g}", width)
    return "".join(band), "".join(bar).rstrip(), "".join(labels[:width]).rstrip()


def _write(line: list[str], centre: int, text: str, width: int) -> None:
    """Put a label around a column where it touches no other."""
    start = min(max(0, centre - len(text) // 2), width - len(text))
    around = line[max(0, start - 1) : start + len(text) + 1]
    if all(character == " " for character in around):
        line[start : start + len(text)] = text


def verdict_panel(diagnosis: Diagnosis) -> Panel:
    """The verdict, its interval on the band of the margin, and what to know about it."""
    d = diagnosis
    colour = COLOURS[d.regime]
    band, bar, labels = draw_gap(d.gap, d.interval, d.margin)
    lines: list[Any] = [Text(d.sentence), Text()]
    lines += [Text(band, "dim"), Text(bar, colour), Text(labels, "dim"), Text()]
    lines.append(_means(diagnosis))
    lines.append(Text(f"\nTest: {d.test}. {d.reason}"))
    if d.paper_regime != d.regime:
        lines.append(Text(f"Three-way label of arXiv 2510.01460: {d.paper_regime}."))
    if d.recoverability is not None:
        pass_at = ", ".join(f"pass@{k} {p:.2f}" for k, p in d.recoverability.pass_at.items())
        never = f"{100 * d.recoverability.no_success:.0f} % of units without one success"
        lines.append(Text(f"Recoverability: {pass_at}; {never} in {d.recoverability.k}."))
    lines += [
        Text(
            f"Decoding {x.name}: {x.regime}, gap {x.gap:+.3f} "
            f"({x.interval.low:+.3f} to {x.interval.high:+.3f})."
        )
        for x in d.decodings
    ]
    lines += [Text.assemble(("! ", "yellow"), flag.text) for flag in d.flags]
    return Panel(
        Group(*lines), title=f"[bold {colour}]{d.regime.upper()}[/]", title_align="left", width=100
    )


def task_panel(diagnosis: TaskDiagnosis, *, width: int = 31) -> Panel:
    """Gaps by task on one axis, the lowest first, then their mean; pooled where a task is drawn."""
    d = diagnosis
    names = _without_prefix([t.task for t in d.tasks])
    drawn = [(name, t.pooled, t.pooled_interval, t.pooled_regime)
             for name, t in zip(names, d.tasks, strict=True)]  # fmt: skip
    drawn.append(("mean", d.mean_gap, d.mean_interval, d.mean_regime))
    ends = [abs(end) for _, _, interval, _ in drawn for end in interval]
    half = min(1.0, max(3 * d.margin, 1.05 * max(ends)))
    success = any(t.success_policy is not None and t.success_policy != t.j_policy for t in d.tasks)
    grid = Table("task", box=None, padding=(0, 1, 0, 0))
    for name in (*(("success",) if success else ()), "J(pi_0)", "J(D)"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column(Text(f"{-half:+.2g}{'gap':^{width - 10}}{half:+.2g}"), no_wrap=True)
    grid.add_column("alone", no_wrap=True)
    for (name, gap, interval, regime), task in zip(drawn, [*d.tasks, None], strict=True):
        means = [""] * (2 + success) if task is None else _task_means(task, success=success)
        line = draw_row(gap, interval, d.margin, half, width=width)
        alone = "" if task is None else Text(task.regime, COLOURS[task.regime])
        grid.add_row(
            Text(name, overflow="ellipsis", no_wrap=True),
            *means,
            Text(line, COLOURS[regime]),
            alone,
        )
    lines: list[Any] = [Text(d.sentence), Text(), grid]
    lines += [Text.assemble(("! ", "yellow"), flag.text) for flag in d.flags]
    return Panel(Group(*lines), title="[bold]BY TASK[/]", title_align="left", width=100)


def _without_prefix(names: list[str]) -> list[str]:
    """Names without the words that all begin with: what tells them apart comes first."""
    split = [name.split(" ") for name in names]
    alike = 0
    while len(names) > 1 and all(len(words) > alike + 1 for words in split):
        if len({words[alike] for words in split}) > 1:
            break
        alike += 1
    return [" ".join(["..", *words[alike:]]) if alike > 1 else " ".join(words) for words in split]


def _task_means(task: TaskGap, *, success: bool) -> list[str]:
    won = "" if task.success_policy is None else f"{task.success_policy:.2f}"
    return [*([won] if success else []), f"{task.j_policy:.3g}", f"{task.j_dataset:.3g}"]


def draw_row(
    gap: float, interval: tuple[float, float], margin: float, half: float, *, width: int
) -> str:
    r"""Draw one gap over the band of the margin, on an axis from -half to half.

    >>> draw_row(-0.4, (-0.5, -0.3), 0.1, 0.5, width=21)
    '├─●─┤···░░░░░········'
    """

    def column(value: float) -> int:
        return round((max(-half, min(half, value)) + half) / (2 * half) * (width - 1))

    line = ["·"] * width
    for start, end, mark in ((-margin, margin, "░"), (*interval, "─")):
        line[column(start) : column(end) + 1] = mark * (column(end) - column(start) + 1)
    line[column(interval[0])], line[column(interval[1])] = "├", "┤"
    line[column(gap)] = "●"
    return "".join(line)


def _means(diagnosis: Diagnosis) -> Table:
    d = diagnosis
    table = Table.grid(padding=(0, 2))
    for name, mean, interval, units, episodes in (
        ("J(pi_0)", d.j_policy, d.j_policy_interval, d.units, d.episodes_policy),
        ("J(D)", d.j_dataset, d.j_dataset_interval, d.units_dataset, d.episodes_dataset),
    ):
        level = f"{100 * (1 - d.alpha):g} % {interval.low:.3g} to {interval.high:.3g}"
        table.add_row(name, f"{mean:.3g}", level, f"{units:,} units, {episodes:,} episodes")
    return table


def prescription_list(prescriptions: Sequence[Prescription]) -> Group:
    """Plans in the order of preference, with reasons, refutations and fallbacks."""
    return Group(*(_prescription(n, p) for n, p in enumerate(prescriptions, start=1)))


def _prescription(number: int, prescription: Prescription) -> Panel:
    p = prescription
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    if p.first != "run":
        grid.add_row("before", p.first.replace("_", " "))
    for label, text in (
        ("plan", describe(p.plan) if p.trains == "rl" else "no RL: further SFT on D"),
        ("reason", p.reason),
        ("refuted by", p.refuted_by),
        ("fallback", f"{describe(p.fallback)}\n{p.fallback_reason}"),
    ):
        grid.add_row(label, Text(text))
    family = p.plan.family if p.trains == "rl" else "supervised"
    title = f"{number}. {family}" + (" (to run)" if number == 1 else "")
    return Panel(grid, title=title, title_align="left", width=100)


def describe(plan: Plan) -> str:
    """A plan, one line an intervention, with the fields that differ from its defaults."""
    return "\n".join(_describe(i) for i in plan.interventions) or "plain RL"


def _describe(intervention: Any) -> str:

    shown = []
    for f in fields(intervention):
        value = getattr(intervention, f.name)
        default = f.default if f.default is not MISSING else None
        if f.name == "kind" or value == default or _strength(value) == _strength(default):
            continue
        shown.append(f"{f.name} {_strength(value)}")
    return f"{intervention.kind}: {', '.join(shown) or 'defaults'}"


def _strength(value: Any) -> str:
    """A ramp as `1 -> 0.1 in 100 steps`, parts as words."""
    start = getattr(value, "start", None)
    if start is not None:
        end = "" if value.final == start else f" -> {value.final:g} in {value.steps} steps"
        return f"{start:g}{end}"
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def recipe_table(recipes: Iterable[Listed]) -> Table:
    """Names of packaged recipes and what each shows."""
    table = Table("recipe", "what it shows", box=None, padding=(0, 2, 0, 0))
    for recipe in recipes:
        table.add_row(recipe.name, recipe.summary)
    return table


def asset_table(assets: Iterable[Asset]) -> Table:
    """What can be fetched, and where it lies already."""
    table = Table("asset", "what it is", "licence", "in the cache", box=None, padding=(0, 2, 0, 0))
    for asset in assets:
        here = "yes" if asset.path.exists() else "no"
        table.add_row(asset.name, asset.summary, asset.licence, here)
    return table


def score_table(scores: Scores) -> Table:
    """Demonstrations by split: right, wrong, between, without a score, cut off, and J(D)."""
    table = Table(
        "split", "rows", "best score", "lowest", "between", "no score", "cut off", "J(D)",
        box=None, padding=(0, 2, 0, 0),
    )  # fmt: skip
    given = scores.scorable.returns
    low, high = (given.min(), given.max()) if given.size else (0.0, 0.0)
    for split in ("heldout", "seen"):
        mine = scores.where(split=split)
        returns = mine.scorable.returns
        best, worst = int((returns == high).sum()), int((returns == low).sum())
        worst = 0 if low == high else worst
        cut = 0 if mine.truncated is None else int(mine.truncated.sum())
        mean = f"{returns.mean():.3f}" if returns.size else "unknown"
        unknown = len(mine) - returns.size
        counts = (len(mine), best, worst, returns.size - best - worst, unknown, cut)
        table.add_row(split, *(f"{count:,}" for count in counts), mean)
    return table


def closing(record: Record) -> Group:
    """The last words of a run: its verdict, what RL gained, and where the report lies."""
    lines: list[Any] = []
    diagnosis, outcome = record.diagnosis(), record.outcome()
    if diagnosis is not None:
        lines.append(verdict_panel(diagnosis))
    if outcome is not None:
        low, high = outcome["interval"]
        what = "Held-out return" if (record.recipe() or {}).get("kind") == "llm" else "Return"
        lines.append(
            Text(
                f"{what} {outcome['before']:.3f} -> {outcome['after']:.3f}, gain "
                f"{outcome['gain']:+.3f} ({100 * (1 - outcome['alpha']):g} % interval {low:+.3f} "
                f"to {high:+.3f}, {outcome['units']} units)"
            )
        )
    last = record.report_file if record.report_file.exists() else record.path
    lines.append(Text(str(last), overflow="fold", no_wrap=False))
    return Group(*lines)
