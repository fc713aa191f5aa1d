"""How strong must an anchor be, to keep the policy at a chosen distance from its reference?"""

from __future__ import annotations

import math

CLIP = 0.2
"""Largest relative error that is believed; one noisy KL moves the coefficient no further."""


def steer(coefficient: float, kl: float, *, target: float, rate: float) -> float:
    """Give the coefficient of the next step: more where the KL was too large, else less.

        coefficient * (1 + rate * clip(kl / target - 1, -0.2, 0.2))

    The controller of Ziegler et al. (arXiv 1909.08593, section 2.2), whose rate was 0.1: a step
    then changes the coefficient by at most 2 %, and 35 steps can double it.

    >>> round(steer(0.1, 0.5, target=0.01, rate=0.1), 6)
    0.102
    >>> steer(0.1, 0.01, target=0.01, rate=0.1)
    0.1

    Args:
        coefficient: of the step that was taken, above 0.
        kl: measured in that step, in nats a token or action. A sampled KL may be below 0.
        target: what it should be, in the same unit, above 0.
        rate: of the controller, in (0, 1).

    Raises:
        ValueError: a coefficient or target that is not above 0, or a KL that is not a number.
    """
    if not coefficient > 0 or not target > 0:
        raise ValueError(
            f"coefficient and target must be above 0, got {coefficient!r} and {target!r}"
        )
    if math.isnan(kl):
        raise ValueError("the KL to the reference is not a number, so nothing can follow it")
    error = min(max(kl / target - 1, -CLIP), CLIP)
    return coefficient * (1 + rate * error)
