"""How is a set of runs summed up, and how sure is the sum?

Means with clustered errors, interquartile means, probabilities of improvement, pass@k; intervals by
formula or by a bootstrap whose random generator is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

from posttrain.regime.verdict import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = NDArray[np.float64]
CHUNK = 2**21
"""Numbers drawn at a time by a bootstrap: 16 MiB."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, its standard error and its interval; NaN where they cannot be known."""

    mean: float
    error: float
    low: float
    high: float
    units: int
    """Independent units it rests on."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of the data and its bootstrap interval."""

    point: float
    low: float
    high: float


class Statistic(Protocol):
    """What sums up scores along axes: `numpy.mean`, `numpy.median`, `iqm`."""

    def __call__(self, values: Floats, /, *, axis: tuple[int, ...]) -> Any:
        """Reduce `axis` of `values`."""
        ...


def clustered_mean(
    values: ArrayLike,
    unit: ArrayLike | None = None,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Mean:
    """Average episodes, with an error that knows which of them share a unit.

    The error is sqrt(G/(G-1) Σ_g (Σ_{i in g} (y_i - mean))²) / n over the G units (Liang and Zeger,
    Biometrika 73, 1986), the interval a t interval with G - 1 degrees of freedom. With one episode
    a unit it is the ordinary t interval; with equally many a unit, that of the unit means.

    Args:
        values: Returns `[n]`, finite.
        unit: Unit of each, `[n]`; None makes each episode its own.
        level: Probability that the interval covers the mean.
        bounds: Lowest and highest possible value. Units without any spread show an error of 0
            whatever the truth is; with bounds the interval then has the exact width of one that
            saw `units` equal outcomes.

    Returns:
        The mean; error and interval are NaN for a single unit.

    Raises:
        ValueError: For no values, one that is not finite, or another number of units.

    >>> clustered_mean([0.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"]).error
    0.25
    """
    returns = _finite("values", values, 1)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}")
    codes = _codes(unit, returns.size)
    groups = int(codes.max()) + 1
    mean = float(returns.mean())
    if groups == 1:
        return Mean(mean, np.nan, np.nan, np.nan, 1)
    sums = np.bincount(codes, weights=returns - mean, minlength=groups)
    error = float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / returns.size)
    half = float(stdtrit(groups - 1, (1 + level) / 2)) * error
    if np.ptp(returns) == 0 and bounds is not None:
        surprise = 1 - ((1 - level) / 2) ** (1 / groups)
        low, high = (mean + surprise * (end - mean) for end in bounds)
        return Mean(mean, error, low, high, groups)
    return Mean(mean, error, mean - half, mean + half, groups)


