"""The section of a robot policy's run about its episodes, and whether RL finds success in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from posttrain.report.evidence import deciding
from posttrain.report.part_episodes import histograms, side, tries
from posttrain.report.section import Section

if TYPE_CHECKING:
    from posttrain.regime.scores import Scores
    from posttrain.report.evidence import Evidence

EARLY: Final = 10
"""Logged rows of RL that count as its beginning."""
HOW: Final = {
    "counted": "counted from as many samples of each start",
    "beta_binomial": "from several samples of each start and a model of how starts differ",
    "bounds": "at the least, since one sample of a start does not show how starts differ",
}


def starts(evidence: Evidence) -> Section:
    """Returns and success of both sides and decodings, and how often a group is silent."""
    key, title = "episodes", "Episodes, and can RL find success by itself?"
    policy, dataset = evidence.policy, evidence.dataset
    if policy is None or dataset is None or not len(policy) or not len(dataset):
        return Section(key=key, title=title, absent="The record holds no scores of both sides.")
    mine = deciding(policy, evidence.decides)
    theirs = deciding(dataset)
    plots = {"returns": histograms(mine, theirs, evidence)}
    if mine.success is not None:
        plots["tries"] = tries(mine)
    body = {
        "sides": list(_sides(policy, dataset)),
        "signal": _signal(evidence),
        "account": evidence.robot.account,
        "origin": evidence.robot.origin,
        "floor": evidence.robot.floor,
    }
    return Section(key=key, title=title, body=body, plots=plots)


def _sides(policy: Scores, dataset: Scores) -> Iterator[dict[str, Any]]:
    for split, where in (("heldout", ""), ("seen", ", starts seen in SFT")):
        for decoding, how in (("rollout", "sampled as in RL"), ("deployment", "as deployed")):
            yield from _one(policy, f"π₀, {how}{where}", split=split, decoding=decoding)
    for split, where in (("heldout", "held out"), ("seen", "cloned")):
        yield from _one(dataset, f"D, {where}", split=split)


def _one(scores: Scores, name: str, **where: str) -> Iterator[dict[str, Any]]:
    """A row of the table, where there are such episodes; an unmarked table is held out."""
    if scores.split is None and where["split"] == "seen":
        return
    if scores.decoding is None and where.get("decoding") == "deployment":
        return
    known = {k: v for k, v in where.items() if getattr(scores, k) is not None}
    here = scores.where(**known) if known else scores  # type: ignore[arg-type]
    if len(here):
        yield side(name, here)


def _signal(evidence: Evidence) -> Mapping[str, Any] | None:
    """What was expected of groups before RL, and what RL logged of them."""
    logged = [
        float(row["frac_reward_zero_std"])
        for row in evidence.metrics
        if isinstance(row.get("frac_reward_zero_std"), int | float)
    ]
    expected = evidence.robot.signal
    if expected is None and not logged:
        return None
    return {
        "expected": expected,
        "how": HOW.get(str((expected or {}).get("how")), ""),
        "early": float(np.mean(logged[:EARLY])) if logged else None,
        "rows": len(logged[:EARLY]),
        "whole": float(np.mean(logged)) if len(logged) > EARLY else None,
    }
