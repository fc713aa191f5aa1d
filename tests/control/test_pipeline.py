"""Whole runs of a very small setting: alone, killed, together, and from another's diagnosis."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny import curve, read, tiny

from control import pipeline
from control.algorithm_settings import SacSettings
from control.datasets.hdf5 import read_hdf5
from control.experience import seeds_of
from control.intervene import PlanError
from control.settings import RandomMaker
from posttrain import recipe as recipes
from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup
from posttrain.record import Record, RecordError, locked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of the unbroken run."""
    return pipeline.run(tiny(tmp_path_factory.mktemp("whole")))


def started(recipe):
    return multiprocessing.get_context("fork").Process(target=pipeline.run, args=(recipe,))


def kill_when(process, happened, seconds=60):
    """SIGKILL the run as soon as `happened`, or when it is over."""
    process.start()
    end = time.monotonic() + seconds
    while process.is_alive() and not happened():
        assert time.monotonic() < end
        time.sleep(0.001)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_a_run_killed_in_every_stage_ends_as_the_unbroken_one(whole, tmp_path):
    recipe = tiny(tmp_path)
    folder = tmp_path / "tiny"
    moments = [
        (folder / "data" / "dataset.hdf5").exists,
        (folder / "sft_metrics.jsonl").exists,
        (folder / "rollouts" / "pi0.hdf5").exists,
        (folder / "diagnosis.json").exists,
        (folder / "checkpoints" / "finetune" / "last").exists,
        (folder / "rl").exists,
        (folder / "outcome.parquet").exists,
    ]
    killed = sum(kill_when(started(recipe), moment) for moment in moments)
    assert killed >= 5
    pipeline.run(recipe)
    assert read(folder) == read(whole)


def test_a_finished_run_does_nothing_again(whole):
    def times():
        kept = {".safetensors", ".parquet"}
        return {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.suffix in kept}

    before = times()
    pipeline.run(tiny(whole.parent))
    assert times() == before


def test_the_record_says_what_happened(whole):
    record = Record(whole)
    found, scores = record.diagnosis(), record.scores()
    data = json.loads((whole / "data" / "dataset.json").read_text())
    made = read_hdf5(whole / "data" / "dataset.hdf5")
    assert data["episodes"] == made.episodes == 12
    assert found.j_dataset == pytest.approx(data["j"]) == pytest.approx(made.success.mean())
    assert (found.episodes_policy, found.episodes_dataset) == (6, 12)
    assert found.j_policy == scores.where(source="policy").returns.mean()
    played = read_hdf5(whole / "rollouts" / "pi0.hdf5")
    assert played.success.mean() == pytest.approx(found.j_policy)
    keys = set().union(*(set(row) for row in record.metrics.read()))
    assert {
        "regime/J", "regime/prior", "regime/stability", "regime/plasticity", "regime/kl_to_pi0",
        "regime/nll_on_data", "regime/replay_share", "q/bias",
    } <= keys  # fmt: skip
    assert [row["step"] for row in curve(whole)] == [0, 20, 40]
    outcome = record.outcome()
    assert outcome["interval"][0] <= outcome["gain"] <= outcome["interval"][1]
    assert outcome["decomposition"]["evaluations"] == 3
    assert record.plan()["source"] == "recipe"


def test_the_horizon_is_part_of_the_task_and_raises_no_flag(whole):
    found = Record(whole)
    assert found.scores().truncated.any()
    assert "truncated" not in {flag.kind for flag in found.diagnosis().flags}


def test_what_becomes_of_pi0_is_measured_on_its_own_starts(whole):
    record = Record(whole)
    before = record.scores().where(source="policy").unit.tolist()
    assert record.outcome_scores().unit.tolist() == before
    assert all(row["unit"] == before[:4] for row in curve(whole))


def test_starts_belong_to_a_seed_and_to_no_training(tmp_path):
    def starts(seed):
        recipe = tiny(tmp_path, f"seed={seed}")
        return pipeline.Work(recipe, Record(tmp_path), "").starts()

    trained = {seeds_of(0, f"episode {i}")[0] % 2**31 for i in range(1000)}
    assert starts(0) == starts(0)
    assert not set(starts(0)) & (set(starts(1)) | trained)


def test_members_end_as_they_would_have_ended_alone(whole, tmp_path):
    plans = {
        "tiny": tiny(tmp_path).interventions,
        "anchored": (Anchor(coefficient=1.0, estimator="exact"),),
        "reset": (Reset(parts=("policy", "critic", "optimizer")), Replay(share=0.5)),
    }
    seeds = {"tiny": 0, "anchored": 3, "reset": 0}
    population = [
        replace(tiny(tmp_path), name=name, seed=seeds[name], interventions=plan)
        for name, plan in plans.items()
    ]
    folders = dict(zip(plans, pipeline.run_many(population), strict=True))
    lone = replace(population[1], output=str(tmp_path / "alone"))
    for name, alone in (("tiny", whole), ("anchored", pipeline.run(lone))):
        assert curve(folders[name]) == curve(alone)
        for part in ("pi0", "rl"):
            mine, theirs = (
                load_file(f / part / "agent.safetensors") for f in (folders[name], alone)
            )
            assert all(np.allclose(mine[k], theirs[k], atol=1e-4) for k in theirs)
    rl = [load_file(folders[name] / "rl" / "agent.safetensors") for name in plans]
    assert not np.allclose(rl[0]["actor.head.weight"], rl[2]["actor.head.weight"], atol=1e-2)


