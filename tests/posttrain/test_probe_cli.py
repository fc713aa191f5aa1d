"""What `posttrain probe` hands to the race, and how it shows what came of it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.probe_cli import WIDTH, bar

RECIPE = """
kind: llm
name: mine
data: {path: rows.jsonl}
reward: {kind: regex, pattern: "1"}
"""
COUNTS = {
    "steps": 20, "rollouts": 1280, "demonstrations": 0, "evaluations": 16, "comparisons": 80,
    "seconds": 12.5,
}  # fmt: skip


def arm(name, mean, gain, interval, *, goes_on):
    return {
        "name": name, "mean": mean, "by_seed": [mean, mean], "goes_on": goes_on,
        "against_best": {"gain": gain, "interval": interval},
    }  # fmt: skip


FOUND = {
    "rounds": [
        {
            "steps": 20,
            "best": "plain",
            "arms": [
                arm("plain", 0.6, 0.0, [0.0, 0.0], goes_on=True),
                arm("stiff", 0.4, -0.2, [-0.3, -0.1], goes_on=False),
            ],
        }
    ],
    "cost": {
        "legs": [{"arm": "plain", "seed": 0, **COUNTS}],
        "total": COUNTS,
        "handed_over": {**COUNTS, "comparisons": 0},
    },
    "arms": {
        "plain": {"plan": {"interventions": []}, "algorithm": "grpo"},
        "more": {"plan": {"interventions": []}, "algorithm": "sft"},
    },
    "reason": "plain won a race of 2 arms.",
}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the race was called with; it writes a race that is over."""
    import posttrain.llm.race

    seen = []

    def race(settings, probe):
        seen.append((settings, probe))
        folder = Path(settings.output) / settings.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "probe.json").write_text(json.dumps(FOUND))
        return folder

    monkeypatch.setattr(posttrain.llm.race, "race", race)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return seen


def test_what_is_said_of_the_race_is_no_part_of_the_runs_recipe(asked):
    """So that `posttrain run` afterwards finds the record that it would have made."""
    found = CliRunner().invoke(app, ["probe", "mine.yaml", "probe.steps=7", "seed=5"])
    assert found.exit_code == 0, found.output
    (settings, probe) = asked[0]
    assert (settings.seed, settings.probe.steps, probe.steps) == (5, 20, 7)


def test_a_runs_folder_is_raced_where_it_is(asked, tmp_path):
    folder = tmp_path / "elsewhere" / "mine"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    found = CliRunner().invoke(app, ["probe", str(folder), "probe.eta=3", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout) == FOUND
    (settings, probe) = asked[0]
    assert (Path(settings.output) / settings.name, probe.eta) == (folder, 3)


def test_arms_stand_with_their_intervals_and_the_bill_below(asked):
    said = CliRunner().invoke(app, ["probe", "mine.yaml"], env={"COLUMNS": "160"}).stdout
    plain, stiff = (
        next(x for x in said.splitlines() if x.startswith(n + "  ")) for n in ("plain", "stiff")
    )
    assert "plain: plain RL\nmore: further SFT on D\n" in said
    assert "0.600" in plain
    assert plain.rstrip().endswith(" on")
    assert "-0.200" in stiff
    assert "-0.300 to -0.100" in stiff
    assert not stiff.rstrip().endswith(" on")
    assert "├" in stiff or "[" in stiff
    assert "handed over" in said
    assert "plain won a race of 2 arms." in said


def test_a_bar_shows_an_interval_on_its_axis():
    drawn = bar(-0.5, -0.25, 0.0, 1.0)
    assert len(drawn) == WIDTH
    assert [drawn.index(end) for end in "├●┤"] == [4, 5, 7]
