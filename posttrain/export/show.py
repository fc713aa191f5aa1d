"""How do prescriptions and their exports look in a terminal, and in JSON?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from posttrain.export.result import Export
    from posttrain.intervention.capabilities import Capabilities
    from posttrain.intervention.prescription import Prescription
    from posttrain.regime.diagnosis import Diagnosis


def tell(
    diagnosis: Diagnosis,
    source: Path | None,
    *,
    steps: int | None = None,
    framework: str | None = None,
    json: bool = False,
) -> None:
    """Print what follows from a diagnosis, in another framework's options where one is named.

    Args:
        diagnosis: of pi_0 against its dataset.
        source: a run's folder, whose recipe names learner, algorithm and steps where not said.
        steps: of RL.
        framework: one of `posttrain.export.FRAMEWORKS`.
        json: print the machine form and nothing else.

    Raises:
        ValueError: an unknown framework.
    """
    from posttrain.inputs import planned_steps
    from posttrain.intervention.prescription import prescribe
    from posttrain.terminal import prescription_list, show

    length = steps or planned_steps(source)
    plans = prescribe(diagnosis, _learner(source, framework), steps=length)
    exports = None if framework is None else _exports(plans, source, framework, length)
    if json:
        _print_json(plans, exports)
        return
    print(diagnosis.sentence)  # noqa: T201 - what the command is for
    show(prescription_list(plans) if exports is None else export_list(plans, exports))


def _learner(source: Path | None, framework: str | None) -> Capabilities:
    """The run's own; an off-policy one where the framework knows nothing else."""
    from posttrain.export.framework import frameworks
    from posttrain.inputs import learner_of
    from posttrain.intervention.capabilities import CONTROL_SAC

    known = frameworks().get(framework or "")
    if known is not None and known.algorithms == ("sac",):
        return CONTROL_SAC
    return learner_of(source)


def _exports(
    plans: Sequence[Prescription], source: Path | None, framework: str, steps: int
) -> list[Export | None]:
    """One a prescription; None where there is no RL to be exported."""
    from posttrain.export.export import export
    from posttrain.export.framework import frameworks
    from posttrain.inputs import algorithm_of

    known = frameworks().get(framework)
    asked = algorithm_of(source)
    algorithm = next((a for a in known.algorithms if a == asked), None) if known else None
    return [
        export(plan.plan, framework, steps=steps, algorithm=algorithm)
        if plan.trains == "rl"
        else None
        for plan in plans
    ]


def _print_json(plans: Sequence[Prescription], exports: Sequence[Export | None] | None) -> None:
    from posttrain.files import to_json

    rows = [plan.to_dict() for plan in plans]
    if exports is not None:
        for row, export in zip(rows, exports, strict=True):
            row["export"] = None if export is None else export.to_dict()
    print(to_json(rows, indent=2))  # noqa: T201 - what the command is for


def export_list(prescriptions: Sequence[Prescription], exports: Sequence[Export | None]) -> Group:
    """Every prescription in the framework's words, best first."""
    pairs = zip(prescriptions, exports, strict=True)
    return Group(*(_export(n, p, e) for n, (p, e) in enumerate(pairs, start=1)))


def _export(number: int, prescription: Prescription, export: Export | None) -> Panel:
    from posttrain.terminal import describe

    ends = " (to run)" if number == 1 else ""
    if export is None:
        said = "no RL: further SFT on D with as many updates, by the framework's own SFT"
        title = f"{number}. supervised{ends}"
        return Panel(Text(said, "dim"), title=title, title_align="left", width=100)
    f = export.framework
    parts: list[Text | Table] = [Text(describe(prescription.plan), "dim"), Text()]
    parts.append(Text(export.text.rstrip("\n"), overflow="fold"))
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
    title = f"{number}. {prescription.plan.family} for {f.title} {f.version}{ends}"
    return Panel(Group(*parts), title=title, title_align="left", width=100)
