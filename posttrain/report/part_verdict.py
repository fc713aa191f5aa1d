"""The page's first section: the verdict and the evidence it rests on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from posttrain.report import figures, words
from posttrain.report.figures import Row
from posttrain.report.measure import Estimate
from posttrain.report.render import Plot
from posttrain.report.section import Section, plain
from posttrain.report.style import DATA, PI0

if TYPE_CHECKING:
    from collections.abc import Iterator

    from posttrain.regime.diagnosis import Diagnosis
    from posttrain.regime.verdict import DecodingGap
    from posttrain.report.evidence import Evidence


def verdict(evidence: Evidence) -> Section:
    """Regime, gap and interval, the test and why, sizes, flags, decodings and splits."""
    d = evidence.diagnosis
    return Section(
        key="verdict",
        title="Verdict",
        body={
            "d": d,
            "saying": words.REGIMES[str(d.regime)],
            "test": words.title(str(d.test), words.TESTS),
            "flags": [(words.title(f.kind, words.FLAGS), f.text) for f in d.flags],
            "noun": evidence.noun,
            "scaled": tuple(d.scale) != (0, 1),
            "alternatives": _alternatives(evidence),
            "terms": evidence.terms,
            "control": evidence.kind == "control",
            "level": round(100 * (1 - 2 * d.alpha)),
            "seen": evidence.seen,
            "decodings": _others(evidence),
            "decides": evidence.decides,
            "diagnosed_here": evidence.diagnosed_here,
            "differs": str(d.regime) != str(d.paper_regime),
        },
        plots={"band": _band(evidence), "levels": _levels(evidence)},
    )


def _others(evidence: Evidence) -> list[DecodingGap]:
    """Gaps under the decoding that does not decide, by its name.

    A diagnosis calls the one that it was given to decide `rollout`, and the other `deployment`.
    """
    beside = "deployment" if evidence.decides == "rollout" else "rollout"
    return [replace(o, name=beside) for o in evidence.diagnosis.decodings if o.name != "rollout"]


def _alternatives(evidence: Evidence) -> dict[str, float]:
    """Gaps that other rules give, on the scale of the verdict's."""
    found, d = evidence.alternatives or {}, evidence.diagnosis
    gaps = {}
    q = found.get("q")
    if q and q["scale"]:
        gaps["by the values of π₀’s critic"] = (q["policy"] - q["dataset"]) / q["scale"]
    if "bc" in found:
        clone = float(found["bc"]["j"])
        gaps["to a clone of D"] = (d.j_policy - clone) / (d.scale[1] - d.scale[0])
    return gaps


def _gap_rows(evidence: Evidence) -> Iterator[Row]:
    d = evidence.diagnosis
    main = _estimate(d.gap, d.interval, d.units)
    others = _others(evidence)
    where = [w for w, said in ((evidence.decides, others), ("held out", evidence.seen)) if said]
    yield Row(_label(", ".join(where) or "gap", main, evidence.noun), main)
    for other in others:
        e = _estimate(other.gap, other.interval, d.units)
        yield Row(_label(other.name, e, evidence.noun), e, decides=False)
    if (s := evidence.seen) is not None:
        e = _estimate(s.gap, s.interval, s.units)
        yield Row(
            _label(f"seen in {evidence.terms.pretraining}", e, evidence.noun), e, decides=False
        )


def _label(name: str, e: Estimate, noun: str) -> str:
    ends = f"[{plain(e.low, signed=True)}, {plain(e.high, signed=True)}]"
    return f"{name}: {plain(e.value, signed=True)} {ends} · {e.units:,} {noun}"


def _estimate(value: float, interval: tuple[float, float], units: int) -> Estimate:
    low, high = interval
    return Estimate(value, low, high, units)


def _band(evidence: Evidence) -> Plot:
    d, rows = evidence.diagnosis, list(_gap_rows(evidence))
    height = 100 + 42 * len(rows)
    saying = words.REGIMES[str(d.regime)].headline
    return Plot(
        name="verdict",
        draw=partial(figures.margin_band, rows=rows, margin=d.margin),
        alt=f"{saying}. Gap with interval on the zones of the margin ±{d.margin:g}. "
        + "; ".join(r.label for r in rows),
        caption=f"The verdict is the zone that holds the whole {100 * (1 - 2 * d.alpha):g}% "
        "interval of the bold row. An interval in two zones is undecided.",
        size=(368, height),
        wide=(720, height),
    )


def _levels(evidence: Evidence) -> Plot:
    d, noun = evidence.diagnosis, evidence.noun
    rows = list(_level_rows(d, noun))
    return Plot(
        name="levels",
        draw=partial(figures.levels, rows=rows, scale=d.scale),
        alt="Mean returns: " + "; ".join(r.label for r in rows),
        caption=f"Mean return with its {100 * (1 - d.alpha):g}% interval.",
        size=(368, 58 + 42 * len(rows)),
        wide=(720, 58 + 42 * len(rows)),
    )


def _level_rows(d: Diagnosis, noun: str) -> Iterator[Row]:
    for name, value, ends, units, colour, marker in (
        ("π₀", d.j_policy, d.j_policy_interval, d.units, PI0, "o"),
        ("dataset D", d.j_dataset, d.j_dataset_interval, d.units_dataset, DATA, "s"),
    ):
        e = _estimate(value, ends, units)
        label = f"{name}: {plain(value)} [{plain(e.low)}, {plain(e.high)}] · {units:,} {noun}"
        yield Row(label, e, colour, marker)
