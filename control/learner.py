"""What every algorithm offers: one update of M members on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from control.agent import Agent
from control.networks import Actor, Policy
from control.stepper import Stepper
from control.storage import Batch
from control.streams import Active, Streams

Metrics: TypeAlias = Mapping[str, Tensor]
"""Name to a value a member, `[M]`, still on the device."""

Extra: TypeAlias = Callable[[Actor, Policy, Batch], Tensor]
"""What a plan adds to the policy's loss: `(actor, policy on the batch, batch)` to `[M]`."""


class Learner(Protocol):
    """An algorithm at work on M members."""

    agent: Agent
    streams: Streams
    """Noise of the updates; a checkpoint keeps its state."""

    @property
    def steppers(self) -> Sequence[Stepper]:
        """All of them: what a reset forgets and a checkpoint keeps."""
        ...

    def update(
        self,
        batch: Batch,
        *,
        critic: Active,
        actor: Active | None = None,
        rows: Batch | None = None,
        extra: Extra | None = None,
    ) -> Metrics:
        """Train the critic on `batch`, then, unless `actor` is None, the policy.

        Members that do not move draw no noise either (`Streams.only`), and their targets stay:
        what happens to a member never depends on the others.

        Args:
            batch: for the critic; for the policy too unless `rows` is given.
            critic: members whose critic moves, and whose targets follow.
            actor: members whose policy moves. None where it is not the policy's turn (its delay);
                all False where it is, but plans hold every policy still.
            rows: for the policy, the rows of all critic updates since its last one.
            extra: the plan's own terms of the policy's loss.
        """
        ...
