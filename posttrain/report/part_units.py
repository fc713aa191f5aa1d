"""Sections about units: what each demonstration and pi_0 make of it, and what RL could find."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.intervention.actions import success_from
from posttrain.report import figures, words
from posttrain.report.evidence import Evidence, deciding
from posttrain.report.measure import (
    ByUnit,
    PassCurve,
    UnitMap,
    by_unit,
    no_signal,
    pass_curve,
    unit_map,
    unit_names,
)
from posttrain.report.render import Plot
from posttrain.report.section import Section, excerpt, plain

if TYPE_CHECKING:
    from posttrain.regime.scores import Scores

EXAMPLES = 3
WORST = 20
GROUPS = (2, 4, 8, 16, 32)
SEED = 20251001
"""Of the bootstrap, so that one record gives one page."""


def cut(evidence: Evidence) -> float:
    """The return from which an episode without a `success` of its own counts as one."""
    found = evidence.diagnosis
    return success_from(found.scale, continuous=found.recoverability is None)


def units(evidence: Evidence) -> Section:
    """The four cells of demonstration score and success of pi_0."""
    key, title = "units", "Unit by unit"
    policy, dataset = evidence.policy, evidence.dataset
    if policy is None or dataset is None or not len(policy) or not len(dataset):
        return Section(key=key, title=title, absent="The record holds no scores of both sides.")
    if policy.unit is None or dataset.unit is None:
        absent = "The scores name no units, so that demonstrations and samples cannot be matched."
        return Section(key=key, title=title, absent=absent)
    policy, dataset = deciding(policy), deciding(dataset)
    placed = _placed(policy, dataset, cut(evidence))
    if placed.units == 0:
        absent = "No unit has both a demonstration and a sample of π₀."
        return Section(key=key, title=title, absent=absent)
    other = _seen_map(evidence)
    cells: list[dict[str, Any]] = [
        {
            "cell": cell,
            "units": len(placed.cells[cell.key]),
            "share": len(placed.cells[cell.key]) / placed.units,
            "seen": None if other is None else len(other.cells[cell.key]) / max(other.units, 1),
            "examples": [
                _example(evidence, policy, dataset, str(name))
                for name in placed.cells[cell.key][:EXAMPLES]
            ],
        }
        for cell in words.CELLS
    ]
    body = {
        "cells": cells,
        "map": placed,
        "noun": evidence.noun,
        "seen_units": None if other is None else other.units,
        "success": _success_rule(evidence, policy),
    }
    return Section(key=key, title=title, body=body, plots={"map": _map_plot(placed, evidence)})


def _placed(policy: Scores, dataset: Scores, at: float) -> UnitMap:
    return unit_map(by_unit(policy, cut=at), by_unit(dataset, cut=at))


def _seen_map(evidence: Evidence) -> UnitMap | None:
    """The map of units that SFT has seen, where the record tells them from held-out ones."""
    sides = []
    for scores in (evidence.policy, evidence.dataset):
        if scores is None or scores.split is None or not (scores.split == "heldout").any():
            return None
        seen = scores.where(split="seen")
        if seen.decoding is not None and (seen.decoding == "rollout").any():
            seen = seen.where(decoding="rollout")
        if not len(seen):
            return None
        sides.append(seen)
    placed = _placed(sides[0], sides[1], cut(evidence))
    return placed if placed.units else None


def _success_rule(evidence: Evidence, scores: Scores) -> str:
    if scores.success is not None:
        return "An episode succeeds where its scores say so."
    which = "highest return" if evidence.diagnosis.recoverability else "middle of the scale"
    return f"An episode succeeds from a return of {cut(evidence):g} on, the {which}."


def _example(evidence: Evidence, policy: Scores, dataset: Scores, name: str) -> dict[str, Any]:
    row = evidence.texts.get(name, {})
    prompt, sample, of = _best(policy, name)
    asked, shown, _ = _best(dataset, name)
    return {
        "unit": name,
        "prompt": excerpt(row.get("prompt") or prompt or asked),
        "demonstration": excerpt(shown or row.get("completion")),
        "sample": excerpt(sample),
        "samples": of,
    }


def _best(scores: Scores, name: str) -> tuple[Any, Any, int]:
    """Prompt and text of a unit's best episode, and how many it has."""
    here = np.flatnonzero(unit_names(scores) == name)
    i = here[int(np.nan_to_num(scores.returns[here], nan=-np.inf).argmax())]
    prompt = None if scores.prompt is None else scores.prompt[i]
    return prompt, None if scores.text is None else scores.text[i], len(here)


def _map_plot(placed: UnitMap, evidence: Evidence) -> Plot:
    rows = 3 if placed.table[2].any() else 2
    counts = ", ".join(f"{c.title.lower()}: {len(placed.cells[c.key])}" for c in words.CELLS)
    return Plot(
        name="unit-map",
        draw=partial(figures.unit_heatmap, units=placed),
        alt=f"{placed.units} {evidence.noun} by demonstration and success of π₀. {counts}.",
        caption=f"{placed.units:,} {evidence.noun}. Left of the line π₀ never succeeds.",
        size=(368, 74 + 56 * rows),
        wide=(720, 74 + 56 * rows),
    )