def test_a_member_that_cannot_go_on_leaves_the_others_alone(tmp_path):
    good = tiny(tmp_path, "finetune.steps=10", "finetune.eval_every=10")
    refused = replace(good, name="refused", interventions=(Replay(weight=0.1, token_weight="dft"),))
    busy = replace(good, name="busy")
    lost = replace(good, name="lost", start_from=str(tmp_path / "nowhere"))
    with locked(tmp_path / ".busy.lock"):
        found = pipeline.run_many([refused, good, busy, lost])
    assert isinstance(found[0], PlanError)
    assert not (tmp_path / "refused").exists()
    assert Record(found[1]).outcome() is not None
    assert isinstance(found[2], RecordError)
    assert "no run's folder" in str(found[3])


def test_an_error_of_all_is_every_members(tmp_path):
    broken = tiny(tmp_path, "dataset={source: nothing.hdf5}")
    found = pipeline.run_many([broken, replace(broken, name="b", seed=1)])
    assert all(isinstance(error, Exception) for error in found)
    with pytest.raises(type(found[0]), match="nothing"):
        pipeline.run(broken)


@pytest.mark.parametrize(
    "free", ["name=b", "seed=5", "output=elsewhere", "interventions=prescribed", "start_from=b"]
)
def test_runs_of_one_setting_may_be_trained_together(free):
    assert pipeline.group_key(tiny("runs")) == pipeline.group_key(tiny("runs", free))


@pytest.mark.parametrize(
    "fixed", ["env.horizon=13", "dataset.seed=2", "pretrain.steps=61", "finetune.utd=2",
              "networks.spread=0.2", "diagnose.margin=0.1", "threads=2"]
)  # fmt: skip
def test_runs_of_two_settings_may_not(tmp_path, fixed):
    other = replace(tiny(tmp_path, fixed), name="other")
    assert pipeline.group_key(tiny(tmp_path)) != pipeline.group_key(other)
    with pytest.raises(ValueError, match="trained together"):
        pipeline.run_many([tiny(tmp_path), other])


def test_two_runs_may_not_share_a_folder(tmp_path):
    with pytest.raises(ValueError, match="one folder"):
        pipeline.run_many([tiny(tmp_path), tiny(tmp_path, "seed=1")])


def test_a_run_from_anothers_diagnosis_is_the_run_that_made_its_own(whole, tmp_path):
    source = pipeline.run(tiny(tmp_path, "interventions=prescribed"), stop_after="diagnose")
    recipe = tiny(tmp_path, "name=arm", f"start_from={source}")
    found = read(pipeline.run(recipe))
    expected = read(whole)
    assert found == expected
    assert not (tmp_path / "arm" / "checkpoints" / "pretrain").exists()


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("seed=1", "seed"),
        ("env.horizon=13", "env.horizon"),
        ("networks.actor=[32]", "networks.actor"),
        ("pretrain.algorithm.alpha=3", "pretrain.algorithm.alpha"),
        ("diagnose.episodes=7", "diagnose.episodes"),
        ("dataset.make.noise=0.1", "dataset.make.noise"),
    ],
)
def test_another_setting_is_no_place_to_start_from(whole, tmp_path, override, field):
    recipe = tiny(tmp_path, f"start_from={whole}", override)
    with pytest.raises(ValueError, match=f"has {field} = "):
        pipeline.run(recipe)


def test_a_run_that_was_not_diagnosed_is_no_place_to_start_from(tmp_path):
    source = pipeline.run(tiny(tmp_path), stop_after="pretrain")
    with pytest.raises(ValueError, match="not been diagnosed"):
        pipeline.run(tiny(tmp_path, "name=arm", f"start_from={source}"))


def test_filtering_by_success_says_what_it_did(tmp_path):
    folder = pipeline.run(
        tiny(tmp_path, "dataset.only_success=true", "dataset.make.noise_probability=0.9"),
        stop_after="diagnose",
    )
    record, data = Record(folder), json.loads((folder / "data" / "dataset.json").read_text())
    made = read_hdf5(folder / "data" / "dataset.hdf5")
    assert 2 <= made.success.sum() < made.episodes  # else this test says nothing
    assert data["before"]["j"] == pytest.approx(made.success.mean())
    assert (data["j"], data["episodes"]) == (1.0, made.success.sum())
    (flag,) = [f for f in record.diagnosis().flags if f.kind == "success_filtered"]
    assert f"was {made.success.mean():.3g} before" in flag.text


