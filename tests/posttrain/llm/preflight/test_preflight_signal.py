from itertools import combinations, product

import numpy as np
import pytest

from posttrain.llm.preflight.signal import all_equal, group_size, prompts_a_step, signal_check

UNIT = (0.0, 1.0)


def check(returns, **given):
    named = {str(i): r for i, r in enumerate(returns)}
    return signal_check(named, **{"group": 4, "prompts": 32, "scale": UNIT, **given})


def test_the_share_of_equal_subsets_is_counted_by_hand():
    returns = [1, 1, 1, 0, 0, 0.5]
    subsets = list(combinations(returns, 2))
    by_hand = sum(a == b for a, b in subsets) / len(subsets)
    assert all_equal(returns, 2) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(4 / 15)


@pytest.mark.parametrize(("p", "k", "n"), [(0.3, 6, 4), (0.9, 5, 5), (0.5, 4, 2)])
def test_the_estimate_is_unbiased_where_there_are_enough_samples(p, k, n):
    """Its mean over every outcome of k draws is p^n + (1-p)^n exactly."""
    mean = sum(
        np.prod([p if x else 1 - p for x in outcome]) * all_equal(list(outcome), n)
        for outcome in product([0.0, 1.0], repeat=k)
    )
    assert mean == pytest.approx(p**n + (1 - p) ** n)


def test_with_too_few_samples_four_successes_do_not_prove_certainty():
    by_hand = np.prod([(4.5 + i) / (5 + i) for i in range(8)])  # Beta(4.5, 0.5): 0.5895
    assert all_equal([1.0] * 4, 8) == pytest.approx(by_hand, abs=1e-3)
    assert all_equal([1.0] * 4, 4) == 1


def test_groups_that_all_fail_stop_and_name_the_demonstrations():
    found = check([[0.0] * 8] * 40)
    assert found.severity == "stop"
    assert found.value["left"] == pytest.approx(0)
    assert "replay" in found.change


def test_solved_prompts_ask_for_harder_ones():
    found = check([[1.0] * 8] * 40)
    assert found.severity == "stop"
    assert "harder" in found.change


def test_mixed_groups_are_in_order():
    found = check([[0.0, 1.0] * 4] * 40)
    assert found.severity == "ok"
    assert found.value["share"] == pytest.approx(2 / 70)
    assert found.value["left"] == pytest.approx(32 * 68 / 70)


def test_a_larger_group_is_advised_where_it_would_help():
    found = check([[1.0] + [0.0] * 15] * 40, group=4)  # 3 of 4 groups see no success
    assert found.severity == "warn"
    assert found.value["share"] == pytest.approx(0.75)
    assert "num_generations=8 leaves 50%" in found.change


def test_without_rollouts_nothing_is_known():
    assert check([]).severity == "unknown"


def test_groups_and_prompts_are_read_from_the_trainer():
    trainer = {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 2,
               "num_generations": 4}  # fmt: skip
    assert group_size(trainer) == 4
    assert prompts_a_step(trainer, world=2) == 32
    assert group_size({}) == 8
