import pytest

from posttrain.llm.data import Row
from posttrain.llm.preflight.leak import Overlap, leak_checks

LONG = (
    "A train leaves the station at nine and travels at sixty miles an hour towards a town that "
    "lies two hundred miles away; when does it arrive"
)


def rows(*texts):
    return [
        Row(unit=text, prompt=({"role": "user", "content": text},), completion="x")
        for text in texts
    ]


def checks(train, heldout, **overlap):
    exact, near = leak_checks(rows(*train), rows(*heldout), overlap=Overlap(**overlap))
    return exact, near


def test_case_and_spaces_do_not_hide_a_repetition():
    exact, near = checks(["What is 2 + 3 ?"], ["what is  2+3?", "what is 4+4?"])
    assert exact.severity == "stop"
    assert exact.value["repeated"] == 1
    assert near.value["compared"] == 1


def test_the_same_words_about_another_picture_are_another_question():
    def seen(*images):
        said = {"role": "user", "content": "How many are red?"}
        return [Row(unit=i, prompt=(said,), completion="2", images=(i,)) for i in images]

    other = leak_checks(seen("a", "b"), seen("c", "d"))
    assert [f.severity for f in other] == ["ok", "ok"]
    assert leak_checks(seen("a", "b"), seen("b", "d"))[0].value["repeated"] == 1


def test_one_of_many_warns():
    heldout = [f"How many legs have {n} dogs of {n * 7} owners" for n in range(50)]
    exact, _ = checks([heldout[3].upper()], heldout)
    assert exact.severity == "warn"


def test_different_sums_in_one_template_are_no_leak(sums):
    exact, near = leak_checks(*sums)
    assert (exact.severity, near.severity) == ("ok", "ok")


def test_a_copied_story_is_found_by_thirteen_words_in_a_row():
    exact, near = checks([f"Please help me. {LONG}, dear?", "Something else."], [f"{LONG} there?"])
    assert exact.severity == "ok"
    assert near.severity == "stop"
    worst = near.value["worst"][0]
    assert worst["train"].startswith("Please")
    assert worst["overlap"] > 0.8


def test_twelve_words_in_a_row_are_not_thirteen():
    head = " ".join(LONG.split()[:12])
    other = [f"{head} of other stones and thrice the number of birds in it", "none"]
    assert checks(other, [LONG])[1].severity == "ok"
    assert checks(other, [LONG], words=12)[1].severity == "stop"


def test_what_all_prompts_share_is_the_templates():
    """Fifty prompts of one long instruction and a question each: the instruction is no leak."""
    names = [f"{chr(97 + i % 26)}{i}" for i in range(100)]
    heldout = [f"{LONG}. Now tell me of the person {name}" for name in names[:50]]
    train = [f"{LONG}. Now tell me of the person {name}" for name in names[50:]]
    assert checks(train, heldout)[1].severity == "ok"
    assert checks([*train, f"{heldout[0]} please"], heldout)[1].value["near"] == 1


def test_short_prompts_are_compared_by_characters():
    train = ["name the capital of the kingdom of Denmark now"]
    near = checks(train, ["name the capital of the kingdom of Denmark"])[1]
    assert near.severity == "stop"
    assert near.value["by"] == "8 characters"
    assert checks(train, ["name the capital of the kingdom of Sweden"])[1].severity == "ok"


@pytest.mark.parametrize("wrong", [{"words": 1}, {"near": 0.0}])
def test_a_senseless_overlap_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        Overlap(**wrong)
