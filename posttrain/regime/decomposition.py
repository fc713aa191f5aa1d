"""What did fine-tuning lose of its prior knowledge, what did it learn, and what is only noise?

A curve of evaluations J(pi_0), ..., J(pi_N) is split as in the paper (section 1, equation 4):

    best = prior + stability + plasticity
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.regime import strict
from posttrain.regime.evaluation import Evaluations, read_curve
from posttrain.regime.noise import prior_intervals, range_interval, smooth
from posttrain.regime.verdict import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """best = prior + stability + plasticity, of one curve."""

    prior: float
    """J*_off = max(J(pi_0), J(D))."""
    stability: float
    """min_n J(pi_n) - prior: at most 0."""
    plasticity: float
    """max_n J(pi_n) - min_n J(pi_n): at least 0."""
    plasticity_over_prior: float
    """max(0, max_n J(pi_n) - prior): what a user gains."""
    best: float
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What the same evaluations of a policy that stays pi_0 would show: on average, and in 95%."""

    plasticity: float
    plasticity_high: float
    stability: float
    """How far it would seem to fall: at most 0."""
    stability_low: float
    max_drop: float
    max_drop_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """The parts of the curve behind the noise, and intervals that hold whatever that curve is."""

    parts: Parts
    level: float
    stability: Interval
    plasticity: Interval
    plasticity_over_prior: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """A curve of evaluations in numbers: as measured, and behind its noise."""

    evaluations: int
    prior: float
    """J*_off as measured."""
    prior_source: Literal["policy", "dataset"]
    stability: float
    """As the paper defines it, on the measured curve: noise makes it fall."""
    plasticity: float
    """As the paper defines it (equation 4), on the measured curve: noise makes it grow."""
    plasticity_over_prior: float
    first: float
    final: float
    best: float
    worst: float
    max_drop: float
    """Largest fall from an evaluation to a later one."""
    tolerance: float
    """How far under the prior counts as having fallen."""
    fell_at: float | None
    """Step at which the curve is first under prior - tolerance; None when it never is."""
    recovery_time: float | None
    """Steps from there until it is back at the prior - tolerance; None when it never fell or never
    came back."""
    time_below_prior: float
    """Steps spent under prior - tolerance, each evaluation standing until the next."""
    noise_floor: float | None
    """`floor.plasticity`; None where the noise is not known."""
    floor: Floor | None
    corrected: Corrected | None

    def to_dict(self) -> dict[str, Any]:
        """Give plain data whose keys are the field names."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Decomposition:
        """Read what `to_dict` gave.

        Raises:
            ValueError: For an unknown or missing key or a wrong type, by its path.
        """
        found: Decomposition = strict.read(cls, plain, "decomposition")
        return found


def decompose(
    curve: Sequence[ArrayLike] | ArrayLike,
    *,
    rng: np.random.Generator,
    prior_dataset: float | ArrayLike | None = None,
    units: Sequence[Sequence[object]] | None = None,
    errors: ArrayLike | None = None,
    steps: ArrayLike | None = None,
    tolerance: float | None = None,
    level: float = 0.95,
    resamples: int = 2_000,
) -> Decomposition:
    """Split a curve into prior, stability and plasticity, and tell them from noise.

    Args:
        curve: The evaluations of pi_0, ..., pi_N, the first before any update: each an array of
            episode returns (of any length from 2), or all as means `[N + 1]`.
        rng: Source of the draws that the noise floor and the intervals rest on.
        prior_dataset: J(D): a number taken as exact, or the returns of the dataset's episodes. None
            makes J(pi_0) the whole prior.
        units: Unit of each episode, shaped like `curve`. Noise that evaluations share because they
            reuse units (held-out prompts) then cancels.
        errors: Standard errors of the means `[N + 1]`, for a curve of means; None leaves the noise
            unknown.
        steps: Training steps of the evaluations, increasing; None counts evaluations.
        tolerance: How far under the prior counts as having fallen. None takes what 95 % of policies
            that never change would stay within, or 0 where the noise is unknown.
        level: Probability that an interval covers.
        resamples: Draws of the noise.

    Raises:
        ValueError: Naming the argument, what was wanted and what came.

    >>> found = decompose([0.5, 0.2, 0.9], prior_dataset=0.6, rng=np.random.default_rng(0))
    >>> round(found.stability, 3), round(found.plasticity, 3), found.noise_floor
    (-0.4, 0.7, None)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}")
    means, evaluations = read_curve(curve, units, errors)
    times = _read_steps(steps, len(means))
    dataset, dataset_error = _read_prior(prior_dataset)
    floor, corrected = None, None
    if evaluations is not None:
        joined = evaluations if dataset is None else evaluations.join(dataset, dataset_error)
        floor = _floor(joined, len(means), joined.draw(rng, resamples))
        heavy = joined.draw_heavy(rng, resamples)
        corrected = _correct(evaluations, joined, heavy, level)
    if tolerance is None:
        tolerance = 0.0 if floor is None else -floor.stability_low
    elif not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be a finite number >= 0, got {tolerance!r}")
    parts = split(means, dataset)
    below = means - parts.prior < -tolerance
    fell_at, recovery_time = _fall(below, times)
    return Decomposition(
        **asdict(parts),
        evaluations=len(means),
        prior_source="policy" if parts.prior == means[0] else "dataset",
        first=float(means[0]),
        final=float(means[-1]),
        max_drop=float(_drops(means).max()),
        tolerance=tolerance,
        fell_at=fell_at,
        recovery_time=recovery_time,
        time_below_prior=float(np.diff(times, append=times[-1])[below].sum()),
        noise_floor=None if floor is None else floor.plasticity,
        floor=floor,
        corrected=corrected,
    )


