"""`python -m control`: exit statuses, sentences, and what each verb prints."""

import json
import resource
import subprocess
import sys

import pytest
import yaml
from tiny import TEXT, tiny
from typer.testing import CliRunner

from control import cli, pipeline
from posttrain.record import Record
from posttrain.regime.scores import read_scores


def command(*args):
    return CliRunner().invoke(cli.app, [str(a) for a in args], terminal_width=100)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pipeline.run(tiny(tmp_path_factory.mktemp("run")))


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("verb", "last", "missing"),
    [("pretrain", "pretrain", "sample"), ("diagnose", "diagnose", "finetune"),
     ("finetune", "outcome", None)],
)  # fmt: skip
def test_each_verb_runs_the_stages_up_to_its_own(written, tmp_path, verb, last, missing):
    done = command(verb, written, f"output={tmp_path}", "finetune.steps=5", "pretrain.steps=10")
    assert done.exit_code == 0, done.output
    stages = Record(tmp_path / "tiny").stages()
    assert last in stages
    assert missing not in stages
    assert str(tmp_path / "tiny") in done.stdout.replace("\n", "")


def test_a_finished_run_ends_with_its_verdict_and_its_gain(run, written):
    done = command("finetune", written, f"output={run.parent}")
    regime = Record(run).diagnosis().regime.upper()
    assert regime in done.stdout
    assert "gain" in done.stdout
    assert "Held-out" not in done.stdout


def test_a_run_and_its_agent_are_evaluated_alike(run, tmp_path):
    env = yaml.safe_load(TEXT)["env"]
    out = tmp_path / "scores.jsonl"
    first = command("evaluate", run, "--episodes", 5, "--out", out)
    again = command(
        "evaluate",
        run / "rl",
        "--episodes",
        5,
        "--env",
        yaml.safe_dump(env, default_flow_style=True).strip(),
    )
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert first.stdout == again.stdout
    table = read_scores(out)
    assert len(table) == 5
    assert f"J = {table.returns.mean():.4g}, 95 % interval" in first.stdout


def test_pi0_is_played_when_it_is_asked_for(run):
    found = Record(run).outcome()
    said = command("evaluate", run, "--pi0", "--episodes", 50).stdout
    value = float(said.split()[2].rstrip(","))
    assert value == pytest.approx(found["before"], abs=0.5)


def test_noise_is_drawn_from_the_episodes_own_streams(run):
    one, two = (command("evaluate", run, "--noise", "--episodes", 6) for _ in range(2))
    assert one.stdout == two.stdout


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["evaluate", "."], "no agent.json"),
        (["datasets", "hoper-medium-v2"], "did you mean hopper-medium-v2"),
        (["datasets", "hopper-medium-v2", "--read"], "no such file"),
        (["pretrain", "control/pointmase"], "did you mean control/pointmaze"),
        (["pretrain", "control/pointmaze", "pretrian.steps=3"], "did you mean 'pretrain'"),
        (["diagnose", "llm/arithmetic"], "kind: wanted 'control'"),
    ],
)
def test_bad_input_ends_with_status_2_and_a_sentence(args, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    done = command(*args)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_needs_an_environment_to_be_played_in(run):
    done = command("evaluate", run / "pi0")
    assert done.exit_code == 2
    assert "--env" in done.stderr
    wrong = command("evaluate", run / "pi0", "--env", "CartPole-v1")
    assert wrong.exit_code == 2
    assert "CartPole-v1" in wrong.stderr


def test_the_registry_is_listed_and_one_entry_is_shown_whole():
    listed = command("datasets").stdout
    assert "walker2d-medium-replay-v2" in listed
    assert sum("*" in line for line in listed.splitlines()) == 21
    shown = command("datasets", "hopper-medium-v2").stdout
    for fact in ("hopper_medium-v2.hdf5", "3234.3", "mujoco/hopper/medium-v0", "Hopper-v4"):
        assert fact in shown.replace("\n", "")


def test_a_file_is_summarised(run):
    data = run / "data" / "dataset.hdf5"
    said = command("datasets", data, "--read").stdout
    assert "12, 12 of them with a return" in said
    assert "local/corridor-demo-noise0.5" in said


def test_only_control_recipes_are_listed():
    listed = command("recipes").stdout
    assert "control/pointmaze" in listed
    assert "llm/" not in listed
    assert command("recipes", "control/pendulum").stdout.startswith("#")


def test_help_loads_nothing_heavy_and_answers_at_once():
    code = (
        "import sys, control.cli, control.settings\n"
        "heavy = {'torch', 'gymnasium', 'minari', 'h5py', 'mujoco', 'scipy', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "control", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 0.5  # the CPU's time: others may be at work here
    for verb in ("pretrain", "diagnose", "finetune", "evaluate", "datasets", "recipes"):
        assert verb in done.stdout


def test_a_saved_agent_fits_only_its_environment(run):
    done = command("evaluate", run / "pi0", "--env", "Pendulum-v1")
    assert done.exit_code == 2
    assert "observes" in done.stderr


def test_what_posttrain_prescribes_for_a_run_is_what_its_learner_can_do(run, tmp_path):
    from posttrain import cli as other

    found = CliRunner().invoke(other.app, ["prescribe", str(run), "--json"])
    assert found.exit_code == 0, found.output
    mine = json.loads(found.stdout)
    assert mine == json.loads((run / "plan.json").read_text())["alternatives"]
