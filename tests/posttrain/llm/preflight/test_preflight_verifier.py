import numpy as np
import pytest

from posttrain.llm.data import Row
from posttrain.llm.preflight.verifier import replayed_check, reward_checks
from posttrain.llm.reward import Judgement, RewardError, make_judge
from posttrain.llm.settings import ExactReward, ReasoningGymReward, RegexReward

UNIT = (0.0, 1.0)


def row(number, answer, completion=None):
    return Row(
        unit=f"u{number}",
        prompt=({"role": "user", "content": f"What is {number}?"},),
        completion=answer if completion is None else completion,
        answer=answer,
    )


ROWS = [row(i, f"answer {100 + i}") for i in range(20)]


def by_check(judge, rows=ROWS, per_step=8):
    return {f.check: f for f in reward_checks(rows, judge, scale=UNIT, per_step=per_step)}


def judging(value):
    """A judge of one number a (row, text)."""
    return lambda rows, texts: [
        Judgement(float(value(r, t.strip()))) for r, t in zip(rows, texts, strict=True)
    ]


def exact(r, text):
    return text == r["answer"]


def test_an_exact_reward_passes_every_check():
    found = by_check(make_judge(ExactReward(), scale=UNIT))
    assert {f.severity for f in found.values()} == {"ok"}
    assert set(found) == {
        "reward.perfect", "reward.empty", "reward.echo", "reward.swapped", "reward.hedged",
        "reward.cut", "reward.repeat", "reward.speed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("check", "severity", "value"),
    [
        ("reward.empty", "stop", lambda r, t: exact(r, t) or t == ""),
        ("reward.empty", "warn", lambda r, t: 1.0 if exact(r, t) else 0.2 * (t == "")),
        ("reward.echo", "stop", lambda r, t: exact(r, t) or "What" in t),
        ("reward.hedged", "stop", lambda r, t: r["answer"] in t),
        ("reward.cut", "warn", lambda r, t: t != "" and r["answer"].startswith(t)),
        ("reward.swapped", "stop", lambda _, t: t.startswith("answer")),
    ],
)
def test_a_shortcut_is_found_by_the_answer_that_takes_it(check, severity, value):
    found = by_check(judging(value))
    assert found[check].severity == severity
    assert "reward" in found[check].change or "diagnose.scale" in found[check].change
    others = [f.check for f in found.values() if f.severity != "ok" and f.check != check]
    assert set(others) <= {"reward.hedged", "reward.cut"}  # what starts like an answer is paid too


def test_the_list_holds_the_rows_answer_and_not_what_d_wrongly_says():
    rows = [row(i, f"answer {100 + i}", "wrong") for i in range(20)]
    found = by_check(judging(lambda r, t: r["answer"] in t), rows)
    assert found["reward.hedged"].severity == "stop"


def test_only_a_part_of_paid_rows_warns_and_says_how_many():
    paid = {f"u{i}" for i in range(5)}
    found = by_check(judging(lambda r, t: exact(r, t) or (t == "" and r["unit"] in paid)))
    assert found["reward.empty"].severity == "warn"
    assert found["reward.empty"].value["paid"] == 0.25


def test_the_substring_credit_of_a_task_is_found_and_exact_scoring_has_none(sums):
    rows = sums[0][:30]
    partial = by_check(make_judge(ReasoningGymReward(scoring="partial"), scale=UNIT), rows)
    assert partial["reward.hedged"].severity == "warn"
    whole = by_check(make_judge(ReasoningGymReward(), scale=UNIT), rows)
    assert whole["reward.hedged"].severity == "ok"


def test_answers_that_never_reach_the_top_stop():
    found = by_check(make_judge(ExactReward(extract=r"#### (\w+)"), scale=UNIT))
    assert found["reward.perfect"].severity == "stop"
    assert "no answer was found in it" in found["reward.perfect"].text


def test_demonstrations_in_the_rewards_form_are_enough_where_the_bare_answer_has_another():
    rows = [row(i, str(i), f"so it is #### {i}") for i in range(5)]
    found = by_check(make_judge(ExactReward(extract=r"#### (\w+)$"), scale=UNIT), rows)
    assert found["reward.perfect"].severity == "ok"
    assert found["reward.perfect"].value["answer_at_most"] == 0


def test_one_wrong_label_is_named():
    rows = [*ROWS, row(99, "right", "wrong")]
    value = by_check(judging(lambda r, t: exact(r, t) and r["unit"] != "u99"), rows)
    assert value["reward.perfect"].severity == "warn"
    assert "unit u99: 'right' gets 0.0" in value["reward.perfect"].text


def test_a_reward_with_its_own_dice_is_found():
    rng = np.random.default_rng(0)
    found = by_check(judging(lambda r, t: exact(r, t) and rng.random() < 0.5))
    assert found["reward.repeat"].severity == "warn"
    assert "judged twice" in found["reward.repeat"].text


def test_a_reward_that_ranks_inside_its_batch_is_found():
    def ranked(rows, texts):
        return [
            Judgement(float(exact(r, t.strip())) / len(texts))
            for r, t in zip(rows, texts, strict=True)
        ]

    found = by_check(ranked)
    assert "a row judged alone and in a batch" in found["reward.repeat"].text


def test_a_reward_that_counts_white_space_is_found():
    found = by_check(
        lambda rows, texts: [
            Judgement(float(t == r["answer"])) for r, t in zip(rows, texts, strict=True)
        ]
    )
    assert "white space" in found["reward.repeat"].text


def test_a_reward_that_raises_on_an_empty_answer_stops_with_its_sentence():
    def judge(rows, texts):
        if "" in texts:
            raise RewardError("the reward raised IndexError on unit 'u0' with completion ''")
        return [Judgement(float(exact(r, t.strip()))) for r, t in zip(rows, texts, strict=True)]

    found = by_check(judge)
    assert found["reward.raises"].severity == "stop"
    assert "reward.empty" in found["reward.raises"].text
    assert "IndexError" in found["reward.raises"].text


def test_a_return_off_the_scale_stops():
    judge = make_judge(RegexReward(pattern="answer"), scale=(0.0, 0.5))
    found = by_check(judge)
    assert found["reward.raises"].severity == "stop"
    assert "diagnose.scale" in found["reward.raises"].text


def test_a_slow_reward_is_timed_by_the_step(monkeypatch):
    import posttrain.llm.preflight.verifier as module

    ticks = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks) / 10)
    found = by_check(make_judge(ExactReward(), scale=UNIT), per_step=10_000)
    assert found["reward.speed"].severity == "warn"
    assert found["reward.speed"].value["seconds_per_step"] > 5


def test_demonstrations_replayed_in_an_environment_must_reach_its_goal():
    def told(*returns):
        return replayed_check([{"return": r} for r in returns], scale=UNIT).severity

    assert told(1.0, 0.0, 1.0) == "ok"
    assert told(0.0, 0.5) == "stop"
    assert told(1.0, None) == "warn"
