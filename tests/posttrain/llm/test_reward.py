import json

import pytest

from posttrain.llm.data import load_rows
from posttrain.llm.reward import Judgement, RewardError, from_function, make_judge
from posttrain.llm.settings import (
    DataSettings,
    ExactReward,
    FunctionReward,
    ReasoningGymReward,
    RegexReward,
    TrlReward,
)

UNIT = (0.0, 1.0)


def rows(*answers):
    return [{"unit": f"u{i}", "prompt": [], "answer": a} for i, a in enumerate(answers)]


def values(judgements):
    return [j.value for j in judgements]


def test_exact_match_compares_the_extracted_answer():
    judge = make_judge(ExactReward(extract=r"= *(\w+)"), scale=UNIT)
    found = judge(rows("3", "3", "3"), ["so x = 3", "x = 13", "no idea"])
    assert found == [Judgement(1.0), Judgement(0.0), Judgement(0.0, parsed=False)]


def test_regex_match():
    judge = make_judge(RegexReward(pattern=r"^\d+$"), scale=UNIT)
    assert values(judge(rows("", ""), ["12", "twelve"])) == [1.0, 0.0]


def test_reasoning_gym_gives_no_credit_for_an_answer_that_contains_the_right_one():
    data = DataSettings(
        path="reasoning_gym:chain_sum",
        options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        size=80,
        heldout=10,
    )
    row = load_rows(data)[0][0]
    texts = [row.answer, f"1{row.answer}"]
    columns = [row.reward_columns()] * 2
    exact = make_judge(ReasoningGymReward(), scale=UNIT)
    partial = make_judge(ReasoningGymReward(scoring="partial"), scale=UNIT)
    solved = make_judge(ReasoningGymReward(scoring="solved"), scale=UNIT)
    assert values(exact(columns, texts)) == [1.0, 0.0]
    assert values(solved(columns, texts)) == [1.0, 0.0]
    assert values(partial(columns, texts))[1] > 0  # the task's own scorer does


def test_trl_rewards_are_called_with_their_own_arguments():
    judge = make_judge(TrlReward(name="think_format_reward"), scale=UNIT)
    assert values(judge(rows("a", "a"), ["<think>x</think>y", "y"])) == [1.0, 0.0]


def test_a_reward_of_the_users_gets_the_columns(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def length(prompts, completions, answer, **_):\n"
        "    return [float(len(c[0]['content']) == int(a)) for c, a in zip(completions, answer)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    judge = make_judge(FunctionReward(path="mine:length"), scale=UNIT)
    assert values(judge(rows("2", "3"), ["ab", "ab"])) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TrlReward(name="acuracy_reward"), "trl has no 'acuracy_reward'"),
        (FunctionReward(path="no_such_module:f"), "cannot load 'no_such_module:f'"),
        (FunctionReward(path="json:no_such"), "cannot load 'json:no_such'"),
        (RegexReward(pattern="("), "not a regular expression"),
        (ExactReward(extract="abc"), "wanted a group"),
    ],
)
def test_a_reward_that_does_not_exist_is_named(settings, words):
    with pytest.raises(RewardError, match=words):
        make_judge(settings, scale=UNIT)


def test_a_reward_that_raises_stops_with_the_row_that_did_it():
    judge = make_judge(ExactReward(), scale=UNIT)
    given = rows("1", None)
    with pytest.raises(RewardError, match="unit 'u1' with completion 'two'"):
        judge(given, ["one", "two"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5, -0.1])
def test_a_return_outside_the_scale_stops_with_its_row(value):
    judge = from_function(lambda **_: [0.0, value])
    checked = make_judge_from(judge)
    with pytest.raises(RewardError, match=r"unit 'u1'.*outside the stated scale"):
        checked(rows("a", "b"), ["x", "y"])


def make_judge_from(judge):
    import posttrain.llm.reward as module

    original = module._MAKERS["regex"]
    module._MAKERS["regex"] = lambda _: judge
    try:
        return make_judge(RegexReward(pattern="."), scale=UNIT)
    finally:
        module._MAKERS["regex"] = original


def test_a_reward_that_declines_is_not_a_zero():
    judge = from_function(lambda **_: [None, 1.0])
    assert values(make_judge_from(judge)(rows("a", "b"), ["x", "y"])) == [None, 1.0]


def test_too_few_rewards_are_refused():
    judge = make_judge_from(from_function(lambda **_: [1.0]))
    with pytest.raises(RewardError, match="2 completions were given, 1 rewards came"):
        judge(rows("a", "b"), ["x", "y"])


def test_items_survive_the_record():
    data = DataSettings(path="reasoning_gym:spell_backward", size=80, heldout=10)
    row = load_rows(data)[0][0]
    again = json.loads(json.dumps(row.to_dict()))
    judge = make_judge(ReasoningGymReward(), scale=UNIT)
    assert values(judge([{**again["columns"], "unit": "u", "answer": None}], [row.answer])) == [1.0]
