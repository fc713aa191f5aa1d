import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.report.section import excerpt, interval, number, percent, sentence


@given(value=st.floats(-1e6, 1e6))
def test_a_number_carries_its_value_for_machines(value):
    exact = re.search(r'value="([^"]+)"', number(value)).group(1)
    assert float(exact) == pytest.approx(value, rel=1e-5)


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert number(-0.001).striptags() == number(0.001, signed=True).striptags() == "0.00"
    assert number(-0.25, signed=True).striptags() == "−0.25"


def test_a_share_is_not_rounded_to_none_or_all():
    assert [percent(v).striptags() for v in (0.0, 0.001, 0.5, 0.999, 1.0)] == [
        "0%", "&lt;1%".replace("&lt;", "<"), "50%", ">99%", "100%",
    ]  # fmt: skip


def test_what_is_not_known_is_a_dash_or_nothing():
    assert number(float("nan")) == number(None) == percent(None) == "–"
    assert interval(float("nan"), 1.0) == ""


def test_a_long_text_keeps_its_end():
    long = "question " * 200 + "ANSWER"
    assert excerpt(long).endswith("ANSWER")
    assert len(excerpt(long)) < 450
    assert excerpt("short") == "short"
    assert excerpt(None) == ""


def test_a_conversation_is_shown_as_what_was_said():
    user = {"role": "user", "content": "What is 1 + 1?"}
    assert excerpt([user]) == "What is 1 + 1?"
    assert excerpt([{"role": "system", "content": "Be brief."}, user]) == (
        "system: Be brief.\nuser: What is 1 + 1?"
    )


def test_plain_text_becomes_a_sentence_and_keeps_its_greek():
    assert sentence("the loss fell") == "The loss fell."
    assert sentence("pi_0 is better.") == "π₀ is better."
    assert sentence(None) == ""
