"""How does an export look in a terminal?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from posttrain.export.result import Export
    from posttrain.intervention.prescription import Prescription


def export_list(prescriptions: Sequence[Prescription], exports: Sequence[Export]) -> Group:
    """Every prescription in the framework's words, best first."""
    pairs = zip(prescriptions, exports, strict=True)
    return Group(*(_export(n, p, e) for n, (p, e) in enumerate(pairs, start=1)))


def _export(number: int, prescription: Prescription, export: Export) -> Panel:
    from posttrain.terminal import describe

    f = export.framework
    parts: list[Text | Table] = [Text(describe(prescription.plan), "dim"), Text()]
    parts.append(Text(export.text.rstrip("\n"), no_wrap=True, overflow="fold"))
    if export.recipe:
        parts += [Text(), Text("# posttrain run, all of it", "dim"), Text(export.recipe.rstrip())]
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for label, colour, sentences in (
        ("roughly", "cyan", export.notes),
        ("cannot", "red", export.cannot),
        ("instead", "green", (export.instead,) if export.instead else ()),
        ("beware", "yellow", export.warnings),
    ):
        for sentence in sentences:
            table.add_row(Text(label, colour), Text(sentence))
    if table.row_count:
        parts += [Text(), table]
    ends = " (to run)" if number == 1 else ""
    title = f"{number}. {prescription.plan.family} for {f.title} {f.version}{ends}"
    return Panel(Group(*parts), title=title, title_align="left", width=100)
