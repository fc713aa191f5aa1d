"""From evidence to one HTML page that needs nothing but a browser."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from posttrain.record import write_text
from posttrain.report import section as s
from posttrain.report.evidence import Evidence, read_evidence
from posttrain.report.part_episodes import episodes
from posttrain.report.part_films import films
from posttrain.report.part_plan import integrity, plan
from posttrain.report.part_recipe import recipe
from posttrain.report.part_starts import starts
from posttrain.report.part_tasks import tasks
from posttrain.report.part_training import outcome, training
from posttrain.report.part_units import recoverability, returns, units
from posttrain.report.part_verdict import verdict
from posttrain.report.section import Section
from posttrain.report.style import css_variables

if TYPE_CHECKING:
    import jinja2

    from posttrain.regime.diagnosis import Diagnosis
    from posttrain.regime.scores import Scores

PARTS = (verdict, units, recoverability, returns, integrity, plan, training, outcome, recipe)
"""The sections, in the order of the page."""
CONTROL_PARTS = (verdict, episodes, integrity, plan, training, outcome, recipe)
VLA_PARTS = (verdict, tasks, starts, films, integrity, plan, training, outcome, recipe)
PARTS_OF = {"control": CONTROL_PARTS, "vla": VLA_PARTS}


def write_report(folder: Path) -> Path:
    """Make `report.html` and `figures/*.png` of a record folder, inside it.

    The same record gives the same bytes. What the record lacks, the page says in a sentence.

    Raises:
        RecordError: no diagnosis and no scores, or a damaged file.
    """
    folder = Path(folder)
    evidence = read_evidence(folder)
    sections = [part(evidence) for part in PARTS_OF.get(evidence.kind or "llm", PARTS)]
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    for part in sections:
        for plot in part.plots.values():
            plot.png(figures)
    path = folder / "report.html"
    write_text(path, _html(evidence, sections))
    return path


def write_report_from_scores(
    diagnosis: Diagnosis, policy: Scores, dataset: Scores, path: Path, *, name: str | None = None
) -> Path:
    """Make one page of a bare diagnosis: two sides' scores and no run.

    Args:
        diagnosis: What `diagnose(policy, dataset)` said.
        policy: Scores of pi_0.
        dataset: Scores of the dataset.
        path: The HTML file to write.
        name: The page's heading; by default the file's stem.
    """
    path = Path(path)
    evidence = Evidence(
        name=name or path.stem, diagnosis=diagnosis, policy=policy, dataset=dataset
    )  # fmt: skip
    sections = [part(evidence) for part in (verdict, units, recoverability, returns)]
    absent = "This page was made from scores alone, so there is no SFT, plan or RL to show."
    sections.append(Section(key="rest", title="What is not here", absent=absent))
    write_text(path, _html(evidence, sections))
    return path


def _html(evidence: Evidence, sections: list[Section]) -> str:
    here = Path(__file__).parent / "template"
    style = css_variables() + (here / "page.css").read_text(encoding="utf-8")
    page = _templates().get_template("page.html.j2")
    return page.render(name=evidence.name, sections=sections, style=Markup(style)) + "\n"  # noqa: S704


@cache
def _templates() -> jinja2.Environment:
    """Templates that escape every text: completions are written by a model."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "template")
    found = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {
        "number": s.number,
        "count": s.count,
        "percent": s.percent,
        "interval": s.interval,
        "symbols": s.symbols,
        "sentence": s.sentence,
    }
    return found
