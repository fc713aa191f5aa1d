"""Sections about what RL was given: the training behind pi_0, and the plan with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.intervention.plan import AnyIntervention, Plan, Ramp, plan_from_dict
from posttrain.report import curves, figures, words
from posttrain.report.render import Plot
from posttrain.report.section import Section

if TYPE_CHECKING:
    from posttrain.report.evidence import Evidence
    from posttrain.report.figures import Points


def integrity(evidence: Evidence) -> Section:
    """Whether pretraining had converged, and its losses."""
    key, title = "sft", "Was π₀ trained to the end?"
    found = evidence.integrity
    terms = evidence.terms
    training = _points(evidence.sft_metrics, "loss")
    checked = (found or {}).get("losses")
    heldout = _points(checked, "loss") if checked else _points(evidence.sft_metrics, "eval_loss")
    if found is None and training is None:
        absent = (
            f"The record holds no {terms.pretraining} run, so nothing here tells an inferior π₀ "
            "from an under-trained one."
        )
        return Section(key=key, title=title, absent=absent)
    plots = {}
    if training is not None or heldout is not None:
        plots["loss"] = _loss_plot(training, heldout, terms)
    return Section(key=key, title=title, body={"found": found or {}, "terms": terms}, plots=plots)


def _points(rows: Iterable[Any], key: str) -> Points | None:
    """Steps and losses of the rows that have both."""
    points = [
        (float(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row, Mapping) and isinstance(row.get(key), int | float) and "step" in row
    ]
    return tuple(np.array(points).T) if points else None


def _loss_plot(training: Points | None, heldout: Points | None, terms: words.Terms) -> Plot:
    caption = (
        "One run. Convergence is judged on the held-out loss."
        if heldout is not None
        else "One run; no held-out loss was taken."
    )
    told = [
        f"{name} loss from {losses[0]:.3g} to {losses[-1]:.3g} over {int(steps[-1])} steps"
        for name, points in (("training", training), ("held-out", heldout))
        if points is not None
        for steps, losses in (points,)
    ]
    return Plot(
        name="sft-loss",
        draw=partial(figures.loss_curve, training=training, heldout=heldout, terms=terms),
        alt="; ".join(told).capitalize() + ".",
        caption="One run, on rows of D." if terms == words.CONTROL else caption,
        size=(368, 200),
    )


def plan(evidence: Evidence) -> Section:
    """The interventions with their strengths, why, and what would refute them."""
    key, title = "plan", "The plan"
    found = evidence.plan
    if found is None:
        return Section(key=key, title=title, absent="The record holds no plan.")
    horizon = _horizon(evidence)
    chosen = plan_from_dict(found["plan"])
    plots: dict[str, Plot] = {}
    body = {
        **_told(found),
        "family": words.title(
            "supervised" if found.get("trains") == "sft" else chosen.family, words.FAMILIES
        ),
        "first": words.FIRST.get(str(found.get("first")), "").format(
            pretraining=evidence.terms.pretraining
        ),
        "source": found.get("source"),
        "interventions": list(_interventions(chosen, horizon, plots, evidence.terms)),
        "alternatives": [
            _told(a) for a in found.get("alternatives") or () if isinstance(a, Mapping)
        ],
    }
    return Section(key=key, title=title, body=body, plots=plots)


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a prescription, with its plans in a line each."""
    told: dict[str, Any] = {k: found.get(k) for k in ("reason", "refuted_by", "fallback_reason")}
    for name in ("plan", "fallback"):
        known = isinstance(found.get(name), Mapping)
        told[name] = in_a_line(plan_from_dict(found[name])) if known else None
    if found.get("trains") == "sft":
        told["plan"] = "no RL: D is cloned further"
    return told


def in_a_line(what: Plan) -> str:
    """A plan in one line of plain words."""
    if not what.interventions:
        return "plain RL, nothing kept"
    parts = []
    for item in what.interventions:
        strengths = ", ".join(f"{n} {_ramp_words(r)}" for n, r in _strengths(item))
        parts.append(words.INTERVENTIONS[item.kind] + (f" ({strengths})" if strengths else ""))
    return " + ".join(parts)


def _ramp_words(r: Ramp) -> str:
    if r.final == r.start:
        return f"{r.start:g}" + (f", after {r.rise} steps" if r.rise else ", constant")
    return f"{r.start:g} → {r.final:g} in {r.steps} steps"


def _strengths(item: AnyIntervention) -> Iterator[tuple[str, Ramp]]:
    for f in fields(item):
        value = getattr(item, f.name)
        if f.name == "prefix" and not getattr(item, "prefix_share").peak:  # noqa: B009
            continue
        if isinstance(value, Ramp) and value.peak > 0:
            yield f.name, value


def _interventions(
    chosen: Plan, horizon: int, plots: dict[str, Plot], terms: words.Terms
) -> Iterator[dict[str, Any]]:
    for item in chosen.interventions:
        ramps = []
        for name, r in _strengths(item):
            plot = _ramp_plot(f"ramp-{item.kind}-{name}", r, horizon)
            if moves := r.final != r.start or r.rise > 0:
                plots[plot.name] = plot
            words_of = words.STRENGTHS.get((item.kind, name), name).format(batch=terms.batch)
            shown = plot.name if moves else None
            ramps.append({"plot": shown, "name": words_of, "words": _ramp_words(r)})
        settings = [
            (f.name, _setting(getattr(item, f.name)))
            for f in fields(item)
            if f.name != "kind" and not isinstance(getattr(item, f.name), Ramp)
            if getattr(item, f.name) != "none" and (f.name, getattr(item, f.name)) != ("every", 0)
        ]
        yield {"title": words.INTERVENTIONS[item.kind], "ramps": ramps, "settings": settings}


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _ramp_plot(name: str, strength: Ramp, horizon: int) -> Plot:
    end = max(horizon, strength.rise + strength.steps, 1)
    return Plot(
        name=name,
        draw=partial(curves.ramp, strength=strength, horizon=end),
        alt=f"{name}: {_ramp_words(strength)}.",
        size=(220, 88),
    )


def _horizon(evidence: Evidence) -> int:
    return max((int(row.get("step", 0)) for row in evidence.metrics), default=0)
