"""The section of a control run about its episodes: what pi_0 and D return, how often they succeed.

Starts are drawn and not revisited, so that there is nothing to pair, and what stands in for pass@k
is the chance that some of k episodes succeeds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.regime.statistics import clopper_pearson
from posttrain.report import figures
from posttrain.report.measure import PassCurve
from posttrain.report.render import Plot
from posttrain.report.section import Section

if TYPE_CHECKING:
    from posttrain.regime.scores import Scores
    from posttrain.report.evidence import Evidence

MOST = 64
"""Episodes up to which the chance of a success is drawn."""


def episodes(evidence: Evidence) -> Section:
    """Returns of both sides, and whether RL can find success by itself."""
    key, title = "episodes", "Episodes, and can RL find success by itself?"
    policy, dataset = evidence.policy, evidence.dataset
    if policy is None or dataset is None or not len(policy) or not len(dataset):
        return Section(key=key, title=title, absent="The record holds no scores of both sides.")
    plots = {"returns": histograms(policy, dataset, evidence)}
    sides = [side(name, scores) for name, scores in (("π₀", policy), ("D", dataset))]
    if policy.success is not None:
        plots["tries"] = tries(policy)
    return Section(
        key=key,
        title=title,
        body={"sides": sides, "account": None, "floor": None, "signal": None},
        plots=plots,
    )


def side(name: str, scores: Scores) -> dict[str, Any]:
    """A row of the table: returns, lengths and successes of some episodes."""
    known = scores.scorable.returns
    steps = None if scores.steps is None else scores.steps[scores.steps >= 0]
    found: dict[str, Any] = {
        "name": name,
        "episodes": len(scores),
        "unscorable": len(scores) - len(known),
        "mean": float(known.mean()) if len(known) else None,
        "low": float(known.min()) if len(known) else None,
        "high": float(known.max()) if len(known) else None,
        "steps": float(steps.mean()) if steps is not None and len(steps) else None,
        "success": None,
    }
    if scores.success is not None:
        won = int(scores.success.sum())
        low, high = clopper_pearson(won, len(scores))
        found["success"] = {"rate": won / len(scores), "low": low, "high": high}
    return found


def histograms(policy: Scores, dataset: Scores, evidence: Evidence) -> Plot:
    """Both sides' returns on shared bins."""
    mine, theirs = policy.scorable.returns, dataset.scorable.returns
    told = ("each of {:,} episodes", "each of {:,} episodes")
    return Plot(
        name="returns",
        draw=partial(
            figures.return_histograms,
            policy=mine,
            dataset=theirs,
            scale=evidence.diagnosis.scale,
            told=told,
        ),
        alt=f"Histograms of the returns of {len(mine)} episodes of π₀ and {len(theirs)} of D.",
        caption="Shares of each side.",
        size=(368, 240),
    )


def tries(policy: Scores) -> Plot:
    """The chance that some of k episodes succeeds."""
    won, n = int(np.count_nonzero(np.asarray(policy.success))), len(policy)
    k = np.array([2**i for i in range(MOST.bit_length())])
    rate, (low, high) = won / n, clopper_pearson(won, n)
    value, least, most = (1 - (1 - p) ** k for p in (rate, low, high))
    curve = PassCurve(k, value, least, most, n)
    return Plot(
        name="tries",
        draw=partial(figures.tries, curve=curve),
        alt="Chance of a success in k episodes of π₀: "
        + ", ".join(f"{v:.2f} in {i}" for i, v in zip(k, curve.value, strict=True)),
        caption="Band: from the exact 95% interval of the rate of success.",
        size=(368, 240),
    )
