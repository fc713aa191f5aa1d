"""What is a diagnosis? A regime and all the evidence that it rests on, as one frozen value."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from posttrain.regime.strict import read

if TYPE_CHECKING:
    from collections.abc import Mapping

Test: TypeAlias = Literal["paired", "welch", "exact", "sequential"]


class Regime(StrEnum):
    """Where a pretrained policy stands against its dataset."""

    SUPERIOR = "superior"
    COMPARABLE = "comparable"
    INFERIOR = "inferior"
    UNDECIDED = "undecided"


class Interval(NamedTuple):
    """Two ends, each with its own one-sided error."""

    low: float
    high: float


EVERYTHING = Interval(-1.0, 1.0)
"""Every gap that there can be between bounded returns."""

ANYTHING = Interval(-math.inf, math.inf)
"""Every gap that there can be where returns have no bounds."""


def meet(a: Interval, b: Interval) -> Interval:
    """What both intervals allow, or `a` where they contradict each other.

    So a verdict that `a` gives is kept, whatever comes after it.
    """
    both = Interval(max(a.low, b.low), min(a.high, b.high))
    return both if both.low <= both.high else a


def decide(interval: Interval, margin: float) -> Regime:
    """Read the regime off an interval at level 1 - 2α for the gap.

        superior    low >  margin        comparable   -margin < low and high < margin
        inferior    high < -margin       undecided    otherwise

    Each verdict is a one-sided test at level α; comparable is Schuirmann's pair of them
    (TOST, J. Pharmacokinet. Biopharm. 15, 1987), whose size is α and not 2α.
    """
    if interval.low > margin:
        return Regime.SUPERIOR
    if interval.high < -margin:
        return Regime.INFERIOR
    if interval.low > -margin and interval.high < margin:
        return Regime.COMPARABLE
    return Regime.UNDECIDED


@dataclass(frozen=True, slots=True)
class Flag:
    """A circumstance that the reader of a verdict must know."""

    kind: str
    """Short name to switch on, such as `few_units`."""
    text: str
    """One sentence in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoverability:
    """Can RL find success alone? What repeated sampling of pi_0 says."""

    k: int
    """Samples that every unit has."""
    pass_at: dict[int, float]
    """Unbiased pass@j for j = 1, 2, 4, ... up to k (arXiv 2107.03374)."""
    no_success: float
    """Share of units without one success."""
    sometimes: float
    """Share of units with successes and failures: those that teach a group-relative learner."""
    always: float
    """Share of units without one failure."""
    no_signal: float | None
    """Expected share of groups of 8 whose returns are all equal; None with fewer than 8 samples."""


@dataclass(frozen=True, slots=True)
class DecodingGap:
    """The gap that one way of decoding pi_0 gives."""

    name: str
    """`rollout` (the RL sampler, which decides) or `deployment`."""
    j_policy: float
    gap: float
    interval: Interval
    regime: Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A regime with the evidence it rests on.

    Means (`j_policy`, `j_dataset` and their intervals) are in the reward's own units; `gap`,
    `interval` and `margin` are on the scale where the reward's range is 1.
    """

    regime: Regime
    paper_regime: Regime
    """The three-way label of arXiv 2510.01460: comparable includes too little evidence."""
    gap: float
    """J(pi_0) - J(D), divided by the reward's range."""
    interval: Interval
    """For the gap, at level 1 - 2α: each end may err with probability α."""
    j_policy: float
    j_dataset: float
    j_policy_interval: Interval
    """At level 1 - α."""
    j_dataset_interval: Interval
    """At level 1 - α."""
    margin: float
    alpha: float
    scale: tuple[float, float]
    """Lowest and highest possible return; where not `bounded`, two returns to compare with."""
    test: Test
    reason: str
    """Why this test: one sentence."""
    units: int
    """Independent units of the policy that entered the test."""
    units_dataset: int
    episodes_policy: int
    episodes_dataset: int
    needed: int | None
    """Further units that would decide with power 0.8 if the estimates are right; None when decided,
    or when the gap is estimated too near the margin for any number to do."""
    recoverability: Recoverability | None
    decodings: tuple[DecodingGap, ...]
    flags: tuple[Flag, ...]
    bounded: bool = True
    """Whether `scale` bounds the returns, or is only their unit."""

    @property
    def sentence(self) -> str:
        """The verdict with its numbers, in one sentence of English."""
        share = f"{100 * (1 - 2 * self.alpha):g} % interval"
        evidence = (
            f"J(pi_0) = {self.j_policy:.3g}, J(D) = {self.j_dataset:.3g}, gap {self.gap:+.3f} "
            f"({share} {self.interval.low:+.3f} to {self.interval.high:+.3f}) "
            f"over {_count(self.units, 'unit')}"
        )
        if self.regime is Regime.UNDECIDED:
            return f"Undecided: {evidence}; {self._shortfall()}."
        meaning = {
            Regime.SUPERIOR: "the pretrained policy is better than its dataset by more than",
            Regime.INFERIOR: "the pretrained policy is worse than its dataset by more than",
            Regime.COMPARABLE: "the pretrained policy and its dataset differ by less than",
        }[self.regime]
        return f"{self.regime.capitalize()}: {meaning} {self.margin:g}; {evidence}."

    def _shortfall(self) -> str:
        if any(flag.kind == "no_variance" for flag in self.flags):
            return "returns that show no variance and have no bounds cannot be tested"
        if self.needed is None:
            return (
                f"the gap is too near the margin of {self.margin:g} for any number of units to tell"
            )
        return f"about {_count(self.needed, 'further unit')} would decide"

    def __str__(self) -> str:
        return self.sentence

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts under the field names."""
        plain = asdict(self)
        plain["recoverability"] = self.recoverability and {
            **asdict(self.recoverability),
            "pass_at": {str(k): p for k, p in self.recoverability.pass_at.items()},
        }
        return dict(json.loads(json.dumps(plain)))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Diagnosis:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: Naming the key that is missing, unknown or of the wrong type.
        """
        value: Diagnosis = read(cls, plain, "diagnosis")
        return value

    def to_json(self) -> str:
        """One JSON object, indented."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Diagnosis:
        """Read what `to_json` wrote."""
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a diagnosis is one JSON object; {error}") from None
        return cls.from_dict(plain)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
