"""Can RL find success alone? What repeated samples of pi_0 say about its reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from posttrain.regime.verdict import Recoverability

if TYPE_CHECKING:
    from posttrain.regime.sample import Floats
    from posttrain.regime.scores import Scores

GROUP = 8
Ints: TypeAlias = NDArray[np.int64]


def recoverability(policy: Scores, *, scale: tuple[float, float]) -> Recoverability | None:
    """Count successes by unit.

    Success is the column `success`, or else the highest return of the scale. Episodes that could
    not be scored are failures.

    Returns:
        None without units, or when returns are continuous and nothing says what a success is.
    """
    success = _successes(policy, scale)
    if success is None or policy.unit is None or len(policy) == 0:
        return None
    _, index, sizes = np.unique(policy.unit, return_inverse=True, return_counts=True)
    hits = np.bincount(index, weights=success).astype(np.int64)
    sizes = sizes.astype(np.int64)
    k = int(sizes.min())
    doubling = 2 ** np.arange(int(np.log2(k)) + 1)
    return Recoverability(
        k=k,
        pass_at={
            int(j): float(np.mean(1 - _all_from(sizes - hits, sizes, int(j)))) for j in doubling
        },
        no_success=float(np.mean(hits == 0)),
        sometimes=float(np.mean((hits > 0) & (hits < sizes))),
        always=float(np.mean(hits == sizes)),
        no_signal=_no_signal(hits, sizes),
    )


def _successes(policy: Scores, scale: tuple[float, float]) -> NDArray[np.bool_] | None:
    if policy.success is not None:
        return np.asarray(policy.success, dtype=bool)
    known = policy.scorable.returns
    if np.unique(known).size == known.size > 1:
        return None
    return np.nan_to_num(policy.returns, nan=-np.inf) >= scale[1]


def _no_signal(hits: Ints, sizes: Ints) -> float | None:
    if sizes.min() < GROUP:
        return None
    alike = _all_from(hits, sizes, GROUP) + _all_from(sizes - hits, sizes, GROUP)
    return float(np.mean(alike))


def _all_from(kind: Ints, sizes: Ints, draws: int) -> Floats:
    """P(all of `draws` without replacement are of this kind): unbiased for p^draws."""
    possible = kind >= draws
    some = np.where(possible, kind, draws)
    logs = (
        gammaln(some + 1)
        - gammaln(some - draws + 1)
        - gammaln(sizes + 1)
        + gammaln(sizes - draws + 1)
    )
    return np.asarray(np.where(possible, np.exp(logs), 0.0), dtype=np.float64)
