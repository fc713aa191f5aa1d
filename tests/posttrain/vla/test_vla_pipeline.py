"""A robot policy's whole run: what it leaves, killed in every stage, and begun from another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import robot_runs as small
import yaml
from safetensors.torch import load_file

from posttrain.record import Record, RecordError
from posttrain.tuning import training


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """The record of the unbroken run, with its report."""
    from posttrain.run import run

    folder = tmp_path_factory.mktemp("whole")
    return run(small.written(folder), [f"output={folder / 'runs'}"])


def test_every_file_of_the_record_reads_back(run_of):
    from posttrain.vla.lerobot import read, validate

    found = Record(run_of)
    assert found.recipe()["kind"] == "vla"
    assert found.diagnosis().j_dataset == 1
    scores = found.scores()
    assert {*scores.task.tolist()} == {"green", "red"}
    assert len(scores.where(source="policy", split="heldout", decoding="rollout")) == 10
    assert len(scores.where(source="policy", split="seen")) == 4
    keys = set().union(*(set(row) for row in found.metrics.read()))
    assert {"regime/J", "regime/prior", "regime/stability", "regime/plasticity",
            "regime/kl_to_pi0", "regime/nll_on_data", "replay/nll"} <= keys  # fmt: skip
    assert [i["kind"] for i in found.plan()["plan"]["interventions"]] == [
        "anchor", "replay", "warmup",
    ]  # fmt: skip
    assert found.evaluations().num_rows > 0
    assert found.outcome()["units"] == 10
    assert json.loads((run_of / "parity.json").read_text())["units"] == 5
    assert 0 <= json.loads((run_of / "signal.json").read_text())["share"] <= 1
    assert "green" in (run_of / "tasks.json").read_text()
    assert json.loads(found.floor_file.read_text())["episodes"] == 4
    films = json.loads((found.films / "index.json").read_text())
    assert {film["side"] for film in films} == {"data", "pi0", "finetuned"}
    assert len({film["unit"] for film in films}) == 1
    assert all((found.films / film["gif"]).read_bytes().startswith(b"GIF") for film in films)
    assert validate(found.data / "demonstrations") == []
    assert len(read(found.data / "demonstrations").episodes) == 40
    assert "<html" in (run_of / "report.html").read_text()


def test_evaluations_on_the_way_are_of_the_first_starts_of_the_diagnosis(run_of):
    found = Record(run_of)
    held = found.scores().where(source="policy", split="heldout", decoding="rollout")
    curve = [json.loads(line) for line in (run_of / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [0, 2, 4]
    for row in curve:
        assert {*row["unit"]} == {*held.unit[:5].tolist()}
        assert {unit.split("/")[0] for unit in row["unit"]} == {"green", "red"}


class KilledError(BaseException):
    """As a signal would, it is caught by nobody."""


def killed_after(stage):
    """A run that dies when a stage is done, before it is marked."""

    def arrange(patch):
        mark = Record.mark

        def die(self, name, **facts):
            if name == stage:
                raise KilledError
            mark(self, name, **facts)

        patch.setattr(Record, "mark", die)

    return arrange


def killed_in_training(step):
    def arrange(patch):
        end = training.Keep.on_step_end

        def die(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KilledError
            return end(self, args, state, control, **kwargs)

        patch.setattr(training.Keep, "on_step_end", die)

    return arrange


def killed_while_playing(calls):
    def arrange(patch):
        from posttrain.vla import measure

        play, made = measure.play, []

        def die(*args, **kwargs):
            made.append(1)
            if len(made) > calls:
                raise KilledError
            return play(*args, **kwargs)

        patch.setattr(measure, "play", die)

    return arrange


def test_a_run_killed_in_every_stage_ends_as_the_unbroken_one(run_of, tmp_path):
    moments = [
        killed_after("data"), killed_in_training(6), killed_after("sft"), killed_after("score"),
        killed_while_playing(1), killed_while_playing(2), killed_after("sample"),
        killed_after("diagnose"), killed_in_training(3), killed_after("rl"),
        killed_while_playing(1), killed_after("outcome"),
    ]  # fmt: skip
    for arrange in moments:
        with pytest.MonkeyPatch.context() as patch:
            arrange(patch)
            with pytest.raises(KilledError):
                small.whole(tmp_path)
    found = small.contents(small.whole(tmp_path))
    wanted = small.contents(run_of)
    for name, value in wanted.items():
        assert found[name] == value, name


def test_a_run_begins_from_another(run_of, tmp_path):
    rival = small.whole(
        tmp_path, name="rival", start_from=str(run_of), interventions=[], rl={"steps": 2}
    )
    for name in ("sft/model.safetensors", "scores.parquet", "diagnosis.json", "floor.json"):
        assert (rival / name).read_bytes() == (run_of / name).read_bytes()
    assert Record(rival).outcome()["units"] == 10
    assert not (rival / "rollouts" / "pi0").exists()
    with pytest.raises(ValueError, match="seed = 0, this recipe 1"):
        small.whole(tmp_path, name="other", start_from=str(run_of), seed=1)


def test_a_changed_recipe_and_an_unknown_stage_are_refused(run_of):
    from posttrain.run import run

    recipe = run_of.parents[1] / "recipe.yaml"
    with pytest.raises(RecordError, match=r"rl\.steps was 4, now 5"):
        run(recipe, [f"output={run_of.parent}", "rl.steps=5"])
    with pytest.raises(ValueError, match="--stop-after"):
        run(recipe, [f"output={run_of.parent}"], stop_after="training")


def test_a_study_compares_plans_of_a_robot_policy(tmp_path):
    from posttrain.study.run import load_study, run_study

    recipe = small.written(tmp_path, rl={"steps": 2, "eval_every": 2})
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({
        "kind": "study", "name": "two", "recipe": str(recipe), "output": str(tmp_path / "studies"),
        "seeds": [0], "settings": [{"name": "small"}], "arms": [
            {"name": "nothing", "overrides": {"interventions": []}},
            {"name": "replay", "overrides": {"interventions": [{"kind": "replay", "weight": 0.5}]}},
        ],
    }))  # fmt: skip
    run_study(load_study(study), backend="threading")
    assert len(list((tmp_path / "studies").glob("two/small/*/seed-0/outcome.json"))) == 2


def launch(recipe, output):
    config = Path(__file__).parents[3] / "recipes" / "accelerate" / "cpu_2.yaml"
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config),
         "--main_process_port", str(29_200 + os.getpid() % 300),
         "-m", "posttrain", "run", str(recipe), f"output={output}"],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_two_real_processes_end_alike_when_they_are_killed(tmp_path):
    """Ranks play different episodes, of different lengths, and give one policy."""
    recipe = small.written(tmp_path)
    done = launch(recipe, tmp_path / "one")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "one" / "small"
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    scores = Record(folder).scores().where(source="policy", split="heldout", decoding="rollout")
    assert len(scores) == 10 == len(set(scores.unit))
    wanted = small.contents(folder)
    last = folder / "checkpoints" / "rl" / "checkpoint-4"
    (last / "complete.json").unlink()  # killed while it was saving
    for stage in ("rl", "outcome"):
        (folder / ".stages" / f"{stage}.json").unlink()
    again = launch(recipe, tmp_path / "one")
    assert again.returncode == 0, again.stderr[-2000:]
    found = small.contents(folder)
    assert found["metrics.jsonl"] == wanted["metrics.jsonl"]
    assert found["rl/model.safetensors"] == wanted["rl/model.safetensors"]
    start, end = (load_file(folder / name / "model.safetensors") for name in ("sft", "rl"))
    assert any((start[name] != end[name]).any() for name in start)
