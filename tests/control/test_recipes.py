"""Every recipe that comes with the package: it loads as what it says it is, with known numbers."""

from pathlib import Path

import pytest

from control.algorithm_settings import CqlSettings, SacSettings, Td3BcSettings
from control.datasets.registry import REGISTRY, known
from control.settings import ControlRecipe
from posttrain import recipe as recipes
from posttrain.intervention.plan import Plan, chain
from posttrain.recipe import RecipeError, list_recipes, recipes_folder
from posttrain.run import load
from posttrain.study import load_study

ROOT = recipes_folder()
EVERY = {r.name: r for r in list_recipes()}
D4RL = sorted(name for name in EVERY if name.startswith("control/d4rl/"))
ONLINE = [name for name in D4RL if name.endswith(("_wsrl", "_rlpd", "ql_online"))]


def kind_of(path):
    return recipes.read(path).get("kind")


@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_loads_as_the_kind_that_it_names(name):
    path = EVERY[name].path
    if kind_of(path) == "study":
        load_study(path)
        return
    found = load(name)
    assert found.kind == kind_of(path) == name.partition("/")[0]
    assert found.name == Path(name).name
    assert recipes.load(type(found), recipes.dump(found)) == found


@pytest.mark.parametrize("name", EVERY)
def test_the_first_line_says_what_a_recipe_shows(name):
    assert 20 <= len(EVERY[name].summary) <= 120


def test_no_recipe_is_overlooked():
    ours = {p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.rglob("*.yaml")}
    assert {n for n in ours if not n.startswith("accelerate/")} == set(EVERY)
    assert len(D4RL) >= 16


@pytest.mark.parametrize("name", D4RL)
def test_what_was_not_run_here_says_so_and_what_to_expect(name):
    comment = EVERY[name].path.read_text().split("kind:")[0]
    assert "not run here" in EVERY[name].summary
    assert "CORL" in comment or "Published only as figures" in comment


@pytest.mark.parametrize("name", D4RL)
def test_environments_and_scores_are_those_of_the_registry(name):
    found = load(name)
    entry = known(found.dataset.source)
    minari = found.dataset.source == entry.minari
    env = entry.env_settings(minari=minari)
    assert (found.env.id, found.env.horizon, found.env.score) == (env.id, env.horizon, env.score)
    assert found.env.kwargs == env.kwargs
    if entry.score == "success":
        assert (found.diagnose.scale, found.diagnose.bounded) == ((0, 1), True)
    elif "kitchen" in name:
        assert (found.diagnose.scale, found.diagnose.bounded) == ((0, 4), True)
    else:
        scale = (entry.ref_min, entry.ref_max)
        assert (found.diagnose.scale, found.diagnose.bounded) == (scale, False)


@pytest.mark.parametrize("name", ONLINE)
def test_rewards_are_scaled_as_wsrl_scales_them(name):
    found, entry = load(name).dataset, known(load(name).dataset.source)
    pays = {"adroit": (10.0, -0.1)}.get(name.split("/")[-1].split("_")[0])
    if pays is None:
        assert (found.reward_scale, found.reward_bias) == (entry.reward_scale, entry.reward_bias)
    else:  # the environment's rewards, not the data's: the scaled ones must be the same
        for paid, raw in zip(pays, (0.0, -1.0), strict=True):
            scaled = found.reward_scale * paid + found.reward_bias
            assert scaled == pytest.approx(entry.reward_scale * raw + entry.reward_bias)
    if entry.failure_reward is not None:
        failing = entry.reward_scale * entry.failure_reward + entry.reward_bias
        assert found.failure_reward == failing


@pytest.mark.parametrize("domain", ["antmaze", "kitchen", "adroit", "locomotion"])
def test_wsrl_and_rlpd_differ_in_their_plans_and_share_their_diagnosis(domain):
    wsrl, rlpd = (load(f"control/d4rl/{domain}_{method}") for method in ("wsrl", "rlpd"))
    for field in ("env", "dataset", "networks", "pretrain", "diagnose", "seed"):
        assert getattr(wsrl, field) == getattr(rlpd, field)
    keep, forget = (chain(*r.interventions)(Plan()) for r in (wsrl, rlpd))
    assert (keep.family, keep.warmup.steps, keep.replay) == ("pi0-centric", 5_000, None)
    assert wsrl.finetune.warmup_critic == "waits"
    assert (forget.family, forget.replay.share.start) == ("D-centric", 0.5)
    assert {"policy", "critic"} <= set(forget.reset.parts)
    for found in (wsrl, rlpd):
        assert isinstance(found.finetune.algorithm, SacSettings)
        assert (found.finetune.utd, found.finetune.batch) == (4, 256)
        assert found.finetune.algorithm.policy_delay == found.finetune.utd
        assert (found.networks.critics, found.networks.actor_norm) == (10, True)


