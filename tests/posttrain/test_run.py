"""A whole run of a very small model, killed at every stage, and as a user would start it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from posttrain import recipe
from posttrain.llm.settings import LlmRecipe
from posttrain.record import Record
from posttrain.regime import Regime

RECIPE = {
    "kind": "llm",
    "name": "small",
    "threads": 1,
    "model": {"hidden": 32},
    "data": {
        "path": "reasoning_gym:basic_arithmetic",
        "options": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1,
                    "operators": ["+"], "allow_parentheses": False, "allow_negation": False},
        "size": 400,
        "heldout": 20,
    },
    "reward": {"kind": "reasoning_gym"},
    "rollout": {"max_new_tokens": 3},
    "sft": {"trainer": {"max_steps": 40, "per_device_train_batch_size": 8, "save_steps": 10,
                        "learning_rate": 3e-3}},
    "diagnose": {"samples": 2, "units": 20, "minimum": 20, "batch": 5, "seen_units": 10},
    "interventions": [
        {"kind": "anchor", "coefficient": {"start": 0.1, "end": 0.0, "steps": 6}},
        {"kind": "replay", "weight": 0.5, "share": 0.25, "token_weight": "chord"},
        {"kind": "warmup", "steps": 2},
    ],
    "rl": {
        "steps": 8, "eval_every": 4, "eval_units": 10, "save_every": 2, "probe_units": 5,
        "replay_rows": 8,
        "trainer": {"per_device_train_batch_size": 16, "num_generations": 4, "logging_steps": 1,
                    "learning_rate": 1e-3, "per_device_eval_batch_size": 10},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def whole(written, tmp_path_factory):
    """The record of the unbroken run."""
    from posttrain.run import run

    return run(written, [f"output={tmp_path_factory.mktemp('whole')}"])


def started(written, output):
    from posttrain.run import run

    return multiprocessing.get_context("fork").Process(
        target=run, args=(written, [f"output={output}"])
    )


def kill_when(process, happened, seconds=120):
    """SIGKILL the run as soon as `happened`, or when it is over."""
    end = time.monotonic() + seconds
    while process.is_alive() and not happened():
        assert time.monotonic() < end
        time.sleep(0.002)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def comparable_files(folder):
    """Everything that a user reads, without paths and clocks."""
    names = ["diagnosis.json", "diagnosis_seen.json", "integrity.json", "plan.json",
             "outcome.json", "metrics.jsonl", "sft_metrics.jsonl", "curve.jsonl"]  # fmt: skip
    found = {name: (folder / name).read_text() for name in names}
    for name in ("sft/model.safetensors", "rl/model.safetensors"):
        found[name] = (folder / name).read_bytes()
    for name in ("scores.parquet", "outcome.parquet", "evaluations.parquet"):
        import pyarrow.parquet as pq

        found[name] = pq.read_table(folder / name).to_pylist()
    return found


def test_a_run_killed_in_every_stage_ends_as_the_unbroken_one(written, whole, tmp_path):
    folder = tmp_path / "small"
    sft, rl = folder / "checkpoints" / "sft", folder / "checkpoints" / "rl"
    moments = [
        (sft / "checkpoint-10" / "complete.json").exists,
        (sft / "checkpoint-30").exists,  # perhaps while it is being written
        (folder / "rollouts" / "pi0" / "rollout" / "00001.jsonl").exists,
        (folder / "rollouts" / "pi0" / "deployment").exists,
        (rl / "checkpoint-2" / "model.safetensors").exists,  # while saving
        (rl / "checkpoint-6" / "complete.json").exists,
        (folder / "rl").exists,
        (folder / "rollouts" / "finetuned" / "rollout" / "00002.jsonl").exists,
    ]
    killed = 0
    for moment in moments:
        process = started(written, tmp_path)
        process.start()
        kill_when(process, moment)
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 6
    process = started(written, tmp_path)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert comparable_files(folder) == comparable_files(whole)
    assert (folder / "report.html").exists()


def test_a_rival_starts_from_the_same_pi0_and_scores(written, whole, tmp_path):
    """Further SFT beside the plan: only what RL would have done is done again."""
    from posttrain.run import run

    rival = run(
        written,
        [f"output={tmp_path}", "name=rival", f"start_from={whole}", "interventions=[]",
         "rl.algorithm=sft", "rl.interpolate=[0.0, 0.5, 1.0]", "data.heldout=20"],
        stop_after="diagnose",
    )  # fmt: skip
    for name in ("sft/model.safetensors", "scores.parquet", "diagnosis.json"):
        assert (rival / name).read_bytes() == (whole / name).read_bytes()
    assert Record(rival).plan()["plan"]["interventions"] == []
    with pytest.raises(ValueError, match="seed = 0, this recipe 1"):
        run(written, [f"output={tmp_path}", "name=x", f"start_from={whole}", "seed=1"])


def test_a_sweep_keeps_the_best_mixture_of_the_policy_with_pi0(written, tmp_path):
    """Chosen on held-out prompts that neither the diagnosis nor the outcome uses."""
    from safetensors.torch import load_file

    from posttrain.run import run

    few = ["diagnose.units=6", "diagnose.minimum=6", "diagnose.batch=6", "rl.steps=4",
           "interventions=[]", "rl.algorithm=sft", f"output={tmp_path}"]  # fmt: skip
    swept = run(written, [*few, "name=swept", "rl.interpolate=[0.0, 0.5, 1.0]"])
    plain = run(written, [*few, "name=plain", f"start_from={swept}"])
    chosen = json.loads((swept / "interpolation.json").read_text())
    assert [row["share"] for row in chosen["tried"]] == [0.0, 0.5, 1.0]
    best = max(chosen["tried"], key=lambda row: (row["return"], row["share"]))
    assert chosen["share"] == best["share"]
    weights = [load_file(folder / "rl" / "model.safetensors") for folder in (swept, plain)]
    pi0 = load_file(swept / "sft" / "model.safetensors")
    for name, value in weights[0].items():
        mixed = best["share"] * weights[1][name] + (1 - best["share"]) * pi0[name]
        assert (value - mixed).abs().max() < 1e-6, name
    drawn = {row["unit"] for row in Record(swept).scores().where(split="heldout").rows()
             if row["source"] == "policy"}  # fmt: skip
    used = {json.loads(line)["unit"]
            for part in (swept / "rollouts" / "interpolated").rglob("*.jsonl")
            for line in part.read_text().splitlines()}  # fmt: skip
    assert used
    assert not used & drawn
    with pytest.raises(ValueError, match=r"rl\.interpolate: .* 0 are left"):
        run(written, [f"output={tmp_path}", "name=none", "rl.interpolate=[1.0]", "rl.steps=2",
                      "rl.algorithm=sft", "interventions=[]"])  # fmt: skip


def test_a_finished_run_does_nothing_again(written, whole):
    from posttrain.run import run

    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.safetensors")}
    run(written, [f"output={whole.parent}"])
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*.safetensors")}


def test_the_record_says_what_happened(whole):
    found = Record(whole)
    diagnosis = found.diagnosis()
    assert diagnosis.regime in set(Regime)
    assert diagnosis.test == "sequential"
    assert {d.name for d in diagnosis.decodings} == {"rollout", "deployment"}
    scores = found.scores()
    assert len(scores.where(source="policy", split="heldout", decoding="rollout")) == 40
    keys = set().union(*(set(row) for row in found.metrics.read()))
    assert {
        "regime/J", "regime/prior", "regime/stability", "regime/plasticity",
        "regime/kl_to_pi0", "regime/nll_on_data", "regime/replay_share",
    } <= keys  # fmt: skip
    outcome = found.outcome()
    low, high = outcome["interval"]
    assert low <= outcome["gain"] <= high
    assert outcome["gain"] == pytest.approx(outcome["after"] - outcome["before"])


def test_another_recipe_in_the_same_folder_is_refused(written, whole):
    from posttrain.record import RecordError
    from posttrain.run import run

    with pytest.raises(RecordError, match=r"rl\.steps was 8, now 9"):
        run(written, [f"output={whole.parent}", "rl.steps=9"])


def test_a_checkpoint_is_diagnosed_without_sft_or_rl(written, whole, tmp_path):
    from posttrain.run import run

    folder = run(
        written,
        [f"output={tmp_path}", f"model.path={whole / 'sft'}", "sft=null", "rl=null"],
    )
    assert Record(folder).diagnosis().j_policy == Record(whole).diagnosis().j_policy
    assert Record(folder).integrity()["converged"] is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reward={kind: trl, name: nonsense}"], "trl has no 'nonsense'"),
        (["model.path=no/such/model"], "cannot load 'no/such/model'"),
        (["data.heldout=100000"], "held-out units wanted"),
        (["sft.trainer.learning_rte=0.1"], "learning_rte"),
        (["rl.stpes=3"], "stpes"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(written, tmp_path, overrides, words):
    from posttrain.run import run

    with pytest.raises(ValueError, match=words):
        run(written, [f"output={tmp_path}", *overrides])


def test_demonstrations_are_scored_without_training(written, tmp_path):
    from posttrain.regime.scores import read_scores
    from posttrain.run import score

    scores = read_scores(score(written, [f"output={tmp_path}"]))
    assert scores.returns.tolist() == [1.0] * len(scores)
    assert len(scores.where(split="heldout")) == 20
    assert not list(tmp_path.rglob("*.safetensors"))


def test_two_runs_do_not_share_a_folder(written, tmp_path):
    from posttrain.record import RecordError, locked
    from posttrain.run import run

    with (
        locked(tmp_path / ".small.lock"),
        pytest.raises(RecordError, match="another process is at work"),
    ):
        run(written, [f"output={tmp_path}"])


def launch(processes, written, tmp_path, *overrides):
    config = Path(__file__).parents[2] / "recipes" / "accelerate" / f"cpu_{processes}.yaml"
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config),
         "--main_process_port", str(29_600 + os.getpid() % 300),
         "-m", "posttrain", "run", str(written), f"output={tmp_path}", *overrides],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_accelerate_launches_two_real_processes(written, tmp_path):
    done = launch(2, written, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "small"
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    scores = Record(folder).scores().where(source="policy", split="heldout", decoding="rollout")
    assert len(scores) == 40
    assert len(set(scores.unit)) == 20
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [0, 4, 8]
    assert all(len(row["unit"]) == 10 == len(set(row["unit"])) for row in curve)


def test_an_adapter_is_trained_from_sft_to_outcome(written, tmp_path):
    from posttrain.run import run

    folder = run(written, [f"output={tmp_path}", "model.lora={rank: 4}", "rl.steps=4"])
    assert Record(folder).outcome()["units"] == 20
    assert not list((folder / "rl").glob("adapter*"))  # merged: any tool can load it


def test_every_recipe_loads():
    folder = Path(__file__).parents[2] / "recipes" / "llm"
    for path in sorted(folder.glob("*.yaml")):
        loaded = recipe.load(LlmRecipe, path)
        assert path.read_text().startswith("# ")
        assert recipe.load(LlmRecipe, recipe.dump(loaded)) == loaded
