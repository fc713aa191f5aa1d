"""What did the rest of an episode pay, seen from each of its rows?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def discounted(
    rewards: Floats, terminals: Bools, ends: Bools, after: Floats, gamma: float
) -> Floats:
    """Accumulate G_t = r_t + γ (1 - terminal_t) G_{t+1} backwards through each episode.

    A plain loop: a million floats take a fraction of a second, and the order of additions is that
    of the published loaders, so the numbers are theirs to the last bit.

    Args:
        rewards: Scaled rewards `[N]`.
        terminals: Rows that nothing follows, `[N]`.
        ends: Last rows of episodes, `[N]`.
        after: What follows the last row of each episode, `[E]`.
        gamma: γ.

    Returns:
        G `[N]`.
    """
    returns = [0.0] * len(rewards)
    values = iter(after.tolist()[::-1])
    following = 0.0
    backwards = zip(
        range(len(rewards) - 1, -1, -1),
        rewards.tolist()[::-1],
        (gamma * ~terminals).tolist()[::-1],
        ends.tolist()[::-1],
        strict=True,
    )
    for row, reward, discount, end in backwards:
        if end:
            following = next(values)
        following = reward + discount * following
        returns[row] = following
    return np.array(returns)
