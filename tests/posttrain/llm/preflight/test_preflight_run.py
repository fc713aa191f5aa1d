"""The whole preflight, from the command line and from Python."""

import io
import json
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from posttrain import cli
from posttrain.llm.preflight import Finding, Options, preflight, worst
from posttrain.preflight_show import findings_table, summary
from posttrain.regime.scores import Scores, write_scores
from posttrain.run import load
from posttrain.tuning import model

SMALL = ("data.size=300", "data.heldout=60", "rl.eval_units=50")


def command(*args):
    return CliRunner().invoke(cli.app, ["preflight", *args], terminal_width=100)


def recipe(folder, *overrides):
    return load("llm/arithmetic", [*SMALL, f"output={folder}", *overrides])


def by_check(found):
    return {f.check: f for f in found}


def test_the_packaged_recipe_is_sound_and_takes_seconds(tmp_path):
    begin = time.process_time()
    found = preflight(recipe(tmp_path))
    assert time.process_time() - begin < 20
    assert {f.check: f.severity for f in found if f.severity != "ok"} == {
        "settings.plan": "unknown", "model": "unknown", "length.rollouts": "unknown",
        "signal.groups": "unknown",
    }  # fmt: skip
    assert not list(tmp_path.iterdir())  # nothing is left behind where there was no run


def test_a_reward_that_pays_for_a_list_ends_the_command_with_status_4(tmp_path):
    overrides = [*SMALL, f"output={tmp_path}", 'reward={kind: regex, pattern: "[0-9]"}']
    done = command("llm/arithmetic", *overrides)
    assert done.exit_code == 4
    assert "reward.echo" in done.stdout
    assert "to stop for" in done.stdout


def test_the_machine_form_is_json_and_nothing_else(tmp_path):
    done = command("llm/arithmetic", *SMALL, f"output={tmp_path}", "rl=null", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {"check", "severity", "text", "change", "value"} == set(found[0])
    assert [f["severity"] for f in found if f["check"] == "rehearsal"] == ["unknown"]


def test_another_kind_of_recipe_is_refused():
    done = command("control/pendulum")
    assert done.exit_code == 2
    assert "only a language model" in done.stderr


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("data.heldout=5000", "data"),
        ("reward={kind: trl, name: no_such}", "reward"),
        ("model.path=/nowhere/at/all", "model"),
        ("sft.trainer={deepspeed: /nowhere/ds.json}", "deepspeed"),
    ],
)
def test_what_the_run_would_refuse_becomes_a_finding(tmp_path, override, check):
    found = by_check(preflight(recipe(tmp_path, override)))
    assert found[check].severity == "stop"
    assert "settings.sampler" in found  # and what can be checked without it, is


def test_a_run_with_pi_0_and_scores_is_read_and_gets_its_findings(tmp_path, tiny):
    given = recipe(tmp_path, "sft=null", f"model.path={tiny}")
    run = tmp_path / given.name
    policy, tokenizer = model.load(tiny)
    model.save(policy, tokenizer, run / "sft")
    rows = [
        {"source": "policy", "unit": f"u{i}", "return": float(i < 4 and k % 2), "seed": k,
         "truncated": i == 0, "split": "heldout", "decoding": "rollout"}
        for i in range(10) for k in range(8)
    ]  # fmt: skip
    write_scores(Scores.from_rows(rows), run / "scores.parquet")
    found = by_check(preflight(given))
    assert found["model"].severity == "ok"
    assert found["length.rollouts"].value["cut"] == pytest.approx(0.1)
    assert found["signal.groups"].severity == "warn"
    assert found["signal.groups"].value["share"] == pytest.approx(0.6, abs=0.01)
    stored = json.loads((run / "preflight.json").read_text())
    assert {f["check"] for f in stored} == set(found)


def test_rollouts_are_drawn_where_there_are_none(tmp_path, tiny):
    given = recipe(tmp_path, "sft=null", f"model.path={tiny}")
    found = by_check(preflight(given, Options(rollouts=3)))
    assert found["signal.groups"].value["samples"] == 3
    assert found["length.rollouts"].value["rollouts"] == 180
    assert found["deepspeed.checkpoint"].severity == "unknown"


def test_a_finding_that_is_not_ok_must_say_what_to_change():
    with pytest.raises(ValueError, match="what to change"):
        Finding(check="x", severity="stop", text="broken")
    with pytest.raises(ValueError, match="severity"):
        Finding(check="x", severity="bad", text="broken")


def test_the_worst_of_all_decides_and_is_shown_first():
    found = [
        Finding(check="a", severity="ok", text="fine"),
        Finding(check="b", severity="warn", text="hm", change="do b"),
        Finding(check="c", severity="stop", text="broken", change="do c"),
    ]
    assert (worst(found), worst(found[:2]), worst([])) == ("stop", "warn", "ok")
    assert summary(found) == "1 to stop for, 1 to look at, 0 unknown, 1 of 3 checks in order"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(findings_table(found))
    shown = console.export_text()
    assert shown.index("broken") < shown.index("hm")
    assert "fine" not in shown


@pytest.mark.parametrize(
    ("name", "rehearsed"),
    [("llm/shapes", True), ("llm/vault", False), ("llm/arithmetic_dpo", False)],
)
def test_pictures_environments_and_preferences_have_a_preflight(tmp_path, name, rehearsed):
    small = ["data.size=300", "data.heldout=40", "rl.eval_units=20", f"output={tmp_path}"]
    found = by_check(preflight(load(name, small)))
    assert {f.severity for f in found.values()} == {"ok", "unknown"}
    assert {"sft.end", "template.end", "reward.perfect", "length.demonstrations"} <= set(found)
    assert ("parity.prompts" in found) == rehearsed
    assert ("rehearsal" in found) != rehearsed
