"""What is compared? Returns of two sides as means by unit, on a scale where the range is 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.regime.scores import Scores

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """One side: a mean return for each independent unit, on the scale where its range is [0, 1]."""

    values: Floats
    """[n], one a unit."""
    units: NDArray[Any] | None
    """[n] sorted names of the units; None when they have none, and every episode is a unit."""
    sizes: NDArray[np.int64]
    """[n] episodes of each unit."""
    tied: bool
    """Whether two episodes returned the same: the mark of a discrete return."""

    @property
    def episodes(self) -> int:
        """Episodes of all units together."""
        return int(self.sizes.sum())

    def of(self, units: NDArray[Any]) -> Sample:
        """The same side, only these units (sorted, all present)."""
        if self.units is None:
            raise ValueError("a sample without unit names has no units to choose")
        keep = np.searchsorted(self.units, units)
        return Sample(self.values[keep], units, self.sizes[keep], self.tied)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Both sides, ready for a test."""

    policy: Sample
    dataset: Sample
    paired: bool
    """Whether the i-th units of both sides are the same unit."""
    left_out: int
    """Units that only one side has, and that a paired test leaves out."""


def sample(
    returns: Scores | ArrayLike,
    *,
    side: str,
    scale: tuple[float, float] | None,
    least: int = 2,
    bounded: bool = True,
) -> Sample:
    """Average one side's scorable returns by unit.

    Args:
        returns: Scores, or an array [n] of returns, each of which is then a unit of its own.
        side: "policy" or "dataset", for the sentences of errors.
        scale: Lowest and highest possible return; None stands for (0, 1).
        least: How many units are needed.
        bounded: Whether the scale bounds the returns, or is only their unit.

    Raises:
        ValueError: For no returns, too few units, NaN, infinite values, or values outside
            the scale that bounds them.
    """
    units: NDArray[Any] | None = None
    if isinstance(returns, Scores):
        _right_source(returns, side)
        known = returns.scorable
        values, units = np.asarray(known.returns, dtype=np.float64), known.unit
        if len(known) == 0 and len(returns) > 0:
            raise ValueError(f"{side}: none of the {len(returns)} episodes could be scored")
    else:
        values = np.asarray(returns, dtype=np.float64)
    scaled = _on_unit_scale(values, side, scale, bounded=bounded)
    tied = np.unique(scaled).size < scaled.size
    sizes = np.ones(scaled.size, dtype=np.int64)
    if units is not None:
        units, index, sizes = np.unique(units, return_inverse=True, return_counts=True)
        scaled = np.bincount(index, weights=scaled) / sizes
    if scaled.size < least:
        raise ValueError(
            f"{side}: a diagnosis needs at least {least} independent units, got {scaled.size} "
            f"({sizes.sum()} episodes)"
        )
    return Sample(np.clip(scaled, 0.0, 1.0) if bounded else scaled, units, sizes, tied)


def pair(policy: Sample, dataset: Sample) -> Pairing:
    """Match both sides by unit, where at least half of the smaller side's units match.

    Fewer shared units than that would throw away most of the evidence: then all units of both
    sides are used, as independent samples.
    """
    if policy.units is None or dataset.units is None:
        return Pairing(policy, dataset, paired=False, left_out=0)
    shared = np.intersect1d(policy.units, dataset.units, assume_unique=True)
    smaller = min(policy.units.size, dataset.units.size)
    if shared.size < 2 or 2 * shared.size < smaller:
        return Pairing(policy, dataset, paired=False, left_out=0)
    left_out = policy.units.size + dataset.units.size - 2 * shared.size
    return Pairing(policy.of(shared), dataset.of(shared), paired=True, left_out=int(left_out))


def check_scale(scale: tuple[float, float] | None) -> tuple[float, float]:
    """Refuse a scale that is no range; None is (0, 1)."""
    low, high = (0.0, 1.0) if scale is None else (float(scale[0]), float(scale[1]))
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"scale must be (low, high) with finite low < high, got {scale!r}")
    return low, high


def _right_source(scores: Scores, side: str) -> None:
    if scores.source is None:
        return
    wrong = np.flatnonzero(np.asarray(scores.source) != side)
    if wrong.size:
        raise ValueError(
            f"{side}: {wrong.size} of {len(scores)} episodes have the source "
            f"{str(scores.source[wrong[0]])!r}; take scores.where(source={side!r}), or check "
            "that the two sides are not swapped"
        )


def _on_unit_scale(
    values: Floats, side: str, scale: tuple[float, float] | None, *, bounded: bool
) -> Floats:
    low, high = check_scale(scale)
    if values.ndim != 1:
        raise ValueError(f"{side}: returns must be a flat array [n], got shape {values.shape}")
    if values.size == 0:
        raise ValueError(f"{side}: there are no returns")
    odd = np.flatnonzero(~np.isfinite(values))
    if odd.size:
        raise ValueError(
            f"{side}: return {odd[0] + 1} of {values.size} is {values[odd[0]]}; every scored "
            "return must be a finite number (mark episodes without a score as unscorable)"
        )
    outside = np.flatnonzero((values < low) | (values > high))
    if bounded and outside.size:
        hint = (
            "state the reward's range as scale=(low, high)"
            if scale is None
            else "widen the scale: it holds the lowest and the highest return that can occur"
        )
        raise ValueError(
            f"{side}: return {outside[0] + 1} of {values.size} is {values[outside[0]]:g}, outside "
            f"[{low:g}, {high:g}]; {hint}"
        )
    return (values - low) / (high - low)
