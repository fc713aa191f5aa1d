"""Recipes: read strictly, written back exactly, refused by file, line and field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from posttrain.intervention.plan import Anchor, Ramp, Replay, Reset, Warmup
from posttrain.recipe import (
    BY_KIND,
    RecipeError,
    dump,
    find_recipe,
    list_recipes,
    load,
    read,
)

Intervention = Annotated[Anchor | Replay | Warmup | Reset, BY_KIND]


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    steps: int = 10
    rate: float = 1e-3
    fast: bool = False
    mode: Literal["slow", "steady"] = "steady"
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    model: str
    train: Train = field(default_factory=Train)
    interventions: tuple[Intervention, ...] = ()
    untagged: tuple[Anchor | Warmup, ...] = ()
    choice: Literal["auto"] | tuple[Intervention, ...] = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    scale: tuple[float, float] = (0.0, 1.0)
    folder: Path | None = None


def complaint(text, *overrides):
    with pytest.raises(RecipeError) as caught:
        load(Run, text, overrides)
    return str(caught.value)


def test_what_is_left_out_keeps_its_default():
    assert load(Run, "model: tiny") == Run(model="tiny")


def test_nested_unions_and_schedules_are_built():
    text = """
    model: no
    train: {rate: 5e-4}
    interventions:
    - {kind: replay, weight: {start: 1.0, end: 0.1, steps: 100}}
    - {kind: reset, parts: [adapter, optimizer]}
    folder: a/b
    """
    assert load(Run, text) == Run(
        model="no",
        train=Train(rate=5e-4),
        interventions=(
            Replay(weight=Ramp(1.0, 0.1, steps=100)),
            Reset(parts=("adapter", "optimizer")),
        ),
        folder=Path("a/b"),
    )


def test_a_whole_number_is_welcome_where_a_float_is_wanted():
    rate = load(Run, "model: a\ntrain: {rate: 5}").train.rate
    assert isinstance(rate, float)
    assert rate == 5.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "recipe: model: is missing"),
        ("[a]", "recipe: wanted a mapping of fields, got a list of 1"),
        ("model: 5", "recipe:1: model: wanted a text, got the number 5"),
        ("model: true", "recipe:1: model: wanted a text, got true"),
        ("model: null", "recipe:1: model: wanted a text, got null"),
        (
            "model: a\ntrain:\n  stpes: 3",
            "recipe:3: train.stpes: no such field; did you mean 'steps'?",
        ),
        (
            "model: a\ntrain:\n  zzz: 3",
            "recipe:3: train.zzz: no such field; "
            "the fields here are steps, rate, fast, mode and name",
        ),
        ("model: a\ntrain: {steps: 3.0}", "wanted a whole number, got the number 3.0"),
        ("model: a\ntrain: {steps: true}", "wanted a whole number, got true"),
        ("model: a\ntrain: {steps: '3'}", "wanted a whole number, got the text '3'"),
        ("model: a\ntrain: {rate: '1'}", "wanted a number, got the text '1'"),
        ("model: a\ntrain: {rate: false}", "wanted a number, got false"),
        ("model: a\ntrain: {fast: 1}", "train.fast: wanted true or false, got the number 1"),
        ("model: a\ntrain: {fast: yes}", "train.fast: wanted true or false, got the text 'yes'"),
        (
            "model: a\ntrain: {mode: stedy}",
            "train.mode: wanted 'slow' or 'steady', got the text 'stedy'; did you mean 'steady'?",
        ),
        ("model: a\ntrain: fast", "train: wanted a mapping with steps, rate, fast, mode and name"),
        (
            "model: a\ninterventions:\n- {kind: replai}",
            "recipe:3: interventions.0.kind: wanted 'anchor', 'replay', 'warmup' or 'reset', "
            "got the text 'replai'; did you mean 'replay'?",
        ),
        ("model: a\ninterventions:\n- {weight: 1}", "interventions.0.kind: is missing; wanted"),
        ("model: a\ninterventions: {}", "interventions: wanted a list, got {}"),
        (
            "model: a\ninterventions:\n- {kind: replay, weigth: 1}",
            "interventions.0.weigth: no such field; did you mean 'weight'?",
        ),
        (
            "model: a\ninterventions:\n- kind: replay\n  weight: {strat: 1}",
            "recipe:4: interventions.0.weight.strat: no such field; did you mean 'start'?",
        ),
        (
            "model: a\ninterventions: [{kind: replay, weight: much}]",
            "interventions.0.weight: wanted a number or a mapping with start, end, steps, shape "
            "and rise, got the text 'much'",
        ),
        (
            "model: a\ninterventions: [{kind: warmup, steps: 0}]",
            "recipe:2: interventions.0: Warmup.steps must be >= 1, got 0",
        ),
        ("model: a\nuntagged: [{kind: warmup, stesp: 1}]", "did you mean 'steps'?"),
        ("model: a\nchoice: manual", "choice: wanted 'auto' or a list, got the text 'manual'"),
        ("model: a\nchoice: [{kind: warmup, steps: x}]", "choice.0.steps: wanted a whole number"),
        ("model: a\nscale: [0]", "scale.1: is missing"),
        ("model: a\nscale: [0, 1, 2]", "scale: wanted a list of at most 2, got a list of 3"),
        ("model: a\nscale: [0, .inf]", "recipe:2: .inf: a number in a recipe must be finite"),
        ("model: a\nmodel: b", "recipe:2: key 'model' appears twice, first on line 1"),
        ("llm/arithmetic", "a file is read from a Path, not from a str"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_field(text, sentence):
    assert sentence in complaint(text)


def test_one_mistake_gives_one_line():
    assert complaint("model: a\nuntagged: [{kind: warmup, stesp: 1}]").count("\n") == 0
    assert complaint("model: a\ninterventions: [{kind: replay, weight: x}]").count("\n") == 0
    ramp = "model: a\ninterventions: [{kind: replay, weight: {start: x}}]"
    assert complaint(ramp).count("\n") == 0


def test_every_mistake_is_named():
    text = "model: 1\ntrain: {steps: x, rate: y}\n"
    assert [line.split(": ")[1] for line in complaint(text).splitlines()] == [
        "model",
        "train.steps",
        "train.rate",
    ]


def test_overrides_win_and_are_yaml():
    run = load(
        Run,
        "model: a\ninterventions: [{kind: replay, weight: 1.0}]",
        [
            "train.steps=3",
            "train.rate=5e-4",
            "interventions.0.weight=0.5",
            "options.deep.er=[1, {a: no}]",
            "model=b=c",
            "train.name=",
        ],
    )
    assert run.train == Train(steps=3, rate=5e-4)
    assert run.interventions == (Replay(weight=0.5),)
    assert run.options == {"deep": {"er": [1, {"a": "no"}]}}
    assert run.model == "b=c"


def test_the_last_of_equal_overrides_wins():
    assert load(Run, "model: a", ["train.steps=3", "train.steps=4"]).train.steps == 4


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.steps", "wanted field=value"),
        ("=3", "wanted field=value"),
        ("train..steps=3", "wanted field=value"),
        ("model.size=3", "override model.size: model is the text 'a', which has no fields inside"),
        ("interventions.1.steps=3", "interventions is a list of 1; wanted an index below that"),
        ("interventions.x=3", "interventions is a list of 1; wanted an index below that, got 'x'"),
        ("train.stpes=3", "override: train.stpes: no such field; did you mean 'steps'?"),
        ("train.steps=x", "override: train.steps: wanted a whole number, got the text 'x'"),
        ("train.steps=[1", "override train.steps: not valid YAML"),
        ("train.rate=.nan", "override train.rate: .nan: a number in a recipe must be finite"),
    ],
)
def test_a_wrong_override_is_named(override, sentence):
    text = "model: a\ninterventions: [{kind: warmup}]"
    assert sentence in complaint(text, override)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ramps = st.one_of(
    st.builds(Ramp, st.floats(0.1, 1)),
    st.builds(Ramp, st.floats(0, 1), st.floats(0, 1), steps=st.integers(1, 99)),
)
interventions = st.one_of(
    st.builds(Anchor, coefficient=ramps),
    st.builds(Replay, weight=st.builds(Ramp, st.floats(0.1, 9)), share=ramps),
    st.builds(Warmup, steps=st.integers(1, 99)),
    st.builds(Reset, keep=st.floats(0, 1), noise=st.floats(0, 1e300)),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | names | st.floats(allow_nan=False).filter(
        math.isfinite
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
runs = st.builds(
    Run,
    model=names,
    train=st.builds(Train, steps=st.integers(), rate=st.floats(-1e300, 1e300), name=names),
    interventions=st.lists(interventions, max_size=3).map(tuple),
    choice=st.just("auto") | st.lists(interventions, max_size=2).map(tuple),
    options=st.dictionaries(names, plain, max_size=3),
    folder=st.none() | st.just(Path("a/b")),
)


@given(runs)
def test_a_dumped_recipe_loads_to_an_equal_one(run):
    assert load(Run, dump(run)) == run


@given(runs)
def test_a_dumped_recipe_leaves_nothing_to_defaults(run):
    assert set(read(dump(run))) == set(Run.__dataclass_fields__)


def test_what_yaml_cannot_hold_is_not_dumped():
    with pytest.raises(RecipeError, match=r"train\.rate: wanted a finite number"):
        dump(Run(model="a", train=Train(rate=math.nan)))


pieces = st.sampled_from(
    ["model", "train", "interventions", "kind", "replay", "weight", "start", "steps", "rate",
     "choice", "untagged", ":", " ", "\n", "  ", "- ", "{", "}", "[", "]", ",", "1", "0.5", "x",
     "true", "null", "&a", "*a", "!!int", '"', "'", "#", "|", "é"]
)  # fmt: skip


@given(st.lists(pieces, max_size=30).map("".join), st.lists(st.text(max_size=12), max_size=2))
def test_any_text_loads_or_is_refused(text, overrides):
    load_or_refuse(text, overrides)


@given(st.dictionaries(st.sampled_from(list(Run.__dataclass_fields__)), plain | st.lists(
    st.dictionaries(st.sampled_from(["kind", "weight", "steps", "coefficient", "x"]),
                    st.sampled_from(["replay", "anchor", "warmup"]) | plain))))  # fmt: skip
def test_any_values_load_or_are_refused(data):
    from posttrain.yaml12 import to_yaml

    load_or_refuse(to_yaml(data), [])


@given(st.binary(max_size=60))
@example(b"\xff\xfea\x00")
@example(b"\xef\xbb\xbfmodel: a")
def test_any_bytes_load_or_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_bytes(data)
    load_or_refuse(path, [])


def load_or_refuse(source, overrides):
    try:
        run = load(Run, source, overrides)
    except RecipeError as error:
        assert str(error).strip()  # noqa: PT017 - either end is fine
    else:
        assert load(Run, dump(run)) == run


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.yaml: cannot be read: No such file"):
        load(Run, tmp_path / "no.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    with pytest.raises(RecipeError, match=r"bytes\.yaml: not UTF-8 text"):
        load(Run, tmp_path / "bytes.yaml")


def test_a_file_is_named_with_the_line(tmp_path):
    (tmp_path / "a.yaml").write_text("# what it is\nmodel: a\nmodle: b\n")
    with pytest.raises(RecipeError, match=r"a\.yaml:3: modle: no such field; did you mean 'model'"):
        load(Run, tmp_path / "a.yaml")


def test_packaged_recipes_are_found_by_name_and_say_what_they_show():
    listed = list_recipes()
    assert listed
    for recipe in listed:
        assert find_recipe(recipe.name) == recipe.path
        assert find_recipe(f"{recipe.name}.yaml") == recipe.path
        assert recipe.summary, f"{recipe.name}: the first line must be a comment"


def test_a_file_of_the_users_wins_over_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = list_recipes()[0].name
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text("model: mine")
    assert read(find_recipe(name)) == {"model": "mine"}


def test_an_unknown_name_suggests_the_nearest():
    name = list_recipes()[0].name
    with pytest.raises(RecipeError, match=f"did you mean {name}"):
        find_recipe(name[:-1])