def split(means: Floats, dataset: float | None) -> Parts:
    """Split a curve `[n]` that is taken as exact; `dataset` is J(D) if there is one."""
    first, best, worst = (float(value) for value in (means[0], means.max(), means.min()))
    prior = first if dataset is None else max(first, dataset)
    return Parts(
        prior=prior,
        stability=worst - prior,
        plasticity=best - worst,
        plasticity_over_prior=max(0.0, best - prior),
        best=best,
        worst=worst,
    )


def _floor(joined: Evaluations, n: int, noise: Floats) -> Floor:
    """Lay the noise on a curve that stays at J(pi_0), and split that."""
    start = float(joined.means[0])
    seen = start + noise[:, :n]
    plasticity = np.ptp(seen, axis=1)
    others = joined.means[n:] + noise[:, n:]
    prior = np.max(np.column_stack([seen[:, 0], others]), axis=1)
    truth = start - max(start, *joined.means[n:]) if len(joined.means) > n else 0.0
    stability = np.minimum(seen.min(axis=1) - prior - truth, 0.0)
    drop = _drops(seen).max(axis=1)
    return Floor(
        plasticity=float(plasticity.mean()),
        plasticity_high=float(np.quantile(plasticity, 0.95)),
        stability=float(stability.mean()),
        stability_low=float(np.quantile(stability, 0.05)),
        max_drop=float(drop.mean()),
        max_drop_high=float(np.quantile(drop, 0.95)),
    )


def _correct(
    evaluations: Evaluations, joined: Evaluations, noise: Floats, level: float
) -> Corrected:
    n, tail = len(evaluations.means), (1 - level) / 2
    dataset = float(joined.means[n]) if len(joined.means) > n else None
    stability, gain = prior_intervals(joined, noise, n=n, tail=tail)
    intervals = {
        "stability": stability,
        "plasticity": range_interval(evaluations, noise[:, :n], tail=tail),
        "plasticity_over_prior": Interval(max(gain.low, 0.0), max(gain.high, 0.0)),
    }
    return Corrected(
        parts=_inside(smooth(evaluations), evaluations.means, dataset, intervals),
        level=level,
        **intervals,
    )


def _inside(
    smoothed: Floats, measured: Floats, dataset: float | None, intervals: Mapping[str, Interval]
) -> Parts:
    """Split the smoothed curve, or its nearest blend with the measured one that intervals allow.

    Smoothing takes a single outlier for noise, also where it is too far out for that. What was
    measured always lies within.
    """
    for share in np.linspace(0.0, 1.0, 51):
        parts = split(smoothed + share * (measured - smoothed), dataset)
        if all(low <= getattr(parts, name) <= high for name, (low, high) in intervals.items()):
            return parts
    return split(measured, dataset)


def _drops(curves: Floats) -> Floats:
    """Fall of each evaluation from the best before it `[..., n]`."""
    return np.maximum.accumulate(curves, axis=-1) - curves


def _fall(below: NDArray[np.bool_], times: Floats) -> tuple[float | None, float | None]:
    """Find when a curve fell and how long it took to come back."""
    if not below.any():
        return None, None
    fell = int(below.argmax())
    if below[fell:].all():
        return float(times[fell]), None
    back = fell + int((~below[fell:]).argmax())
    return float(times[fell]), float(times[back] - times[fell])


def _read_steps(steps: ArrayLike | None, n: int) -> Floats:
    times = np.arange(n) if steps is None else np.asarray(steps)
    if times.shape != (n,) or (np.diff(times) <= 0).any():
        raise ValueError(f"steps must be {n} increasing numbers, got {times.tolist()}")
    return times.astype(np.float64)


def _read_prior(dataset: float | ArrayLike | None) -> tuple[float | None, float]:
    """Read J(D) and its standard error."""
    if dataset is None:
        return None, 0.0
    returns = np.asarray(dataset, dtype=np.float64)
    if returns.ndim > 1 or not returns.size or not np.isfinite(returns).all():
        raise ValueError(f"prior_dataset must be a number or finite returns, got {dataset!r}")
    error = returns.std(ddof=1) / np.sqrt(returns.size) if returns.size > 1 else 0.0
    return float(returns.mean()), float(error)
