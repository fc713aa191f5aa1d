"""How does a study's table look, in a terminal and in Markdown?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.regime.verdict import Interval
from posttrain.study.table import (
    OUTCOMES,
    RULES,
    Prediction,
    RuleRow,
    SettingRow,
    Share,
    Table,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as Grid

NOTHING = "-"
WORDS = {
    "returns": "returns: J(pi_0) against J(D)",
    "q": "Q of pi_0 against Q of D",
    "clone": "J(pi_0) against a clone of D",
    "always comparable": "always comparable",
}
SHORT = {"returns": "returns", "q": "Q", "clone": "clone"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def sheets(table: Table) -> tuple[Sheet, ...]:
    """What there is to read: settings, arms, and how often each rule is right."""
    level = f"{100 * (1 - 2 * table.compare.alpha):g} %"
    return (
        Sheet(
            "Settings",
            ("setting", "seeds", "J(pi_0)", "J(D)", "predicted", "best pi0-centric",
             "best D-centric", f"difference ({level})", "found", "returns", "Q", "clone"),
            tuple(_setting(row) for row in table.settings),
            f"Numbers are shares of the reward's range; margin {table.compare.margin:g}. "
            "A question mark: too little evidence, which counts as comparable. The last three "
            "columns judge the rules: by returns, by Q, by the return of a behaviour clone.",
        ),
        Sheet(
            "Arms",
            ("setting", "arm", "family", "seeds", f"{table.compare.metric} return", "95 %"),
            tuple(_arm_rows(table.settings)),
            "Intervals by a bootstrap over seeds.",
        ),
        Sheet(
            "Rules",
            ("rule", "outcome", "settings", "correct", "adjacent", "opposite"),
            tuple(_rule(r) for r in table.rules if r.rule == RULES[0] or r.outcome == OUTCOMES[0]),
            "Counts with exact (Clopper-Pearson) 95 % intervals of the share. Cross-fitted: each "
            "family's arm is chosen on half of the seeds and compared on the other half.",
        ),
    )  # fmt: skip


def to_markdown(table: Table) -> str:
    """The sheets as a Markdown page."""
    parts = [f"# {table.study}"]
    for sheet in sheets(table):
        parts.append(f"## {sheet.title}")
        lines = [sheet.header, tuple("---" for _ in sheet.header), *sheet.rows]
        parts.append("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))
        parts.append(sheet.note)
    return "\n\n".join(parts) + "\n"


def to_terminal(table: Table) -> Group:
    """The sheets as rich draws them."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Grid | Text] = []
    for sheet in sheets(table):
        parts += [Text(f"\n{sheet.title}", style="bold"), _grid(sheet), Text(sheet.note, "dim")]
    return Group(*parts)


def _grid(sheet: Sheet) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(*sheet.header, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for row in sheet.rows:
        grid.add_row(*(Text(text, _COLOURS.get(text.removesuffix("?"), "")) for text in row))
    return grid


_COLOURS = {"superior": "green", "comparable": "cyan", "inferior": "red",
            "correct": "green", "adjacent": "yellow", "opposite": "red"}  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _setting(row: SettingRow) -> tuple[str, ...]:
    by_rule = {p.rule: p for p in row.predictions}
    ours, theirs, difference, found = _outcome(row)
    predicted = by_rule.get("returns")
    return (
        row.name, str(len(row.seeds)), _number(row.j_policy), _number(row.j_dataset),
        NOTHING if predicted is None else predicted.gap.word, ours, theirs, difference, found,
        *(_verdict(by_rule.get(rule)) for rule in SHORT),
    )  # fmt: skip


def _outcome(row: SettingRow) -> tuple[str, str, str, str]:
    contest = row.outcome
    if contest is None:
        return (NOTHING,) * 4
    gap = contest.found
    means = {arm.name: arm.mean for arm in row.arms}
    sides = (
        " / ".join(f"{name} {_number(means[name])}" for name in dict.fromkeys(arms))
        for arms in (contest.pi0_arms, contest.data_arms)
    )
    return (*sides, f"{gap.gap:+.2f} ({_ends(gap.interval, '+.2f')})", gap.word)  # type: ignore[return-value]


def _verdict(prediction: Prediction | None) -> str:
    if prediction is None or prediction.verdict is None:
        return NOTHING
    return prediction.verdict


def _arm_rows(settings: Sequence[SettingRow]) -> list[tuple[str, ...]]:
    return [
        (row.name, arm.name, arm.family or "unknown", str(len(arm.values)), _number(arm.mean),
         NOTHING if arm.interval is None else _ends(arm.interval, ".2f"))
        for row in settings
        for arm in row.arms
    ]  # fmt: skip


def _rule(row: RuleRow) -> tuple[str, ...]:
    shares = (_share(share) for share in (row.correct, row.adjacent, row.opposite))
    return (WORDS[row.rule], row.outcome, str(row.settings), *shares)


def _share(share: Share) -> str:
    if share.interval is None:
        return NOTHING
    return f"{share.count} ({_ends(share.interval, '.0%')})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _ends(interval: Interval, form: str) -> str:
    return f"{interval.low:{form}} to {interval.high:{form}}"


def summary(table: Table) -> str:
    """The result in one line."""
    rule = next(r for r in table.rules if r.rule == "returns" and r.outcome == "cross-fitted")
    waiting = len(table.settings) - rule.settings
    if not rule.settings:
        return f"{table.study}: no setting has an outcome yet"
    return (
        f"{table.study}: {rule.settings} settings, {rule.correct.count} correct, "
        f"{rule.adjacent.count} adjacent, {rule.opposite.count} opposite"
        + (f"; {waiting} without an outcome" if waiting else "")
    )
