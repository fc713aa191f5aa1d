"""The YAML of recipes: numbers that are numbers, texts that are texts, and nothing dangerous."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from posttrain.yaml12 import YamlError, parse_yaml, to_yaml

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
@example("5e-4")
@example("no")
@example("2026-11-23")
@example("0o17")
@example("null")
@example("a: b\n# c")
@example(" \x85\u2028\ufeff\x00")
@example(1e-5)
@example(-0.0)
@example({"<<": 1, "=": 2, "~": 3, "true": 4, "": 5})
def test_what_is_written_is_read_back(value):
    back = parse_yaml(to_yaml(value)).data
    assert back == value
    assert repr(back) == repr(value)  # 1 is not 1.0, 0.0 is not -0.0, True is not 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e-3", 1e-3),
        ("1.0e-4", 1e-4),
        ("1E+3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("300_000", 300_000),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("2026-11-23", "2026-11-23"),
        ("12:30", "12:30"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'5'", "5"),
        ("a/b", "a/b"),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    got = parse_yaml(text).data
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' appears twice, first on line 1"),
        ("a:\n  b: 1\n  b: 1\n", 3, "'b' appears twice"),
        ("a: &x [1]\nb: *x\n", 2, "aliases"),
        ("&a [*a]", 1, "aliases"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tags"),
        ("a: !!set {b}", 1, "tags"),
        ("a: 1\nb: .nan", 2, "finite"),
        ("-.inf", 1, "finite"),
        ("1e999", 1, "finite"),
        ("? [a, b]\n: 1", 1, "a key must be a plain word"),
        ("a: [1\nb: 2", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "not valid YAML"),
        ("9" * 5000, 1, "cannot be read as int"),
        ('a: "\\ud800"', 1, "surrogate"),
        ('"\\UFFFFFFFF"', None, "not valid YAML"),
        ("\x07", None, "not valid YAML"),
        ("[" * 5000, None, "too deeply"),
    ],
)
def test_what_recipes_do_not_speak_is_refused_with_its_line(text, line, words):
    with pytest.raises(YamlError, match=words) as caught:
        parse_yaml(text)
    assert caught.value.line == line


@given(st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"#%@,?.~ \n\t\\0159ex_\ud800\x85é"))))
@example("a: &a {<<: *a}")
@example("!!int x")
@example("!!float x")
@example("- !!binary =")
@example("%YAML 9.9\n---\na")
@example("%TAG ! !\n")
def test_any_text_is_read_or_refused(text):
    try:
        data = parse_yaml(text).data
    except YamlError as error:
        assert str(error)  # noqa: PT017 - either end is fine
    else:
        assert_plain(data)


def assert_plain(value):
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            assert_plain(inner)
    else:
        assert value is None or type(value) in {bool, int, float, str}
        assert not isinstance(value, float) or math.isfinite(value)


def test_lines_point_at_keys():
    document = parse_yaml("a: 1\nb:\n  - x\n  -\n    c: 2\n")
    assert document.lines[("b",)] == 2
    assert document.lines[("b", 0)] == 3
    assert document.lines[("b", 1, "c")] == 5