def recoverability(evidence: Evidence) -> Section:
    """pass@k of pi_0, and how many groups of samples would teach nothing."""
    key, title = "recoverability", "Can RL find success by itself?"
    r = evidence.diagnosis.recoverability
    policy = None if evidence.policy is None else deciding(evidence.policy)
    body: dict[str, Any] = {"r": r, "noun": evidence.noun, "groups": [], "own": None}
    if policy is None or not len(policy) or policy.unit is None:
        absent = "The record holds no samples of π₀ by unit." if r is None else None
        return Section(key=key, title=title, absent=absent, body=body)
    if r is None and policy.success is None:
        absent = "Returns are continuous, and nothing in the scores says which one is a success."
        return Section(key=key, title=title, absent=absent)
    mine = by_unit(policy, cut=cut(evidence))
    most = int(mine.samples.min())
    if most < 2:
        absent = "π₀ was sampled once on some units; pass@k needs several samples of each."
        return Section(key=key, title=title, absent=absent)
    curve = pass_curve(mine, np.random.default_rng(SEED))
    body["groups"] = [(g, no_signal(mine, g)) for g in GROUPS if g <= most]
    body["own"] = _shares(mine)
    body["k"], body["units"] = most, len(mine.units)
    return Section(key=key, title=title, body=body, plots={"pass": _pass_plot(evidence, curve)})


def _shares(mine: ByUnit) -> dict[str, float]:
    none, every = mine.successes == 0, mine.successes == mine.samples
    return {
        "never": float(none.mean()),
        "sometimes": float((~none & ~every).mean()),
        "always": float(every.mean()),
    }


def _pass_plot(evidence: Evidence, curve: PassCurve) -> Plot:
    reached = None
    if evidence.dataset is not None and len(evidence.dataset):
        demos = by_unit(deciding(evidence.dataset), cut=cut(evidence))
        reached = float(np.mean(2 * demos.successes >= np.maximum(demos.samples, 1)))
    points = ", ".join(f"{plain(v)} at k={k}" for k, v in zip(curve.k, curve.value, strict=True))
    return Plot(
        name="pass-at-k",
        draw=partial(figures.pass_at_k, curve=curve, reached=reached),
        alt=f"pass@k of π₀: {points}.",
        caption=f"{curve.units:,} {evidence.noun}; band: 95% bootstrap interval over them.",
        size=(368, 240),
    )


def returns(evidence: Evidence) -> Section:
    """Distributions of returns, and the demonstrations that score worst."""
    key, title = "returns", "Returns and the worst demonstrations"
    if evidence.policy is None or evidence.dataset is None or not len(evidence.dataset):
        return Section(key=key, title=title, absent="The record holds no scores of both sides.")
    policy = by_unit(deciding(evidence.policy), cut=cut(evidence)).mean
    dataset = deciding(evidence.dataset).returns
    policy, dataset = policy[np.isfinite(policy)], dataset[np.isfinite(dataset)]
    plot = Plot(
        name="returns",
        draw=partial(
            figures.return_histograms,
            policy=policy,
            dataset=dataset,
            scale=evidence.diagnosis.scale,
        ),
        alt=f"Histograms of {len(policy)} unit means of π₀ and {len(dataset)} returns of D.",
        caption="Shares of each side; episodes without a score are left out.",
        size=(368, 240),
    )
    counts, worst = _worst(evidence, evidence.dataset)
    rule = _success_rule(evidence, evidence.dataset)
    body = {"counts": counts, "worst": worst, "success": rule}
    return Section(key=key, title=title, body=body, plots={"returns": plot})


def _worst(evidence: Evidence, d: Scores) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Demonstrations of every split: right, wrong, unscorable and truncated, each counted once."""
    lost = ~np.isfinite(d.returns)
    short = d.truncated.astype(bool) & ~lost if d.truncated is not None else np.zeros_like(lost)
    value = np.where(lost, np.inf, d.returns)
    right = d.success.astype(bool) if d.success is not None else d.returns >= cut(evidence)
    right, wrong = right & ~lost & ~short, ~right & ~lost & ~short
    kinds = np.select([lost, short, wrong], ["no score", "truncated", "wrong"], default="right")
    order = np.lexsort((np.arange(len(d)), value, right))
    rows = [
        _demonstration(evidence, d, int(i), str(kinds[i])) for i in order[:WORST] if not right[i]
    ]
    counts = {k: int((kinds == k).sum()) for k in ("right", "wrong", "no score", "truncated")}
    return counts, rows


def _demonstration(evidence: Evidence, d: Scores, i: int, kind: str) -> dict[str, Any]:
    name = str(d.unit[i]) if d.unit is not None else str(i)
    row = evidence.texts.get(name, {})
    prompt = d.prompt[i] if d.prompt is not None else None
    text = d.text[i] if d.text is not None else None
    return {
        "unit": name,
        "kind": kind,
        "value": float(d.returns[i]),
        "prompt": excerpt(prompt if prompt is not None else row.get("prompt")),
        "text": excerpt(text if text is not None else row.get("completion")),
    }