def test_a_part_of_the_data_is_drawn_by_their_seed(tmp_path):
    from control.data import choose, make

    recipe = tiny(tmp_path)
    everything = make(recipe.dataset, recipe.env)
    parts = [
        choose(everything, replace(recipe.dataset, episodes=5, seed=seed)) for seed in (1, 1, 2)
    ]
    assert [part.episodes for part in parts] == [5, 5, 5]
    assert np.array_equal(parts[0].observations, parts[1].observations)
    assert len(parts[0]) != len(parts[2]) or not np.array_equal(
        parts[0].observations, parts[2].observations
    )
    with pytest.raises(ValueError, match=r"dataset\.episodes: wanted 50"):
        choose(everything, replace(recipe.dataset, episodes=50))


def test_a_plan_is_refused_before_anything_is_made(tmp_path):
    recipe = tiny(tmp_path, "interventions=[{kind: replay, weight: 0.1, token_weight: dft}]")
    with pytest.raises(PlanError, match="token"):
        pipeline.run(recipe)
    assert not list(tmp_path.iterdir())


def test_without_fine_tuning_a_run_ends_with_its_diagnosis(tmp_path):
    folder = pipeline.run(tiny(tmp_path, "finetune=null", "interventions=prescribed"))
    record = Record(folder)
    assert record.diagnosis() is not None
    assert record.plan()["source"] == "prescribed"
    assert record.outcome() is None
    assert not (folder / "rl").exists()


def test_a_saved_agent_may_stand_for_pretraining(whole, tmp_path):
    recipe = tiny(tmp_path, f"pretrain.path={whole / 'pi0'}", "finetune=null")
    found, expected = (Record(f).diagnosis() for f in (pipeline.run(recipe), whole))
    assert found.j_policy == expected.j_policy
    assert (tmp_path / "tiny" / "pi0" / "agent.safetensors").read_bytes() == (
        whole / "pi0" / "agent.safetensors"
    ).read_bytes()


def test_a_task_of_returns_without_bounds_goes_through_with_another_algorithm(tmp_path):
    recipe = tiny(
        tmp_path,
        "env={id: Pendulum-v1, horizon: 20}",
        "diagnose={episodes: 4, scale: [-30, -10], bounded: false, noise: true}",
        "networks={actor: [16], critic: [16]}",
        "pretrain={algorithm: {kind: bc}, steps: 20, batch: 16, log_every: 4}",
        "interventions=[{kind: anchor, estimator: exact}, {kind: replay, share: 0.5}]",
    )
    recipe = replace(
        recipe,
        dataset=replace(recipe.dataset, make=RandomMaker(episodes=5)),
        finetune=replace(recipe.finetune, algorithm=SacSettings(), critic_first=5),
    )
    record = Record(pipeline.run(recipe))
    found = record.diagnosis()
    assert not found.bounded
    assert found.j_policy < -30  # outside the scale
    assert found.recoverability is None
    assert record.outcome()["decoding"] == "with noise"
    assert record.integrity()["converged"] in {True, False}


def test_data_of_another_environment_are_refused_before_training(whole, tmp_path):
    data = whole / "data" / "dataset.hdf5"
    recipe = tiny(tmp_path, f"dataset={{source: {data}}}", "env={id: Pendulum-v1}")
    with pytest.raises(ValueError, match="observes 6 numbers and acts with 2, but Pendulum-v1"):
        pipeline.run(replace(recipe, env=replace(recipe.env, score="return")))
    assert not (tmp_path / "tiny" / "sft_metrics.jsonl").exists()


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--stop-after: wanted one of data, pretrain"):
        pipeline.run(tiny(tmp_path), stop_after="rl")


def test_a_changed_recipe_is_refused_unless_afresh(whole, tmp_path):
    folder = pipeline.run(tiny(tmp_path), stop_after="data")
    changed = tiny(tmp_path, "dataset.make.episodes=13")
    with pytest.raises(RecordError, match=r"dataset\.make\.episodes was 12, now 13"):
        pipeline.run(changed)
    pipeline.run(changed, fresh=True, stop_after="data")
    assert read_hdf5(folder / "data" / "dataset.hdf5").episodes == 13


def test_warmup_alone_never_moves_pi0(tmp_path):
    recipe = replace(tiny(tmp_path), interventions=(Warmup(steps=40),))
    folder = pipeline.run(recipe)
    before, after = (load_file(folder / n / "agent.safetensors") for n in ("pi0", "rl"))
    assert all(np.array_equal(before[k], after[k]) for k in before if k.startswith("actor."))
    assert not np.array_equal(before["critic.head.weight"], after["critic.head.weight"])


def test_the_recipe_that_ran_is_the_recipe_that_is_kept(whole):
    from control.settings import ControlRecipe

    stored = recipes.load(ControlRecipe, whole / "recipe.yaml")
    assert stored == tiny(whole.parent)


def test_a_recipe_is_run_by_its_kind_and_closed_by_a_report(whole, tmp_path):
    from tiny import TEXT

    from posttrain.run import run

    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    folder = run(path, [f"output={tmp_path}", "finetune.steps=20"])
    page = (folder / "report.html").read_text()
    assert "Episodes, and can RL find success by itself?" in page
    assert "environment step" in page
    assert (folder / "figures" / "training.png").exists()
