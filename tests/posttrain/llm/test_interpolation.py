import pytest
import torch

from posttrain.llm import interpolation
from posttrain.llm.data import Row
from posttrain.llm.reward import Judgement
from posttrain.llm.sampling import Completion
from posttrain.llm.settings import Decoding
from posttrain.tuning.world import World

ASKED = ({"role": "user", "content": "?"},)
ROWS = [Row(unit=f"u{n}", prompt=ASKED, completion="") for n in range(12)]


def line(weight):
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, weight)
    return layer


def says_its_weight(policy):
    """Answers with its own weight, which the judge below likes best near 1.5."""
    seen = []

    def generate(rows, decoding, *, samples, seed):
        seen.append(seed)
        text = str(float(policy.weight.detach()))
        return [[Completion(text, [1], finished=True)] * samples for _ in rows]

    generate.seen = seen
    return generate


def judge(rows, texts):
    return [Judgement(1 - abs(float(text) - 1.5) / 2) for text in texts]


def sweep(policy, shares, folder):
    return interpolation.sweep(
        policy, line(0.0).state_dict(), shares, generator=says_its_weight, rows=ROWS, judge=judge,
        decoding=Decoding(), samples=2, batch=5, seed=3, alpha=0.05, scale=(0.0, 1.0),
        folder=folder, world=World(),
    )  # fmt: skip


def test_the_share_with_the_highest_return_is_left_in_the_policy(tmp_path):
    policy = line(2.0)
    chosen = sweep(policy, (1.0, 0.25, 0.75), tmp_path)
    assert chosen.share == 0.75
    assert float(policy.weight.detach()) == pytest.approx(1.5)
    assert [row["return"] for row in chosen.tried] == pytest.approx([0.75, 0.5, 1.0])
    assert chosen.to_dict()["tried"][2]["interval"][1] == pytest.approx(1.0)


def test_of_equal_shares_the_one_that_keeps_most_of_rl_is_chosen(tmp_path):
    policy = line(3.0)  # 0.25 and 0.75 of it lie as far from 1.5
    assert sweep(policy, (0.25, 0.75), tmp_path).share == 0.75


def test_what_the_outcome_is_measured_on_is_not_chosen_by():
    measured = frozenset(row.unit for row in ROWS[:2])
    free = interpolation.units_to_choose_by([*ROWS, *ROWS], measured)
    assert [row.unit for row in free] == [row.unit for row in ROWS[2:]]
    with pytest.raises(ValueError, match=r"rl\.interpolate: .* 9 are left; wanted 10"):
        interpolation.units_to_choose_by(ROWS, frozenset(row.unit for row in ROWS[:3]))
