"""Sections about RL: the curve with its stability and plasticity, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from posttrain.intervention.plan import plan_from_dict
from posttrain.report import curves
from posttrain.report.curves import Levels, Parts
from posttrain.report.evidence import Evidence, deciding
from posttrain.report.figures import Row
from posttrain.report.measure import Curve, Estimate, Floats, by_unit, unit_names
from posttrain.report.part_units import cut
from posttrain.report.render import Plot
from posttrain.report.section import Section, excerpt, plain
from posttrain.report.style import DATA, PI0, SOFT, TUNED, Colour

if TYPE_CHECKING:
    from posttrain.regime.scores import Scores

SERIES: Final[tuple[tuple[str, str, dict[str, tuple[str, Colour]]], ...]] = (
    ("kl", "KL to π₀", {"regime/kl_to_pi0": ("KL", PI0)}),
    ("nll", "NLL of D ({unit})", {"regime/nll_on_data": ("NLL", DATA)}),
    ("replay-loss", "loss on replayed D", {"replay/nll": ("NLL", DATA)}),
    ("replay", "replay of D", {"regime/replay_weight": ("weight", DATA),
                               "regime/replay_share": ("share", SOFT)}),
    ("anchor", "anchor coefficient", {"regime/anchor": ("coefficient", PI0)}),
    ("reward", "training {reward}", {"reward": ("reward", TUNED)}),
    ("success", "success of training episodes", {"episode/success": ("share", TUNED)}),
    ("steps", "steps of a training episode", {"episode/steps": ("steps", SOFT)}),
    ("silent", "groups without signal", {"frac_reward_zero_std": ("share", SOFT)}),
    ("clipped", "completions cut off", {"completions/clipped_ratio": ("share", SOFT)}),
    ("entropy", "entropy", {"entropy": ("entropy", TUNED)}),
    ("q-bias", "critic: value minus return", {"q/bias": ("bias", TUNED)}),
    ("q-rank", "critic: rank correlation with return", {"q/rank_correlation": ("rank", TUNED)}),
)  # fmt: skip
"""Small multiples: key, title, and the logged keys drawn in each."""


def training(evidence: Evidence) -> Section:
    """Return over RL, and what moved with it."""
    key, title = "training", "Training"
    curve = evidence.curve or _logged_curve(evidence.metrics)
    if curve is None and not evidence.metrics:
        return Section(key=key, title=title, absent="The record holds no RL run.")
    parts = _decomposition(evidence)
    plots: dict[str, Plot] = {}
    if curve is not None:
        plots["curve"] = _curve_plot(evidence, curve, parts)
    small = list(_small_multiples(evidence))
    body = {
        "curve": curve,
        "parts": parts,
        "noun": evidence.noun,
        "terms": evidence.terms,
        "parity": evidence.robot.parity,
        "small": [plot.name for plot in small],
        "steps": max((row.get("step", 0) for row in evidence.metrics), default=0),
    }
    return Section(key=key, title=title, body=body, plots=plots | {p.name: p for p in small})


def _logged_curve(metrics: Sequence[Mapping[str, Any]]) -> Curve | None:
    rows = [row for row in metrics if isinstance(row.get("regime/J"), int | float)]
    if not rows:
        return None
    points = tuple(
        Estimate(
            row["regime/J"],
            row.get("regime/J_low", float("nan")),
            row.get("regime/J_high", float("nan")),
            0,
        )
        for row in rows
    )
    return Curve(np.array([int(row["step"]) for row in rows]), points)


def _decomposition(evidence: Evidence) -> Mapping[str, Any]:
    found = (evidence.outcome or {}).get("decomposition")
    return found if isinstance(found, Mapping) else {}


def _curve_plot(evidence: Evidence, curve: Curve, parts: Mapping[str, Any]) -> Plot:
    d = evidence.diagnosis
    start = Levels(d.j_policy, d.j_dataset)
    told = Parts(
        stability=parts.get("stability", curve.values.min() - start.prior),
        plasticity=parts.get("plasticity", np.ptp(curve.values)),
        noise=parts.get("noise_floor"),
    )
    draw = partial(
        curves.training_curve, curve=curve, start=start, parts=told, terms=evidence.terms
    )
    units = curve.points[0].units
    of = f", each over {units:,} {evidence.noun}" if units else ""
    return Plot(
        name="training",
        draw=draw,
        alt=f"{_capital(evidence)} from {plain(curve.values[0])} to {plain(curve.values[-1])}; "
        f"lowest {plain(curve.values.min())}, highest {plain(curve.values.max())}.",
        caption=f"{len(curve.steps)} evaluations of one run{of}; band: 95% interval of each. "
        "Circles: the lowest and the highest.",
        size=(380, 320),
        wide=(880, 360),
    )


def _capital(evidence: Evidence) -> str:
    return evidence.terms.returned.capitalize()


def _small_multiples(evidence: Evidence) -> Iterator[Plot]:
    for key, pattern, wanted in SERIES:
        title = pattern.format(unit=evidence.terms.unit_of_nll, reward=evidence.terms.reward)
        lines: dict[str, tuple[Floats, Floats, Colour]] = {}
        for column, (label, colour) in wanted.items():
            points = [
                (row["step"], row[column])
                for row in evidence.metrics
                if isinstance(row.get(column), int | float) and "step" in row
            ]
            if points and (key not in {"replay", "anchor"} or any(v for _, v in points)):
                steps, values = np.array(points, dtype=float).T
                lines[label] = (steps, values, colour)
        if not lines:
            continue
        names = f": {' and '.join(lines)}" if len(wanted) > 1 else ""
        yield Plot(
            name=f"training-{key}",
            draw=partial(curves.series, lines=lines, planned=_planned(evidence, key, lines)),
            alt="; ".join(
                f"{title}, {n}: {v[0]:.3g} to {v[-1]:.3g}" for n, (_, v, _) in lines.items()
            ),
            caption=f"{title}{names}",
            size=(280, 150),
        )


def _planned(
    evidence: Evidence, key: str, lines: Mapping[str, Any]
) -> Callable[[int], float] | None:
    """The plan's ramp beside what was logged."""
    if evidence.plan is None:
        return None
    plan = plan_from_dict(evidence.plan["plan"])
    if key == "anchor" and plan.anchor is not None:
        return plan.anchor.coefficient  # type: ignore[return-value]
    if key == "replay" and plan.replay is not None:
        return plan.replay.weight if "weight" in lines else plan.replay.share  # type: ignore[return-value]
    return None


