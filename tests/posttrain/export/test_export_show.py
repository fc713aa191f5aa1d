"""`posttrain prescribe --for`: the options in a terminal and in JSON, one for each prescription."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from posttrain import cli
from posttrain.record import write_json, write_text
from posttrain.regime.diagnosis import diagnose


def command(*args):
    return CliRunner().invoke(cli.app, [str(a) for a in args], terminal_width=80)


@pytest.fixture
def inferior(tmp_path):
    """A diagnosis of a policy that succeeds sometimes against one that always does."""
    path = tmp_path / "diagnosis.json"
    write_json(path, diagnose([0.0, 1.0, 1.0, 1.0, 1.0] * 40, [1.0] * 200).to_dict())
    return path


def test_each_prescription_comes_with_its_options(inferior):
    plain = json.loads(command("prescribe", inferior, "--json").stdout)
    found = json.loads(command("prescribe", inferior, "--json", "--for", "ms-swift").stdout)
    assert [row["plan"] for row in found] == [row["plan"] for row in plain]
    assert all("export" not in row for row in plain)
    best = found[0]["export"]
    assert best["options"]["--chord_mu_decay_steps"] == 100
    assert best["sources"]["--chord_mu_peak"] == "swift/rlhf_trainers/args_mixin.py"
    assert best["fields"]["replay.token_weight"] == "exact"


def test_the_terminal_shows_options_and_what_cannot_be_done(inferior):
    done = command("prescribe", inferior, "--for", "verl", "--steps", 50)
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    assert "trainer.total_training_steps=50" in text
    assert "cannot replay.weight: verl has no option" in text
    assert "Posttrain's own GRPO" in text


def test_further_sft_is_no_rl_to_be_exported(inferior):
    found = json.loads(command("prescribe", inferior, "--json", "--for", "verl").stdout)
    assert [row["export"] is None for row in found] == [row["trains"] == "sft" for row in found]
    assert any(row["trains"] == "sft" for row in found)
    assert "no RL: further SFT on D" in command("prescribe", inferior, "--for", "verl").stdout


def test_an_unknown_framework_is_a_sentence_and_status_2(inferior):
    done = command("prescribe", inferior, "--for", "vwrl")
    assert done.exit_code == 2
    assert "framework must be one of" in done.stderr


def test_a_learner_that_the_framework_has_is_prescribed_for(inferior):
    found = json.loads(command("prescribe", inferior, "--json", "--for", "lerobot").stdout)
    assert found[0]["export"]["algorithm"] == "sac"
    assert found[0]["export"]["options"]["--online_ratio"] == 0.5


def test_a_runs_algorithm_and_steps_are_taken(inferior, tmp_path):
    write_text(tmp_path / "recipe.yaml", "kind: llm\nrl: {algorithm: rloo, steps: 30}\n")
    found = json.loads(command("prescribe", tmp_path, "--json", "--for", "openrlhf").stdout)
    options = found[0]["export"]["options"]
    assert options["--algo.advantage.estimator"] == "rloo"
    assert found[0]["plan"]["interventions"][0]["weight"]["steps"] == 30
