import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from posttrain.intervention.ramp import Ramp
from posttrain.intervention.replay import (
    draw,
    drawn_before,
    label_logp,
    mix_counts,
    replay_indices,
    token_weights,
    weighted_nll,
)

sizes = st.integers(1, 30)
seeds = st.integers(0, 99)


@given(sizes, seeds, st.integers(0, 100), st.lists(st.integers(0, 20), max_size=6))
def test_a_stream_does_not_depend_on_how_it_is_cut(size, seed, start, counts):
    whole = draw(start, sum(counts), size=size, seed=seed)
    pieces = []
    for count in counts:
        pieces.append(draw(start, count, size=size, seed=seed))
        start += count
    assert np.array_equal(np.concatenate([np.empty(0, np.int64), *pieces]), whole)


@given(sizes, seeds, st.integers(0, 5))
def test_every_row_comes_exactly_once_an_epoch(size, seed, epoch):
    rows = draw(epoch * size, size, size=size, seed=seed)
    assert sorted(rows) == list(range(size))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 8), seeds)
def test_an_epoch_is_shared_out_over_steps_and_processes(batch, world, steps, seed):
    size = batch * world * steps
    rows = [
        replay_indices(step, size=size, batch=batch, seed=seed, rank=rank, world=world)
        for step in range(steps)
        for rank in range(world)
    ]
    assert sorted(np.concatenate(rows)) == list(range(size))


def test_epochs_and_seeds_have_their_own_order():
    def order(start, seed):
        return draw(start, 100, size=100, seed=seed).tolist()

    assert order(0, 0) != order(100, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) == order(0, 0)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world_is_refused(rank):
    with pytest.raises(ValueError, match="rank"):
        replay_indices(0, size=4, batch=1, seed=0, rank=rank, world=2)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="size"):
        draw(0, 1, size=0, seed=0)


@given(st.integers(1, 64), st.floats(0, 1), st.integers(1, 300))
def test_a_constant_share_is_exact_at_every_step(batch, share, steps):
    counts = [mix_counts(batch, share, step) for step in range(steps)]
    assert all(0 <= count <= batch for count in counts)
    totals, wanted = np.cumsum(counts), share * batch * np.arange(1, steps + 1)
    assert np.abs(totals - wanted).max() <= 0.5 + 1e-6


@given(st.integers(1, 64), st.floats(0, 1), st.floats(0, 1), st.integers(1, 50), st.integers(0, 9))
def test_a_changing_share_is_exact_at_every_step(batch, start, end, steps, rise):
    share = Ramp(start, end, steps=steps, shape="cosine", rise=rise)
    counts = [mix_counts(batch, share, step) for step in range(80)]
    assert all(0 <= count <= batch for count in counts)
    wanted = batch * np.cumsum([share(step) for step in range(80)])
    assert np.abs(np.cumsum(counts) - wanted).max() <= 0.5 + 1e-6


def test_half_of_eight_is_four_every_time_and_an_eighth_is_one():
    assert {mix_counts(8, 0.5, step) for step in range(1000)} == {4}
    assert {mix_counts(8, 0.125, step) for step in range(1000)} == {1}
    assert {mix_counts(100, 0.29, step) for step in range(1000)} == {29}


def test_mixed_batches_walk_through_the_dataset_without_gaps():
    size, share = 10, 0.3
    rows = [
        draw(drawn_before(4, share, step), mix_counts(4, share, step), size=size, seed=1)
        for step in range(50)
    ]
    assert np.array_equal(np.concatenate(rows), draw(0, 60, size=size, seed=1))


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match="share"):
        mix_counts(4, 1.2, 0)


log_probabilities = st.lists(st.floats(-20, 0), min_size=1, max_size=20).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@given(log_probabilities)
def test_weights_are_their_formulas(logp):
    p = logp.exp()
    for kind, wanted in {
        "none": torch.ones_like(p),
        "chord": p - p * p,
        "dft": p,
        "luffy": 0.1 * p / (p + 0.1) ** 2,
    }.items():
        torch.testing.assert_close(token_weights(kind, logp), wanted)


@pytest.mark.parametrize(
    ("kind", "objective"), [("dft", lambda p: p), ("luffy", lambda p: p / (p + 0.1))]
)
@given(logp=log_probabilities)
def test_the_weighted_loss_has_the_gradient_of_the_papers_objective(kind, objective, logp):
    ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    weighted_nll(ours, token_weight=kind, num_items=1).backward()
    (-objective(theirs.exp()).sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_weight_can_be_left_in_the_gradient():
    logp = torch.tensor([-1.0], requires_grad=True)
    assert token_weights("dft", logp, detach=False).requires_grad
    assert not token_weights("dft", logp).requires_grad


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="phi"):
        token_weights("phi", torch.zeros(1))


def random_labels(seed, *shape, vocabulary=11):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, vocabulary, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocabulary, shape, generator=generator)
    hidden = torch.rand(shape, generator=generator) < 0.4
    return logits, torch.where(hidden, -100, labels)


@given(st.integers(0, 10_000))
def test_the_plain_loss_is_cross_entropy(seed):
    logits, labels = random_labels(seed, 4, 9)
    assume(bool((labels[:, 1:] != -100).any()))
    logp, mask = label_logp(logits, labels)
    theirs = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(weighted_nll(logp, mask), theirs)


@given(st.integers(0, 10_000), st.sampled_from(["none", "chord", "dft", "luffy"]))
def test_one_batch_of_eight_is_eight_of_one(seed, kind):
    logits, labels = random_labels(seed, 8, 6)
    whole, pieces = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    logp, mask = label_logp(whole, labels)
    count = mask.sum().clamp(min=1)
    loss = weighted_nll(logp, mask, token_weight=kind)
    loss.backward()
    total = 0.0
    for row in range(8):
        logp, mask = label_logp(pieces[row : row + 1], labels[row : row + 1])
        part = weighted_nll(logp, mask, token_weight=kind, num_items=count)
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item())
    torch.testing.assert_close(pieces.grad, whole.grad)


def test_what_is_masked_cannot_spoil_the_loss():
    logp = torch.tensor([-1.0, float("-inf"), float("nan")], requires_grad=True)
    mask = torch.tensor([True, False, False])
    loss = weighted_nll(logp, mask, token_weight="chord")
    loss.backward()
    assert loss.isfinite()
    assert logp.grad.isfinite().all()


def test_nothing_to_imitate_costs_nothing():
    assert weighted_nll(torch.full((3,), -1.0), torch.zeros(3, dtype=torch.bool)).item() == 0


def test_actions_are_not_shifted():
    logits, labels = random_labels(0, 5, 3)
    logp, mask = label_logp(logits, labels, shift=False)
    theirs = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(weighted_nll(logp, mask), theirs)


def test_half_precision_logits_are_normalised_in_single_precision():
    logits, labels = random_labels(0, 2, 5)
    logp, _ = label_logp(logits.bfloat16(), labels)
    assert logp.dtype == torch.float32