def outcome(evidence: Evidence) -> Section:
    """Before and after on held-out units, and completions side by side."""
    key, title = "outcome", "What came of it"
    found = evidence.outcome
    if found is None or "gain" not in found:
        return Section(key=key, title=title, absent="The record holds no outcome of RL yet.")
    rows = [("rollout", found)] if "decoding" not in found else [(found["decoding"], found)]
    if isinstance(found.get("deployment"), Mapping):
        rows.append(("deployment", found["deployment"]))
    (low, high), d = found["interval"], evidence.diagnosis
    body = {
        "rows": [{"decoding": name, **row} for name, row in rows],
        "first": found,
        "noun": evidence.noun,
        "terms": evidence.terms,
        "texts": evidence.kind not in ("control", "vla"),
        "shown": "gain" if low > 0 else "loss" if high < 0 else "nothing",
        "level": 100 * (1 - found.get("alpha", 0.05)),
        "short": d.j_dataset if found["after"] < d.j_dataset else None,
        "pairs": _pairs(evidence),
    }
    return Section(key=key, title=title, body=body, plots=_outcome_plots(evidence, rows))


def _outcome_plots(
    evidence: Evidence, rows: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, Plot]:
    arrows = [
        (f"{n}: {plain(r['before'])} → {plain(r['after'])}", r["before"], r["after"])
        for n, r in rows
    ]
    steps = []
    for name, r in rows:
        low, high = r["interval"]
        e = Estimate(r["gain"], low, high, r.get("units", 0))
        ends = f"[{plain(e.low, signed=True)}, {plain(e.high, signed=True)}]"
        text = f"{name}: {plain(e.value, signed=True)} {ends} · {e.units:,} {evidence.noun}"
        steps.append(Row(text, e, TUNED, "D", decides=name == rows[0][0]))
    height, terms = 64 + 44 * len(rows), evidence.terms
    return {
        "levels": Plot(
            name="outcome",
            draw=partial(
                curves.before_after, rows=arrows, scale=evidence.diagnosis.scale, terms=terms
            ),
            alt=f"{_capital(evidence)} before and after RL. " + "; ".join(a[0] for a in arrows),
            caption="Circle: π₀. Diamond: after RL.",
            size=(368, height),
        ),
        "gain": Plot(
            name="gain",
            draw=partial(curves.gains, rows=steps, terms=terms),
            alt="Gain of RL with interval. " + "; ".join(s.label for s in steps),
            caption="Difference on the same units, so what is easy or hard cancels.",
            size=(368, height),
        ),
    }


def _pairs(evidence: Evidence) -> list[dict[str, Any]]:
    """Completions of pi_0 and of the fine-tuned policy on the same units.

    The largest gains, the largest losses and one unit where nothing changed.
    """
    if evidence.policy is None or evidence.after is None:
        return []
    before, after = deciding(evidence.policy), deciding(evidence.after)
    if before.text is None or after.text is None:
        return []
    old, new = (_means(scores, at=cut(evidence)) for scores in (before, after))
    change = sorted((new[u] - old[u], u) for u in old if np.isfinite(new.get(u, np.nan) - old[u]))
    gained = [u for c, u in reversed(change) if c > 0][:2]
    lost = [u for c, u in change if c < 0][:2]
    same = [u for c, u in change if c == 0][:1]
    return [
        {
            "unit": u,
            "verdict": kind,
            "prompt": excerpt(_prompt(evidence, u)),
            "before": _sample(before, u, old[u]),
            "after": _sample(after, u, new[u]),
        }
        for kind, units in (("gained", gained), ("lost", lost), ("unchanged", same))
        for u in units
    ]


def _means(scores: Scores, *, at: float) -> dict[str, float]:
    found = by_unit(scores, cut=at)
    return dict(zip(found.units.tolist(), found.mean.tolist(), strict=True))


def _sample(scores: Scores, unit: str, mean: float) -> dict[str, Any]:
    """The first sample that is typical of the unit's mean, so that no lucky one is shown."""
    here = np.flatnonzero(unit_names(scores) == unit)
    i = here[int(np.nanargmin(np.abs(scores.returns[here] - mean)))]
    text = None if scores.text is None else scores.text[i]
    return {"text": excerpt(text), "value": float(scores.returns[i]), "mean": mean}


def _prompt(evidence: Evidence, unit: str) -> Any:
    if unit in evidence.texts:
        return evidence.texts[unit].get("prompt")
    scores = evidence.policy
    if scores is None or scores.prompt is None:
        return None
    return scores.prompt[np.flatnonzero(unit_names(scores) == unit)[0]]
