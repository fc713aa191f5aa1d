"""What must a reader of the verdict know beside it? Circumstances, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from posttrain.regime.scores import Scores
from posttrain.regime.verdict import DecodingGap, Flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from posttrain.regime.sample import Pairing

FEW_UNITS = 20
FILTERED = 5
NAMES = {"policy": "rollouts of pi_0", "dataset": "demonstrations"}


def flags_of_pairing(pairing: Pairing, *, margin: float, bounded: bool = True) -> Iterator[Flag]:
    """Say what the compared returns themselves show."""
    p, d = float(pairing.policy.values.mean()), float(pairing.dataset.values.mean())
    if max(p, d) <= margin:
        where = "near the lowest return" if bounded else "near the lower reference return, or below"
        yield Flag(
            "both_near_zero",
            f"Both pi_0 ({p:.1%} of the reward's range) and D ({d:.1%}) are {where}: the "
            "comparison is uninformative, since neither side has much to keep.",
        )
    if bounded and min(p, d) >= 1 - margin:
        yield Flag(
            "both_near_ceiling",
            f"Both pi_0 ({p:.1%} of the reward's range) and D ({d:.1%}) are near the highest "
            "return: there is no room for RL to improve.",
        )
    units = min(pairing.policy.values.size, pairing.dataset.values.size)
    if units < FEW_UNITS:
        yield Flag(
            "few_units",
            f"Only {units} independent units: a few unusual ones can carry the verdict.",
        )
    if not pairing.paired:
        yield Flag(
            "unpaired",
            "The two sides do not share enough units to be compared unit by unit, so differences "
            "in difficulty between their units count as noise, or as gap if they are not drawn "
            "alike.",
        )
    elif pairing.left_out:
        yield Flag(
            "partly_paired",
            f"{pairing.left_out} units that only one side has were left out; the verdict rests on "
            f"the {units} that both have.",
        )


def flags_of_scores(
    scores: Scores | ArrayLike, *, side: Literal["policy", "dataset"], scale: tuple[float, float]
) -> Iterator[Flag]:
    """Say what one side's table shows beside its returns."""
    if not isinstance(scores, Scores):
        return
    if scores.unscorable is not None and (lost := int(np.sum(scores.unscorable))):
        low, known = scale[0], scores.scorable.returns
        as_low = (known.sum() + low * lost) / len(scores)
        name = "J(pi_0)" if side == "policy" else "J(D)"
        yield Flag(
            "unscorable",
            f"{lost} of {len(scores)} {NAMES[side]} could not be scored and are left out; the "
            f"others average {known.mean():.3g}, and counting those as {low:g} would make {name} "
            f"{as_low:.3g}.",
        )
    if scores.truncated is not None and (cut := int(np.sum(scores.truncated))):
        yield Flag(
            "truncated",
            f"{cut} of {len(scores)} {NAMES[side]} were cut off by the length limit: their returns "
            "say what fits into the limit, not what would have been reached.",
        )
    if side == "policy" and scores.split is not None:
        seen = int(np.sum(scores.split == "seen"))
        if seen:
            yield Flag(
                "seen_prompts",
                f"{seen} of {len(scores)} {NAMES[side]} are on units that pi_0 was trained on: "
                "memory flatters it there.",
            )


def success_filtered(
    dataset: Scores | ArrayLike, *, scale: tuple[float, float], bounded: bool = True
) -> Iterator[Flag]:
    """Say when every demonstration succeeds; a reference return that was reached is no success."""
    if not bounded and not (isinstance(dataset, Scores) and dataset.success is not None):
        return
    if isinstance(dataset, Scores):
        known = dataset.scorable
        won = known.returns >= scale[1] if known.success is None else known.success
    else:
        won = np.asarray(dataset, dtype=np.float64) >= scale[1]
    if won.size >= FILTERED and bool(won.all()):
        yield Flag(
            "success_filtered",
            f"All {won.size} demonstrations succeed, as after filtering by success: J(D) is then "
            "that of the filter, and says little about the behaviour that made the data.",
        )


def decoding_changes_regime(gaps: tuple[DecodingGap, ...]) -> Iterator[Flag]:
    """Say when the verdict depends on how pi_0 is decoded."""
    if len({gap.regime for gap in gaps}) > 1:
        readings = "; ".join(f"{g.name}: {g.regime} at J(pi_0) = {g.j_policy:.3g}" for g in gaps)
        yield Flag(
            "decoding_changes_regime",
            f"The regime depends on how pi_0 is decoded ({readings}). The rollout decides, "
            "since RL starts from it.",
        )
