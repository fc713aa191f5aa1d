"""Tokens drawn from logits by given uniform numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Tokens


def chosen(
    logits: npt.NDArray[np.float32], draws: npt.NDArray[np.float64], temperature: float
) -> Tokens:
    """Tokens drawn by the inverse of their cumulative distribution, in float64.

    Args:
        logits: `[n, size]`.
        draws: uniform numbers in [0, 1), `[n]`; not looked at when greedy.
        temperature: 0 takes the likeliest token.

    >>> import numpy as np
    >>> even = np.zeros((3, 4), dtype=np.float32)
    >>> chosen(even, np.array([0.0, 0.3, 0.99]), 1.0).tolist()
    [0, 1, 3]
    """
    wide = logits.astype(np.float64)
    if temperature == 0:
        return wide.argmax(axis=1).astype(np.int64)
    weights = np.exp((wide - wide.max(axis=1, keepdims=True)) / temperature)
    below = weights.cumsum(axis=1)
    tokens = (below <= draws[:, None] * below[:, -1:]).sum(axis=1)
    return np.minimum(tokens, logits.shape[1] - 1).astype(np.int64)
