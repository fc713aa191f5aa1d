"""Other rules than the paper's: the critic's own values, and a clone in place of the data."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny

from control import pipeline
from control.agent import load
from control.datasets.hdf5 import read_hdf5
from posttrain.record import Record


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("alternatives")
    return pipeline.run(tiny(output, "diagnose.alternatives=true"), stop_after="diagnose")


def stored(folder):
    return json.loads((folder / "alternatives.json").read_text())


def test_values_are_those_of_the_critic_row_by_row(whole):
    agent, data = load(whole / "pi0"), read_hdf5(whole / "data" / "dataset.hdf5")
    policy, given = [], []
    with torch.no_grad():
        for state, action in zip(data.observations, data.actions, strict=True):
            s = torch.from_numpy(state).view(1, 1, -1)
            a = torch.from_numpy(action).clamp(-1, 1).view(1, 1, -1)
            policy.append(float(agent.critic(s, agent.actor(s).mode()).mean()))
            given.append(float(agent.critic(s, a).mean()))
    found = stored(whole)["q"]
    assert found["policy"] == pytest.approx(np.mean(policy), rel=1e-3)
    assert found["dataset"] == pytest.approx(np.mean(given), rel=1e-3)
    assert found["scale"] == pytest.approx(np.ptp(data.mc_returns(0.5)), rel=1e-5)


def test_the_clone_is_what_cloning_with_as_many_updates_gives(whole, tmp_path):
    cloning = tiny(
        tmp_path, "pretrain={algorithm: {kind: bc}, steps: 60, batch: 16, log_every: 20}",
        "finetune=null",
    )  # fmt: skip
    folder = pipeline.run(cloning)
    assert stored(whole)["bc"]["j"] == pytest.approx(Record(folder).diagnosis().j_policy)
    ours, theirs = (load(f) for f in (whole / "clone", folder / "pi0"))
    for mine, other in zip(ours.actor.parameters(), theirs.actor.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_policy_without_a_critic_has_no_values(tmp_path):
    recipe = tiny(
        tmp_path, "pretrain={algorithm: {kind: bc}, steps: 20, batch: 16}",
        "diagnose={episodes: 4, alternatives: true}",
    )  # fmt: skip
    found = stored(pipeline.run(recipe, stop_after="diagnose"))
    assert found["q"] is None
    assert 0 <= found["bc"]["j"] <= 1


def test_members_of_a_population_have_their_own(whole, tmp_path):
    both = [
        tiny(tmp_path, f"name=m{seed}", f"seed={seed}", "diagnose.alternatives=true")
        for seed in (0, 1)
    ]
    folders = pipeline.run_many(both, stop_after="diagnose")
    first, second = (stored(folder) for folder in folders)
    assert first["q"] == pytest.approx(stored(whole)["q"], rel=1e-3)
    assert first["bc"] == stored(whole)["bc"]
    assert second["q"]["policy"] != first["q"]["policy"]


def test_they_are_measured_once(whole):
    written = (whole / "alternatives.json").stat().st_mtime_ns
    (whole / ".stages" / "diagnose.json").unlink()
    pipeline.run(tiny(whole.parent, "diagnose.alternatives=true"), stop_after="diagnose")
    assert (whole / "alternatives.json").stat().st_mtime_ns == written


def test_the_report_shows_what_they_say(whole):
    from posttrain.report import write_report

    page = write_report(whole).read_text()
    q = stored(whole)["q"]
    assert "by the values of π₀’s critic" in page
    assert f"{(q['policy'] - q['dataset']) / q['scale']:+.2f}".replace("-", "−") in page
    assert "prompt" not in page.split("<main>")[1].split("Recipe, with every default")[0]
