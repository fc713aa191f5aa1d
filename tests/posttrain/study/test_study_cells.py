"""A study's cells: merged, named, checked before anything runs, dealt to shards."""

import pytest
from fake_kind import ALONE, TOGETHER
from hypothesis import given
from hypothesis import strategies as st

from posttrain.recipe import RecipeError
from posttrain.study import load_study
from posttrain.study.cells import flat, lay_out, needed, shard
from posttrain.study.settings import StudyError, merge

BASE = """# A base
kind: fake
name: base
pretrain: {policy: 0.2, dataset: 0.9}
"""
STUDY = """# A study
kind: study
name: small
output: {output}
recipe: {recipe}
seeds: [3, 4]
settings:
  - name: weak
  - name: strong
    overrides: {{pretrain.policy: 0.8, pretrain: {{dataset: 0.4}}}}
arms:
  - name: anchor
    overrides: {{interventions: [{{kind: anchor}}]}}
  - name: replay
    overrides:
      interventions: [{{kind: replay, share: 0.5}}]
      finetune.steps: 3
"""


@pytest.fixture
def written(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(output=tmp_path / "out", recipe=tmp_path / "base.yaml"))
    return path


def test_a_cell_is_the_base_under_setting_arm_and_seed(written, tmp_path):
    grid = lay_out(load_study(written), ALONE)
    assert len(flat(grid.groups)) == 8
    assert [c.name for c in flat(grid.shared)] == [
        f"{s}/pi0/seed-{i}" for s in ("weak", "strong") for i in (3, 4)
    ]
    cell = next(c for c in flat(grid.groups) if c.name == "strong/replay/seed-4")
    assert (cell.recipe.pretrain.policy, cell.recipe.pretrain.dataset) == (0.8, 0.4)
    assert (cell.recipe.finetune.steps, cell.recipe.seed) == (3, 4)
    assert cell.recipe.interventions[0].kind == "replay"
    assert cell.folder == tmp_path / "out" / "small" / "strong" / "replay" / "seed-4"
    assert cell.recipe.start_from == str(tmp_path / "out/small/strong/pi0/seed-4")
    assert all(c.recipe.start_from is None for c in flat(grid.shared))


def test_an_arm_that_pretrains_anew_says_so(written):
    grid = lay_out(load_study(written, ["arms.1.overrides.start_from=null"]), ALONE)
    starts = {c.arm: c.recipe.start_from for c in flat(grid.groups)}
    assert starts["replay"] is None
    assert starts["anchor"] is not None


def test_overrides_of_the_study_lie_below_those_of_its_settings(written):
    over = ["overrides.pretrain.policy=0.6", "overrides.finetune.gain=0.1"]
    grid = lay_out(load_study(written, over), ALONE)
    found = {
        c.setting: (c.recipe.pretrain.policy, c.recipe.finetune.gain) for c in flat(grid.groups)
    }
    assert found == {"weak": (0.6, 0.1), "strong": (0.8, 0.1)}


def test_everything_wrong_is_said_at_once_with_setting_and_arm(written):
    overrides = [
        "settings.0.overrides.pretrian={policy: 1}",
        "arms.0.overrides={finetune: {stpes: 3}, batch: x}",
        "arms.1.overrides={seed: 3}",
    ]
    with pytest.raises(StudyError) as caught:
        lay_out(load_study(written, overrides), ALONE)
    assert str(caught.value).splitlines() == [
        "setting weak: pretrian: no such field; did you mean 'pretrain'?",
        "setting strong, arm anchor: batch: wanted a whole number, got the text 'x'",
        "setting strong, arm anchor: finetune.stpes: no such field; did you mean 'steps'?",
        "setting strong, arm replay: seed: is the study's to say, not an override's",
    ]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("arms.1.name=anchor", "arms: 'anchor' stands there twice"),
        ("settings.1.name=weak", "settings: 'weak' stands there twice"),
        ("seeds=[1, 1]", "seeds: '1' stands there twice"),
        ("seeds=[]", "seeds: wanted at least one"),
        ("seeds=[-1]", "seeds"),
        ("arms.0.name=pi0", "'pi0' is the name of what the arms of a setting share"),
        ("arms.0.name=a/b", "plain folder name"),
        ("arms.0.family=data", "wanted 'minimal', 'pi0-centric', 'D-centric'"),
        ("compare.margin=0.0", "margin must lie between 0 and 1"),
        ("compare.metric=last", "metric"),
        ("settigns=[]", "no such field"),
    ],
)
def test_a_study_that_cannot_be_is_refused_with_a_sentence(written, override, words):
    with pytest.raises(RecipeError, match=words):
        load_study(written, [override])


def test_an_unknown_kind_is_refused(written, tmp_path):
    (tmp_path / "base.yaml").write_text("kind: other\nname: x\n")
    with pytest.raises(StudyError, match="runs recipes of kind fake; got 'other'"):
        lay_out(load_study(written), ALONE)


def test_cells_with_one_key_are_one_group_of_their_setting(written):
    together = lay_out(load_study(written), TOGETHER)
    assert [len(g.cells) for g in together.groups] == [4, 4]
    split = lay_out(load_study(written, ["arms.0.overrides.batch=2"]), TOGETHER)
    assert [len(g.cells) for g in split.groups] == [2, 2, 2, 2]
    assert [len(g.cells) for g in lay_out(load_study(written), ALONE).groups] == [1] * 8


@given(count=st.integers(1, 12))
def test_shards_share_nothing_and_leave_nothing_out(count, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    (folder / "base.yaml").write_text(BASE)
    text = STUDY.format(output=folder / "out", recipe=folder / "base.yaml")
    (folder / "study.yaml").write_text(text)
    grid = lay_out(load_study(folder / "study.yaml"), ALONE)
    dealt = [g.name for i in range(count) for g in shard(grid.groups, i, count)]
    assert sorted(dealt) == sorted(g.name for g in grid.groups)
    for i in range(count):
        groups = shard(grid.groups, i, count)
        shared = needed(grid, groups, first=i / count)
        wanted = {(c.setting, c.seed) for g in groups for c in g.cells}
        assert {(c.setting, c.seed) for c in flat(shared)} == wanted


leaves = st.none() | st.integers() | st.lists(st.integers(), max_size=2)
trees = st.recursive(
    leaves, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abcd"), trees, max_size=3)


@given(base=mappings)
def test_nothing_laid_over_changes_nothing_and_itself_neither(base):
    assert merge(base, {}) == base
    assert merge(base, base) == base


@given(base=mappings, over=mappings)
def test_what_is_laid_over_wins_and_laying_it_twice_is_laying_it_once(base, over):
    once = merge(base, over)
    assert merge(once, over) == once
    for key, value in over.items():
        if not isinstance(value, dict):
            assert once[key] == value
    assert {key: value for key, value in once.items() if key not in over} == {
        key: value for key, value in base.items() if key not in over
    }


def test_another_kind_replaces_and_lists_are_reached_by_number():
    base = {"dataset": {"kind": "file", "path": "x"}, "plan": [{"kind": "replay", "share": 0.5}]}
    assert merge(base, {"dataset": {"kind": "made", "n": 3}})["dataset"] == {"kind": "made", "n": 3}
    assert merge(base, {"plan.0.share": 0.1})["plan"] == [{"kind": "replay", "share": 0.1}]
    assert base["plan"][0]["share"] == 0.5
    with pytest.raises(StudyError, match="plan is a list of 1, got the index '1'"):
        merge(base, {"plan.1.share": 0.1})
    with pytest.raises(StudyError, match=r"dataset\.path has no fields inside"):
        merge(base, {"dataset.path.x": 0.1})