def test_calibration_stays_on_online_where_it_is_used_at_all():
    for domain in ("antmaze", "kitchen", "adroit"):
        found = load(f"control/d4rl/{domain}_calql_online")
        assert found.pretrain.algorithm.calibrate
        assert found.finetune.algorithm == found.pretrain.algorithm
    locomotion = load("control/d4rl/locomotion_cql_online").finetune.algorithm
    assert isinstance(locomotion, CqlSettings)
    assert not locomotion.calibrate  # Monte-Carlo returns are hard to estimate there


@pytest.mark.parametrize(
    ("name", "actions", "published"),
    [("locomotion_rebrac", 3, (0.05, 0.5)), ("antmaze_rebrac", 8, (0.002, 0.001))],
)
def test_rebracs_penalties_are_means_of_the_published_sums(name, actions, published):
    algorithm = load(f"control/d4rl/{name}").pretrain.algorithm
    assert isinstance(algorithm, Td3BcSettings)
    given = (algorithm.actor_bc / actions, algorithm.critic_bc / actions)
    assert given == pytest.approx(published)


def test_a_recipe_without_a_kind_is_told_the_kinds(tmp_path):
    path = tmp_path / "x.yaml"
    for text, sentence in (
        ("name: x", "kind is missing; wanted 'control' or 'llm' or 'vla'"),
        ("kind: vlla", "wanted 'control' or 'llm' or 'vla', got 'vlla'"),
        ("kind: study", "posttrain study"),
        ("kind: control\nname: x\nenv: {id: a, maze: 3}\ndataset: {source: a}", "env.maze"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=sentence):
            load(path)


def test_control_data_need_no_reward_to_be_scored_by():
    from posttrain.run import score

    with pytest.raises(RecipeError, match="datasets NAME --read"):
        score("control/pointmaze")


def test_the_registry_knows_every_source():
    sources = {load(name).dataset.source for name in D4RL}
    names = {k.name for k in REGISTRY.values()} | {k.minari for k in REGISTRY.values()}
    assert sources <= names


def test_defaults_of_the_recipes_class_are_spelled_out_nowhere():
    """A recipe holds what differs: what equals a default is noise to its reader."""
    plain = ControlRecipe(
        kind="control", name="x", env=load("control/pendulum").env,
        dataset=load("control/pendulum").dataset,
    )  # fmt: skip
    for name in (
        n for n in EVERY if n.startswith("control/") and kind_of(EVERY[n].path) != "study"
    ):
        text = recipes.read(EVERY[name].path)
        for field in ("seed", "output", "threads", "device", "start_from"):
            assert field not in text or text[field] != getattr(plain, field)


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    """A folder where D4RL's file would lie, with a random policy's steps in it."""
    from control.datasets.hdf5 import write_hdf5
    from control.makers.random import make_random

    folder = tmp_path_factory.mktemp("d4rl")
    data = make_random(load("control/d4rl/locomotion_wsrl").env, seed=0, episodes=12)
    write_hdf5(data, folder / "hopper_medium_replay-v2.hdf5")
    return folder


@pytest.mark.parametrize("method", ["wsrl", "rlpd", "cql_online", "td3_bc", "rebrac"])
def test_published_methods_go_from_d4rls_file_to_their_end(method, hopper, tmp_path, monkeypatch):
    """With small networks and few steps, everything else as published."""
    from control.pipeline import run
    from posttrain.record import Record

    monkeypatch.setenv("D4RL_DATASET_DIR", str(hopper))
    small = ["pretrain.steps=8", "pretrain.batch=16", "pretrain.log_every=4", "networks.actor=[16]",
             "networks.critic=[16]", "diagnose.episodes=3", f"output={tmp_path}"]  # fmt: skip
    name = f"control/d4rl/locomotion_{method}"
    found = load(name, small)
    if found.finetune is not None:
        small += ["finetune.steps=12", "finetune.batch=8", "finetune.start=4",
                  "finetune.eval_every=6", "finetune.eval_episodes=2",
                  "finetune.log_every=3"]  # fmt: skip
        if method == "wsrl":
            small.append("interventions.0.steps=6")
    record = Record(run(load(name, small)))
    assert record.diagnosis().bounded is False
    assert record.diagnosis().episodes_dataset == 12
    assert (record.outcome() is None) == (found.finetune is None)
