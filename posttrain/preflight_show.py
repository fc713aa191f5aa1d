"""How do a preflight's findings look in a terminal?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.llm.preflight.finding import Finding

COLOURS = {"stop": "bold red", "warn": "yellow", "unknown": "magenta", "ok": "green"}


def findings_table(findings: Sequence[Finding], *, everything: bool = False) -> Group:
    """What has to be read, most severe first, and a count of the rest.

    Args:
        findings: in the order of a run's stages.
        everything: show what is in order as well.
    """
    table = Table(box=None, padding=(0, 2, 1, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for severity, colour in COLOURS.items():
        for finding in findings:
            if finding.severity != severity or (severity == "ok" and not everything):
                continue
            told = Text(finding.text)
            if finding.change:
                told.append(f"\n-> {finding.change}", "bold" if severity == "stop" else "dim")
            table.add_row(Text(severity, colour), finding.check, told)
    return Group(table, Text(summary(findings)))


def summary(findings: Sequence[Finding]) -> str:
    """One sentence: how many of each."""
    counts = {s: sum(f.severity == s for f in findings) for s in COLOURS}
    said = f"{counts['stop']} to stop for, {counts['warn']} to look at, {counts['unknown']} unknown"
    return f"{said}, {counts['ok']} of {len(findings)} checks in order"
