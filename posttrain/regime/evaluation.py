"""What did a policy return, evaluation by evaluation, and where does the noise come from?

Evaluation n measures θ_n as m_n = θ_n + z_n, and z = F g with standard normal g: a column of F is
one source of noise (an episode's, or a unit's that several evaluations share), so what evaluations
have in common cancels in every difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Measured means and where their noise comes from."""

    means: Floats
    """m `[n]`."""
    factor: Floats
    """F `[n, q]`; the noise of the means has covariance F Fᵀ."""
    freedom: float
    """Degrees of freedom of the estimated noise."""

    def draw(self, rng: np.random.Generator, size: int) -> Floats:
        """Draw noise `[size, n]`."""
        return rng.standard_normal((size, self.factor.shape[1])) @ self.factor.T

    def draw_heavy(self, rng: np.random.Generator, size: int) -> Floats:
        """Draw noise `[size, n]` with the tails that estimated variances give: multivariate t."""
        noise = self.draw(rng, size)
        if np.isfinite(self.freedom):
            noise *= np.sqrt(self.freedom / rng.chisquare(self.freedom, size=(size, 1)))
        return noise

    def quantile(self, probability: float) -> float:
        """Quantile of one difference over its standard error."""
        if np.isfinite(self.freedom):
            return float(stdtrit(self.freedom, probability))
        return float(ndtri(probability))

    def join(self, mean: float, error: float) -> Evaluations:
        """Add one more mean with noise of its own, at the end."""
        n, q = self.factor.shape
        factor = np.zeros((n + 1, q + 1))
        factor[:n, :q], factor[n, q] = self.factor, error
        return Evaluations(np.append(self.means, mean), factor, self.freedom)


def from_errors(means: ArrayLike, errors: ArrayLike) -> Evaluations:
    """Take independent evaluations by mean `[n]` and standard error `[n]`."""
    return Evaluations(
        np.asarray(means, dtype=np.float64), np.diag(np.asarray(errors, dtype=np.float64)), np.inf
    )


def from_episodes(
    episodes: Sequence[Floats], units: Sequence[Sequence[object]] | None
) -> Evaluations | None:
    """Estimate means and noise from the returns of each evaluation.

    Args:
        episodes: Returns of each evaluation, ragged.
        units: The unit of every episode, same shape; None makes every episode its own unit.

    Returns:
        None when no evaluation shows any variance: then the noise cannot be known.
    """
    means = np.array([returns.mean() for returns in episodes])
    if all(np.ptp(returns) == 0 for returns in episodes):
        return None
    if units is None:
        counts = np.array([returns.size for returns in episodes])
        variances = np.array([returns.var(ddof=1) for returns in episodes]) / counts
        return _top_up(means, np.diag(np.sqrt(variances)), float(2 * (counts.min() - 1)))
    names = {unit: i for i, unit in enumerate(dict.fromkeys(u for row in units for u in row))}
    factor = np.zeros((len(means), len(names)))
    fewest = len(names)
    for n, (returns, row) in enumerate(zip(episodes, units, strict=True)):
        columns = np.array([names[unit] for unit in row])
        np.add.at(factor[n], columns, (returns - means[n]) / returns.size)
        groups = np.unique(columns).size
        factor[n] *= np.sqrt(groups / (groups - 1))
        fewest = min(fewest, groups)
    return _top_up(means, factor, float(fewest - 1))


def _top_up(means: Floats, factor: Floats, freedom: float) -> Evaluations:
    """Give every evaluation at least the average noise of its own.

    No success in 20 episodes shows no variance, and is no proof that there is none: an evaluation
    that counted as surer than the others would pass for a fall.
    """
    own = ((factor - factor.mean(axis=0)) ** 2).sum(axis=1)
    typical = own.sum() / max(len(means) - 1, 1)
    extra = np.diag(np.sqrt(np.maximum(typical - own, 0.0)))
    return Evaluations(means, np.hstack([factor, extra]), freedom)


def read_curve(
    curve: Any, units: Sequence[Sequence[object]] | None, errors: ArrayLike | None
) -> tuple[Floats, Evaluations | None]:
    """Check a curve; return its means `[n]`, and the evaluations where their noise is known.

    Args:
        curve: Means `[n]`, or one array of episode returns an evaluation.
        units: Unit of each episode, shaped like the curve.
        errors: Standard errors of means `[n]`.

    Raises:
        ValueError: Naming the argument and the evaluation.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in curve]
    if not rows:
        raise ValueError("curve must hold at least the evaluation of pi_0, got nothing")
    for n, row in enumerate(rows):
        if row.ndim != rows[0].ndim or row.ndim > 1:
            raise ValueError(
                f"curve must be means, or one array of returns an evaluation; evaluation {n} has "
                f"shape {row.shape}"
            )
        if not np.isfinite(row).all():
            raise ValueError(f"curve must be finite, evaluation {n} is not")
    if rows[0].ndim == 0:
        if units is not None:
            raise ValueError("units need a curve of episode returns, got one of means")
        means = np.array(rows)
        return means, None if errors is None else from_errors(means, _read_errors(errors, means))
    if errors is not None:
        raise ValueError("errors go with a curve of means, got one of episode returns")
    _check_units(rows, units)
    return np.array([row.mean() for row in rows]), from_episodes(rows, units)


def _check_units(rows: Sequence[Floats], units: Sequence[Sequence[object]] | None) -> None:
    if units is not None and len(units) != len(rows):
        raise ValueError(f"units must name those of {len(rows)} evaluations, got {len(units)}")
    for n, row in enumerate(rows):
        names = range(row.size) if units is None else units[n]
        if len(names) != row.size:
            raise ValueError(
                f"units of evaluation {n} must name one for each of its {row.size} episodes, "
                f"got {len(names)}"
            )
        if len(set(names)) < 2:
            raise ValueError(f"evaluation {n} must have 2 units or more, got {len(set(names))}")


def _read_errors(errors: ArrayLike, means: Floats) -> Floats:
    found = np.asarray(errors, dtype=np.float64)
    if found.shape != means.shape or not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError(f"errors must be {means.size} finite numbers >= 0, got {found.tolist()}")
    return found