def iqm(values: ArrayLike, *, axis: int | tuple[int, ...] | None = None) -> Any:
    """Average the middle half: the interquartile mean of Agarwal et al. (NeurIPS 2021).

    The floor(n/4) lowest and as many highest are left out.

    Args:
        values: Finite numbers.
        axis: What is averaged over; None is everything.

    >>> iqm([0.0, 1.0, 3.0, 100.0]).item()
    2.0
    """
    array = _finite("values", values)
    axes = tuple(range(array.ndim)) if axis is None else axis
    axes = (axes,) if isinstance(axes, int) else axes
    tail = tuple(range(-len(axes), 0))
    moved = np.moveaxis(array, axes, tail)
    flat = moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)
    cut = flat.shape[-1] // 4
    return np.sort(flat, axis=-1)[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Estimate:
    """Resample runs within each task, and take percentiles of the statistic.

    Args:
        scores: Final scores `[runs, tasks]`, finite.
        statistic: Reduces the axes (-2, -1).
        rng: Source of the resamples.
        resamples: How many.
        level: Probability that the interval covers the statistic's true value.

    Raises:
        ValueError: For fewer than 2 runs, whose spread cannot be known.
    """
    table = _finite("scores", scores, 2)
    runs, tasks = table.shape
    if runs < 2:
        raise ValueError(f"scores must have at least 2 runs [runs, tasks], got {runs}")
    found = [
        statistic(
            table[rng.integers(runs, size=(size, runs, tasks)), np.arange(tasks)], axis=(-2, -1)
        )
        for size in _chunks(resamples, table.size)
    ]
    return _percentiles(float(statistic(table, axis=(-2, -1))), found, level)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Average over tasks the probability that a run of `x` beats a run of `y`; ties count half.

    Args:
        x: Scores `[n, tasks]`, finite.
        y: Scores `[m, tasks]`, finite.

    >>> probability_of_improvement([[1.0], [3.0]], [[2.0], [1.0]])
    0.625
    """
    return float(np.mean([wins.mean() for wins in _wins(x, y)]))


def bootstrap_improvement(
    x: ArrayLike,
    y: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 2_000,
    level: float = 0.95,
) -> Estimate:
    """Give the probability of improvement an interval, resampling runs within each task.

    Args:
        x: Scores `[n, tasks]`, finite.
        y: Scores `[m, tasks]`, finite.
        rng: Source of the resamples.
        resamples: How many.
        level: Probability that the interval covers.

    Raises:
        ValueError: For fewer than 2 runs on a side.
    """
    wins = _wins(x, y)
    n, m = wins[0].shape
    if min(n, m) < 2:
        raise ValueError(f"x and y must have at least 2 runs each, got {n} and {m}")
    found = []
    for size in _chunks(resamples, n + m):
        total = np.zeros(size)
        for table in wins:
            a = rng.multinomial(n, np.full(n, 1 / n), size=size)
            b = rng.multinomial(m, np.full(m, 1 / m), size=size)
            total += ((a @ table) * b).sum(axis=1) / (n * m)
        found.append(total / len(wins))
    return _percentiles(float(np.mean([table.mean() for table in wins])), found, level)


def pass_at_k(samples: ArrayLike, successes: ArrayLike, k: int) -> Floats:
    """Estimate for each unit the probability that at least one of k samples succeeds, unbiased.

    1 - C(n - c, k) / C(n, k) with c successes among n samples (Chen et al., 2021), as a product.

    Args:
        samples: n of each unit, whole numbers.
        successes: c of each unit, whole numbers from 0 to n.
        k: How many tries, at least 1.

    Returns:
        One probability a unit; NaN where there are fewer than k samples.

    >>> pass_at_k([4, 4, 2], [2, 0, 1], 3).tolist()
    [1.0, 0.0, nan]
    """
    n, c = (_whole(name, given) for name, given in (("samples", samples), ("successes", successes)))
    n, c = np.broadcast_arrays(n, c)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k must be a whole number >= 1, got {k!r}")
    if (c > n).any():
        i = int((c > n).argmax())
        raise ValueError(f"successes must not exceed samples, got {c.flat[i]} of {n.flat[i]}")
    log_none = np.zeros(n.shape)
    open_to_chance = (n - c >= k) & (c > 0)
    for j in range(int(k) if open_to_chance.any() else 0):
        log_none += np.log1p(-np.where(open_to_chance, c / np.maximum(n - j, 1), 0.0))
    some = np.where(n - c < k, 1.0, -np.expm1(log_none))
    return np.where(n < k, np.nan, np.abs(some))


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Bound a probability from both sides, each with error (1 - level)/2, by the exact binomial.

    >>> [round(end, 3) for end in clopper_pearson(0, 20)]
    [0.0, 0.168]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be from 0 to trials, got {successes} of {trials}")
    tail, failures = (1 - level) / 2, trials - successes
    low = betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return Interval(float(low), float(high))


def _finite(name: str, values: ArrayLike, dimensions: int | None = None) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if dimensions is not None and array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimensions, got shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must not be empty")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _whole(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or (array < 0).any():
        raise ValueError(f"{name} must be whole numbers >= 0, got {values!r}")
    return array.astype(np.int64)


def _codes(unit: ArrayLike | None, size: int) -> NDArray[np.int64]:
    """Number the units from 0."""
    if unit is None:
        return np.arange(size)
    names = np.asarray(unit)
    if names.shape != (size,):
        raise ValueError(f"unit must name one for each of {size} values, got shape {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _wins(x: ArrayLike, y: ArrayLike) -> list[Floats]:
    """Compare all pairs of runs, one `[n, m]` table a task: 1 for x ahead, ½ for a tie."""
    a, b = _finite("x", x, 2), _finite("y", y, 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x and y must have the same tasks, got {a.shape[1]} and {b.shape[1]}")
    return [
        0.5 * ((left[:, None] > right).astype(float) + (left[:, None] >= right))
        for left, right in zip(a.T, b.T, strict=True)
    ]


def _chunks(resamples: int, size: int) -> Iterator[int]:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    step = max(1, CHUNK // size)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _percentiles(point: float, found: list[Any], level: float) -> Estimate:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}")
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(point, float(low), float(high))
