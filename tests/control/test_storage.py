"""Rows go in, the last n stay, batches mix D as told: laws, with lists and deques as references."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from control.storage import UNKNOWN, Share, Storage, indices, pack, per_update
from posttrain.intervention.ramp import Ramp

WIDTH = 2 * (2 + 1) + 3
TURNS = st.lists(st.lists(st.integers(0, 2), min_size=1, unique=True), max_size=30)


def marked(mark: float) -> Tensor:
    """A row whose every number is the mark."""
    return torch.full((WIDTH,), float(mark))


def filled(capacity: int, turns: list[list[int]], data: int = 0) -> tuple[Storage, list[deque]]:
    """A storage after some additions, and what should be in it."""
    rows = torch.stack([marked(-1 - i) for i in range(data)]) if data else None
    storage = Storage(2, 1, data=rows, members=3, capacity=capacity)
    kept = [deque(maxlen=capacity) for _ in range(3)]
    for i, members in enumerate(turns):
        marks = [10 * i + m for m in members]
        storage.add(members, torch.stack([marked(x) for x in marks]))
        for m, mark in zip(members, marks, strict=True):
            kept[m].append(mark)
    return storage, kept


@given(st.integers(1, 7), TURNS)
def test_a_ring_holds_exactly_the_last_rows_of_its_member(
    capacity: int, turns: list[list[int]]
) -> None:
    storage, kept = filled(capacity, turns, data=4)
    for m in range(3):
        assert storage.size(m) == len(kept[m])
        assert storage.own(m)[:, 0].tolist() == list(kept[m])
        assert storage.added[m] == sum(m in members for members in turns)
    assert storage.table[:4, 0].tolist() == [-1, -2, -3, -4]


@given(st.integers(1, 7), TURNS, st.integers(0, 2), TURNS)
def test_a_restored_ring_goes_on_as_if_nothing_had_happened(
    capacity: int, before: list[list[int]], m: int, after: list[list[int]]
) -> None:
    storage, _ = filled(capacity, before)
    other = Storage(2, 1, members=3, capacity=capacity)
    other.restore(m, storage.own(m), int(storage.added[m]))
    for i, members in enumerate(after):
        if m in members:
            row = marked(1_000 + i)[None]
            storage.add([m], row)
            other.add([m], row)
    assert torch.equal(storage.own(m), other.own(m))
    first, last = (m * capacity, m * capacity + storage.size(m))
    assert torch.equal(storage.table[first:last], other.table[first:last])


def test_a_row_comes_out_as_it_went_in() -> None:
    parts = {
        "observations": torch.tensor([[1.0, 2.0]]),
        "actions": torch.tensor([[0.5]]),
        "rewards": torch.tensor([3.0]),
        "masks": torch.tensor([0.0]),
        "returns": torch.tensor([UNKNOWN]),
        "next_observations": torch.tensor([[4.0, 5.0]]),
        "next_actions": torch.tensor([[-0.5]]),
    }
    storage = Storage(2, 1, data=pack(**parts), members=2, capacity=3)
    storage.add([1], pack(**{**parts, "rewards": torch.tensor([9.0])}))
    batch = storage.gather(np.array([[0, 0], [0, 4]]))
    for f in fields(batch):
        assert torch.equal(getattr(batch, f.name)[0, :1], parts[f.name]), f.name
    assert batch.rewards.tolist() == [[3.0, 3.0], [3.0, 9.0]]
    late = batch.rows(1, 2)
    assert late.rewards.tolist() == [[3.0], [9.0]]
    assert late.observations.shape == (2, 1, 2)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="data: wanted rows of 9 numbers, got 8"):
        Storage(2, 1, data=torch.zeros(4, 8))


@given(st.integers(1, 9), st.integers(0, 12), st.integers(1, 12))
def test_returns_reach_the_rows_of_their_episode_that_are_still_there(
    capacity: int, before: int, length: int
) -> None:
    storage, _ = filled(capacity, [[1]] * (before + length))
    storage.set_returns(1, before, 100.0 + np.arange(length))
    rows = storage.own(1)
    column, old = rows[:, 3 + 2].tolist(), rows[:, 0].tolist()
    for mark, found in zip(old, column, strict=True):
        order = (mark - 1) / 10  # the row's place since the start
        assert found == (100 + order - before if order >= before else mark)
    assert rows[:, 3].tolist() == old


def test_the_next_action_reaches_the_newest_row_of_each_member_alone() -> None:
    storage, _ = filled(2, [[0, 1, 2], [0, 1], [0]])
    storage.set_next_action([2, 0], torch.tensor([[0.25], [0.75]]))
    assert storage.own(0)[:, -1].tolist() == [10.0, 0.75]
    assert storage.own(1)[:, -1].tolist() == [1.0, 11.0]
    assert storage.own(2)[:, -1].tolist() == [0.25]
    assert storage.own(0)[:, -2].tolist() == [10.0, 20.0]


# Batches


def share(of: float | Ramp, seed: int = 3) -> Share:
    return Share(of, seed, np.random.default_rng(seed))


@given(st.floats(0, 1), st.integers(1, 9), st.integers(1, 25))
def test_the_share_of_d_is_exact_over_a_run_and_its_rows_come_in_whole_epochs(
    of: float, batch: int, updates: int
) -> None:
    storage, _ = filled(5, [[0, 1, 2]] * 5, data=7)
    mixes = [share(of, m) for m in range(3)]
    drawn = np.concatenate(
        [
            indices(storage, mixes, updates=[u] * 3, batch=batch, active=[True] * 3)
            for u in range(updates)
        ],
        axis=1,
    )
    for m in range(3):
        data = drawn[m][drawn[m] < 7]
        assert abs(len(data) - of * batch * updates) <= 0.5 + 1e-6
        counts = Counter(data.tolist())
        assert max(counts.values(), default=0) - min(counts[i] for i in range(7)) <= 1
        own = drawn[m][drawn[m] >= 7] - 7
        assert ((own >= 5 * m) & (own < 5 * m + 5)).all()


def test_own_rows_come_uniformly_from_those_collected_so_far() -> None:
    storage, _ = filled(10, [[1]] * 4)
    mixes = [share(0.0), share(0.0), share(0.0)]
    drawn = indices(storage, mixes, updates=[0] * 3, batch=4_000, active=[False, True, False])
    counts = Counter((drawn[1] - 10).tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(c - 1_000) < 150 for c in counts.values())


def test_a_member_draws_the_same_rows_whoever_else_is_updated() -> None:
    storage, _ = filled(5, [[0, 1, 2]] * 5, data=7)
    mixes, alone = [share(0.4, m) for m in range(3)], share(0.4, 1)
    lone = Storage(2, 1, data=storage.table[:7], capacity=5)
    lone.restore(0, storage.own(1), 5)
    counts = [0, 0, 0]
    for active in ([1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]):
        drawn = indices(storage, mixes, updates=counts, batch=6, active=active)
        if active[1]:
            mine = indices(lone, [alone], updates=[counts[1]], batch=6, active=[True])
            together = storage.gather(drawn).observations[1]
            assert torch.equal(together, lone.gather(mine).observations[0])
        counts = [c + on for c, on in zip(counts, active, strict=True)]


def test_a_falling_share_ends_with_own_rows_alone_and_counts_updates() -> None:
    """2 updates a step: the ramp over 5 steps is one over 10 updates."""
    storage, _ = filled(5, [[0, 1, 2]] * 5, data=100)
    mixes = [share(per_update(Ramp(1.0, 0.0, steps=5), 2), m) for m in range(3)]
    found = []
    for u in range(14):
        drawn = indices(storage, mixes, updates=[u] * 3, batch=10, active=[True] * 3)
        found.append(int((drawn[0] < 100).sum()))
    assert found == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]


def test_a_side_without_rows_is_refused_for_those_who_are_updated() -> None:
    storage, _ = filled(5, [[0]])
    mixes = [share(0.0), share(0.0), share(0.5)]
    found = indices(storage, mixes, updates=[0] * 3, batch=2, active=[True, False, False])
    assert found[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="member 1: own rows are wanted before any"):
        indices(storage, mixes, updates=[0] * 3, batch=2, active=[True, True, False])
    with pytest.raises(ValueError, match="the storage holds no dataset"):
        indices(storage, mixes, updates=[0] * 3, batch=2, active=[False, False, True])
