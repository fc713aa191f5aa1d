"""What may be turned while RL runs: factors on what the plan asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Dials:
    """Read at every use, so that a change holds from the next step on. 1 is the plan itself."""

    replay: float = 1.0
    """On the replay loss' weight and on the shares of a group."""
    anchor: float = 1.0
    """On the anchor's coefficient."""
