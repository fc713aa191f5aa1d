"""D beside RL as CHORD has it: (1 - mu) RL + mu SFT, where a plan says RL + weight SFT.

The two are the same up to the scale of the whole loss, which Adam divides out:
mu = weight / (1 + weight). arXiv 2508.11408; ms-swift and Trinity-RFT have the same schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from posttrain.export.common import moves, spoken, tidy
from posttrain.export.says import Cannot, Note, Said
from posttrain.intervention.plan import Replay
from posttrain.intervention.ramp import Ramp, ramp


def mu(weight: float) -> float:
    """CHORD's share of the SFT loss that stands for a weight beside the RL loss.

    >>> mu(1.0), mu(9.0)
    (0.5, 0.9)
    """
    return tidy(weight / (1 + weight))


def schedule(weight: float | Ramp) -> Mapping[str, float]:
    """CHORD's four numbers: it climbs to a peak, then goes to its valley by a cosine."""
    r = ramp(weight)
    return {
        "warmup_steps": r.rise,
        "decay_steps": r.steps,
        "peak": mu(r.start),
        "valley": mu(r.final),
    }


def explain(name: str, weight: float | Ramp) -> Iterator[Said]:
    """Say in which two things CHORD's sum differs from a plan's."""
    yield Note(
        "replay.weight",
        f"{name} adds (1 - mu) RL + mu SFT, so the weight {spoken(weight)} becomes mu = weight / "
        "(1 + weight); the scale of the sum differs, which Adam divides out but gradient clipping "
        "sees",
    )
    if moves(weight) and ramp(weight).final != ramp(weight).start:
        yield Note(
            "replay.weight",
            f"{name}'s mu follows a cosine between its ends, so that between them the weight is "
            "not quite the plan's",
        )


def token_weight(name: str, replay: Replay) -> Iterator[Said]:
    """CHORD knows one token weight, p (1 - p)."""
    if replay.token_weight == "none":
        return
    if ramp(replay.weight).peak == 0:
        yield Cannot("replay.token_weight", f"{name} weighs tokens of its SFT loss only")
    elif replay.token_weight != "chord":
        yield Cannot(
            "replay.token_weight",
            f"{name} knows p (1 - p) only, not {replay.token_weight!r}; its tokens stay unweighted",
        )
