"""Does a policy that keeps changing still stand where it stood, looked at after every step?

    watch = begin(steps=200, window=20, alpha=0.05, pi0=returns_of_pi0, dataset=0.6)
    watch = watch.update(returns, dataset)         # of the units that this step rolled out
    watch.reading().gap                            # low, mid, high

Every step of RL rolls its current policy out on fresh units, for nothing. What such rollouts can
tell is the mean return over a few steps, since no two steps have the same policy. So windows of
`window` steps open every half window, and the oldest open one speaks: it holds between half a
window and a whole one. Its estimand is the running mean of J(pi_s) over the steps it holds.

A running mean moves while it is estimated, and what moves it are the very rollouts that estimate
it. Products of bets (`betting`) are capital against a mean that stays: with two coin flips, a mean
that falls after heads and rises after tails has them grow on average. Here each end rests on the
exponential of a sum, which needs nothing of how the mean moves: for X in [0, 1] with conditional
means m_i, guesses x_i made beforehand, and 0 < b < 1,

    exp(b Σ (X_i - m_i) - psi(b) Σ (X_i - x_i)²),     psi(b) = -log(1 - b) - b

is a supermartingale that starts at 1 (X. Fan, I. Grama and Q. Liu, arXiv 1311.6273; as confidence
sequences S. Howard et al., arXiv 1810.08240, theorem 4; I. Waudby-Smith and A. Ramdas, arXiv
2010.09686). It exceeds 1/α ever with chance α at most, whatever the policy does in answer.

Units are taken for draws from the prompts that RL trains on; drawing without replacement does no
harm. J(D) on all of them is known, so that the gap to D is as uncertain as J. Where the same units
are hard for both, the differences unit by unit are less so; both are asked and both hold.

The chance that any end of any window is ever wrong, at any step of the whole run, is at most
alpha: a third is spent on J, a third on the gap to D, a third on J(pi_0); equally on both ends and
on all windows. Whatever is read off the intervals is wrong with that chance at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from posttrain.regime.sample import Floats

BETS = 0.05 * 2.0 ** np.arange(5)
"""Rates b, of which the best may be chosen afterwards, since each gets a fifth of α."""
PRICES = -np.log1p(-BETS) - BETS
"""psi(b)."""


class Band(NamedTuple):
    """An estimate and its two ends; of as many runs as are watched at once."""

    low: Any
    mid: Any
    high: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """What an interval needs of a stream of values in [0, 1]; runs side by side are axes [...]."""

    count: int = 0
    total: Any = 0.0
    spread: Any = 0.0
    """Σ (X_i - x_i)², x_i the mean of what came before with one value of 1/2 put first."""

    def add(self, values: Floats) -> Tally:
        """Go on with `values` [..., m], in the order in which they came."""
        size = values.shape[-1]
        if not size:
            return self
        sums = np.cumsum(values, axis=-1)
        before = np.asarray(self.total)[..., None] + sums - values
        guesses = (0.5 + before) / (1 + self.count + np.arange(size))
        return Tally(
            count=self.count + size,
            total=self.total + sums[..., -1],
            spread=self.spread + np.square(values - guesses).sum(axis=-1),
        )

    def band(self, alpha: float) -> Band:
        """Mean, and ends each of which is ever wrong with chance `alpha` at most."""
        if not self.count:
            zero = np.zeros_like(self.total)
            return Band(zero, zero + 0.5, zero + 1.0)
        mid = self.total / self.count
        price = np.log(BETS.size / alpha) + np.multiply.outer(self.spread, PRICES)
        half = (price / (BETS * self.count)).min(axis=-1)
        return Band(np.maximum(mid - half, 0.0), mid, np.minimum(mid + half, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """What the steps from `start` on have shown."""

    start: int
    returns: Tally = field(default_factory=Tally)
    gaps: Tally = field(default_factory=Tally)
    """Of (return - D's return on the same unit + 1) / 2."""

    def add(self, returns: Floats, dataset: Floats | None) -> Window:
        """Take in one step."""
        gaps = self.gaps if dataset is None else self.gaps.add((returns - dataset + 1.0) / 2.0)
        return replace(self, returns=self.returns.add(returns), gaps=gaps)

    def gap(self, j_dataset: float, alpha: float) -> Band:
        """J - J(D): what J alone and what the differences leave possible; the sharper's mean."""
        alone = Band(*(end - j_dataset for end in self.returns.band(alpha)))
        low, mid, high = (2.0 * end - 1.0 for end in self.gaps.band(alpha))
        if not self.gaps.count:
            return Band(low, mid, high)
        sharper = alone.high - alone.low <= high - low
        low, high = np.maximum(low, alone.low), np.minimum(high, alone.high)
        return Band(low, np.clip(np.where(sharper, alone.mid, mid), low, high), high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """Where the policy stands by now, in units of the reward's range above its lowest."""

    start: int
    """First step (from 0) of the window that speaks."""
    units: int
    pi0: Band
    j: Band
    gap: Band
    """J - J(D)."""
    stability: Band
    """Lowest window so far minus J*_off."""
    plasticity: Band
    """Highest window so far minus the lowest."""

    @property
    def passed(self) -> Any:
        """Whether the policy is above D for certain."""
        return self.gap.low > 0

    @property
    def dropped(self) -> Any:
        """Whether it is below pi_0 for certain."""
        return self.j.high < self.pi0.low

    @property
    def collapsed(self) -> Any:
        """Whether more than half of what pi_0 had above the lowest return is gone for certain."""
        return self.j.high < 0.5 * self.pi0.low


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """A run under watch. A value: `update` returns a new one."""

    window: int
    share: float
    """Error of an end of one window."""
    pi0: Band
    dataset: float
    """J(D), taken as exact: the mean return of the demonstrations at hand. NaN where unknown."""
    step: int = 0
    open: tuple[Window, ...] = ()
    lowest: Band
    """Of the windows that have closed."""
    highest: Band

    def update(self, returns: ArrayLike, dataset: ArrayLike | None = None) -> Watch:
        """Take in one step.

        Args:
            returns: Mean return of each unit's own rollouts in [0, 1], [..., m]; m may be 0.
            dataset: D's mean return on these units [..., m]; None where D has no returns.
        """
        values = np.asarray(returns, dtype=np.float64)
        data = None if dataset is None else np.asarray(dataset, dtype=np.float64)
        ended = [w for w in self.open if w.start + self.window <= self.step]
        opened = self.open[len(ended) :]
        if self.step % _stride(self.window) == 0:
            opened = (*opened, Window(start=self.step))
        bands = [w.returns.band(self.share) for w in ended if w.returns.count]
        return replace(
            self,
            step=self.step + 1,
            open=tuple(w.add(values, data) for w in opened),
            lowest=_extreme(np.minimum, self.lowest, *bands),
            highest=_extreme(np.maximum, self.highest, *bands),
        )

    def reading(self) -> Reading:
        """What is known by now; everything is possible before the first step."""
        speaker = self.open[0] if self.open else Window(start=0)
        j = speaker.returns.band(self.share)
        lowest = _extreme(np.minimum, self.lowest, j)
        highest = _extreme(np.maximum, self.highest, j)
        known = self.dataset if np.isfinite(self.dataset) else 0.0
        prior = Band(*(np.maximum(end, known) for end in self.pi0))
        return Reading(
            start=speaker.start,
            units=speaker.returns.count,
            pi0=self.pi0,
            j=j,
            gap=speaker.gap(self.dataset, self.share),
            stability=_difference(lowest, prior),
            plasticity=Band(*(np.maximum(end, 0.0) for end in _difference(highest, lowest))),
        )

    def to_dict(self) -> dict[str, Any]:
        """Give what changes from step to step, as plain data."""
        return {
            "step": self.step,
            "open": [_plain(w) for w in self.open],
            "lowest": None if np.isinf(self.lowest.mid) else [float(x) for x in self.lowest],
            "highest": None if np.isinf(self.highest.mid) else [float(x) for x in self.highest],
        }

    def go_on(self, plain: Mapping[str, Any]) -> Watch:
        """Continue where `to_dict` was taken."""
        return replace(
            self,
            step=int(plain["step"]),
            open=tuple(_window(w) for w in plain["open"]),
            lowest=_NONE_BELOW if plain["lowest"] is None else Band(*plain["lowest"]),
            highest=_NONE_ABOVE if plain["highest"] is None else Band(*plain["highest"]),
        )


def begin(
    *, steps: int, window: int, alpha: float, pi0: ArrayLike, dataset: float | None = None
) -> Watch:
    """Begin to watch a run, before its first step.

    Args:
        steps: How many the run is planned to take.
        window: Steps that speak for the policy.
        alpha: Chance that anything the watch says is ever wrong.
        pi0: Mean return of pi_0 on each unit in [0, 1], in the order of drawing [..., n]; it may
            have been decided on the way when to stop.
        dataset: J(D) on the same scale; None where it is not known.

    Raises:
        ValueError: naming the argument, what was wanted and what came.
    """
    known = np.asarray(pi0, dtype=np.float64)
    for name, value in (("steps", steps), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha!r}")
    if not known.shape[-1] or not ((known >= 0) & (known <= 1)).all():
        raise ValueError("pi0 must hold returns in [0, 1], one a unit and at least one")
    end = alpha / 6
    return Watch(
        window=window,
        share=end / windows(steps, window),
        pi0=Tally().add(known).band(end),
        dataset=float("nan") if dataset is None else dataset,
        lowest=_NONE_BELOW,
        highest=_NONE_ABOVE,
    )


def windows(steps: int, window: int) -> int:
    """How many windows open in so many steps."""
    return -(-steps // _stride(window))


def _stride(window: int) -> int:
    """Steps from one opening to the next: half a window, so that an old one is always open."""
    return -(-window // 2)


def _extreme(least_or_most: np.ufunc, *bands: Band) -> Band:
    """The band of the smallest or largest of several means, given a band for each."""
    return Band(*(reduce(least_or_most, ends) for ends in zip(*bands, strict=True)))


def _difference(one: Band, other: Band) -> Band:
    return Band(one.low - other.high, one.mid - other.mid, one.high - other.low)


def _plain(window: Window) -> dict[str, Any]:
    tallies = {
        name: {"count": t.count, "total": float(t.total), "spread": float(t.spread)}
        for name, t in (("returns", window.returns), ("gaps", window.gaps))
    }
    return {"start": window.start, **tallies}


def _window(plain: Mapping[str, Any]) -> Window:
    return Window(
        start=plain["start"],
        returns=Tally(**plain["returns"]),
        gaps=Tally(**plain["gaps"]),
    )


_NONE_BELOW = Band(np.inf, np.inf, np.inf)
_NONE_ABOVE = Band(-np.inf, -np.inf, -np.inf)
