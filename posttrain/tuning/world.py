"""The processes of a run, as accelerate started them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from posttrain.tuning.sharding import refuse_sharded_weights

T = TypeVar("T")


class WorldError(ValueError):
    """Fewer processes than were asked for."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among `size`."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process' contiguous part of `items`; parts differ by one item at most."""
        low, high = (len(items) * r // self.size for r in (self.rank, self.rank + 1))
        return list(items[low:high])

    def gather(self, items: list[T]) -> list[T]:
        """Everybody's items, in the order of the ranks. Every process must call."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(items)
        return gathered

    def wait(self) -> None:
        """Wait for all."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def broadcast(self, value: T) -> T:
        """The main process' value, everywhere."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]


def current() -> World:
    """Join the processes that accelerate launched.

    Raises:
        WorldError: the launcher asked for more processes than there are.
        ShardingError: the launcher asked for weights in parts.
    """
    import torch
    from accelerate import PartialState

    refuse_sharded_weights(os.environ)

    asked_for_several = "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ
    if asked_for_several and "WORLD_SIZE" not in os.environ:
        raise WorldError(
            "accelerate was asked for several CPU processes and started one, as it does for "
            "MULTI_CPU and --cpu without MPI; launch with recipes/accelerate/cpu_2.yaml"
        )
    state = PartialState(cpu=not torch.accelerator.is_available())
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != wanted:
        raise WorldError(f"{wanted} processes were launched, but {state.num_processes} take part")
    return World(state.process_index, state.num_processes)
