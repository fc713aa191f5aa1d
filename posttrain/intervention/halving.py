"""Who goes on in a race of arms? Successive halving with rounds of equal length.

Every arm runs a round; the better 1/eta go on, the rest is dropped, until one is left
(K. Jamieson and A. Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", arXiv 1502.07943). An arm that starts slowly may be dropped early: the more so the
shorter a round is.
"""

from __future__ import annotations

from collections.abc import Mapping


def rounds(arms: int, eta: int) -> tuple[int, ...]:
    """How many arms run in each round, down to the round that leaves one.

    >>> rounds(6, 2), rounds(9, 3)
    ((6, 3, 2), (9, 3))

    Raises:
        ValueError: fewer than two arms, or eta below 2.
    """
    if arms < 2:
        raise ValueError(f"a race needs at least two arms, got {arms}")
    if eta < 2:
        raise ValueError(f"eta must be >= 2, got {eta!r}")
    found = []
    while arms > 1:
        found.append(arms)
        arms = left(arms, eta)
    return tuple(found)


def left(arms: int, eta: int) -> int:
    """How many of so many arms a round leaves: 1/eta of them, rounded up.

    >>> left(3, 2), left(2, 2), left(7, 3)
    (2, 1, 3)
    """
    return -(-arms // eta)


def survivors(means: Mapping[str, float], eta: int) -> tuple[str, ...]:
    """The arms that go on, best first; of equal ones those that stand first.

    >>> survivors({"a": 0.2, "b": 0.5, "c": 0.5}, 2)
    ('b', 'c')
    """
    ranked = sorted(means, key=lambda name: -means[name])
    return tuple(ranked[: left(len(means), eta)])


def legs(arms: int, eta: int, seeds: int) -> int:
    """How many rounds are run in all, by all arms and seeds: what the race costs.

    >>> legs(6, 2, 2)
    22
    """
    return seeds * sum(rounds(arms, eta))
