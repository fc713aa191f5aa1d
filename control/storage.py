"""Transitions of D and of every member's own experience, and batches drawn from both.

One matrix holds all rows, D's first, and a batch of all members is one gather of whole rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posttrain.intervention.ramp import Ramp, ramp
from posttrain.intervention.replay import draw, drawn_before, mix_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

UNKNOWN = -np.inf
"""Monte-Carlo return of a transition whose episode has not ended: it bounds nothing."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions of M members, normalised and scaled as the learner sees them."""

    observations: Tensor
    """`[M, B, do]`."""
    actions: Tensor
    """`[M, B, A]`, inside [-1, 1]."""
    rewards: Tensor
    """`[M, B]`, scale and bias applied."""
    masks: Tensor
    """`[M, B]`, 0 where the task ended and nothing follows; 1 also where time ran out."""
    returns: Tensor
    """`[M, B]`, discounted Monte-Carlo return-to-go; minus infinity where unknown."""
    next_observations: Tensor
    """`[M, B, do]`."""
    next_actions: Tensor
    """`[M, B, A]`, what was done at the next state; NaN where unknown."""

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows of every member."""
        cut = {name: getattr(self, name)[:, start:stop] for name in self.__slots__}
        return Batch(**cut)


def pack(
    *,
    observations: Tensor,
    actions: Tensor,
    rewards: Tensor,
    masks: Tensor,
    returns: Tensor,
    next_observations: Tensor,
    next_actions: Tensor,
) -> Tensor:
    """Lay transitions out as rows `[n, 2 (do + A) + 3]`."""
    scalars = torch.stack([rewards, masks, returns], dim=-1)
    parts = [observations, actions, scalars, next_observations, next_actions]
    return torch.cat(parts, dim=-1).float()


class Storage:
    """Rows of the dataset, shared by all members, and a ring of rows for each member."""

    def __init__(
        self,
        observation: int,
        action: int,
        *,
        data: Tensor | None = None,
        members: int = 1,
        capacity: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reserve the rows.

        Args:
            observation: width of an observation.
            action: width of an action.
            data: packed rows of D.
            members: runs side by side.
            capacity: rows kept of each member's own experience, the oldest forgotten first.
            device: where the rows live.
        """
        self.observation, self.action = observation, action
        self.width = 2 * (observation + action) + 3
        if data is not None and data.shape[1] != self.width:
            raise ValueError(f"data: wanted rows of {self.width} numbers, got {data.shape[1]}")
        self.data_size = 0 if data is None else len(data)
        self.members, self.capacity = members, capacity
        self.table = torch.empty(self.data_size + members * capacity, self.width, device=device)
        if data is not None:
            self.table[: self.data_size] = data
        self.added = np.zeros(members, dtype=np.int64)
        """Rows that each member has added since the start."""

    def size(self, m: int) -> int:
        """Rows of member m that are still there."""
        return int(min(self.added[m], self.capacity))

    def add(self, members: Sequence[int], rows: Tensor) -> None:
        """Add one packed row for each of some members, `[len(members), width]`."""
        which = np.asarray(members)
        where = self.data_size + which * self.capacity + self.added[which] % self.capacity
        self.table[torch.from_numpy(where)] = rows.to(self.table)
        self.added[which] += 1

    def set_returns(self, m: int, first: int, returns: NDArray[np.float64]) -> None:
        """Write the returns-to-go of member m's rows `first ..`, counted since the start."""
        order = np.arange(first, first + len(returns))
        kept = order >= self.added[m] - self.capacity
        where = self.data_size + m * self.capacity + order[kept] % self.capacity
        column = self.observation + self.action + 2
        self.table[torch.from_numpy(where), column] = torch.from_numpy(returns[kept]).to(self.table)

    def set_next_action(self, members: Sequence[int], actions: Tensor) -> None:
        """Tell the newest row of each member what was done at its next state, `[len, A]`."""
        which = np.asarray(members)
        newest = (self.added[which] - 1) % self.capacity
        where = torch.from_numpy(self.data_size + which * self.capacity + newest)
        self.table[where, -self.action :] = actions.to(self.table)

    def own(self, m: int) -> Tensor:
        """Member m's rows, oldest first."""
        order = np.arange(self.added[m] - self.size(m), self.added[m])
        return self.table[torch.from_numpy(self._place(m, order))]

    def restore(self, m: int, rows: Tensor, added: int) -> None:
        """Put back what `own` gave, after so many rows had been added."""
        order = np.arange(added - len(rows), added)
        self.table[torch.from_numpy(self._place(m, order))] = rows.to(self.table)
        self.added[m] = added

    def gather(self, index: NDArray[np.int64]) -> Batch:
        """Rows of the table `[M, B]` as a batch."""
        members, size = index.shape
        flat = torch.from_numpy(index.reshape(-1)).to(self.table.device)
        rows = self.table.index_select(0, flat).view(members, size, self.width)
        o, a = self.observation, self.action
        return Batch(
            observations=rows[..., :o],
            actions=rows[..., o : o + a],
            rewards=rows[..., o + a],
            masks=rows[..., o + a + 1],
            returns=rows[..., o + a + 2],
            next_observations=rows[..., o + a + 3 : 2 * o + a + 3],
            next_actions=rows[..., 2 * o + a + 3 :],
        )

    def _place(self, m: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.data_size + m * self.capacity + order % max(self.capacity, 1)


@dataclass(frozen=True, slots=True)
class Share:
    """How one member mixes D into its batches, and the streams it draws from."""

    share: float | Ramp
    """Of every batch, exactly up to half a row over the run."""
    seed: int
    """Of D's rows, without replacement inside an epoch."""
    own: np.random.Generator
    """Of the member's own rows, with replacement."""


def indices(
    storage: Storage,
    shares: Sequence[Share],
    *,
    updates: Sequence[int],
    batch: int,
    active: Sequence[bool],
) -> NDArray[np.int64]:
    """Draw the rows of the next critic update of every active member.

    Args:
        storage: where the rows live.
        shares: one a member.
        updates: how many critic updates each member has had.
        batch: rows a member.
        active: members that are to be updated; the others' rows mean nothing.

    Returns:
        Rows of the table, `[M, batch]`.

    Raises:
        ValueError: rows are wanted from a side that has none.
    """
    found = np.zeros((len(shares), batch), dtype=np.int64)
    for m, mix in enumerate(shares):
        if not active[m]:
            continue
        from_data = mix_counts(batch, mix.share, updates[m])
        _require_rows(storage, m, from_data, batch - from_data)
        if from_data:
            start = drawn_before(batch, mix.share, updates[m])
            found[m, :from_data] = draw(start, from_data, size=storage.data_size, seed=mix.seed)
        if from_data < batch:
            own = mix.own.integers(storage.size(m), size=batch - from_data)
            found[m, from_data:] = storage.data_size + m * storage.capacity + own
    return found


def per_update(strength: float | Ramp, updates: int) -> Ramp:
    """A ramp over environment steps as a ramp over critic updates, `updates` a step."""
    found = ramp(strength)
    return replace(found, steps=found.steps * updates, rise=found.rise * updates)


def _require_rows(storage: Storage, m: int, data: int, own: int) -> None:
    if data and not storage.data_size:
        raise ValueError("replay.share: rows of D are wanted, but the storage holds no dataset")
    if own and not storage.size(m):
        raise ValueError(f"member {m}: own rows are wanted before any was collected")
