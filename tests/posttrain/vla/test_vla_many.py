"""Diagnoses of a robot policy whose data, returns, logs and actions are of many kinds."""

import csv
import json
from dataclasses import replace

import pytest
import robot_runs as small

from posttrain.record import Record
from posttrain.vla.demonstrations import DemonstrationsError


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The record of a run that is diagnosed, with starts that were cloned."""
    return small.diagnosed(
        tmp_path_factory.mktemp("plain"), diagnose={"seen_starts": 30, "floor": 0, "film": 0}
    )


@pytest.fixture(scope="session")
def stranger(plain, tmp_path_factory):
    """D of the plain run without seeds and successes, as somebody else's dataset has none."""
    from posttrain.vla.lerobot import read, write

    found = read(Record(plain).data / "demonstrations")
    folder = tmp_path_factory.mktemp("stranger") / "d"
    episodes = tuple(replace(e, seed=None, success=None, origin="unknown") for e in found.episodes)
    write(replace(found, episodes=episodes), folder)
    return folder


def text(folder):
    return json.loads((Record(folder).data / "account.json").read_text())["text"]


def flags(folder):
    return {flag.kind for flag in Record(folder).diagnosis().flags}


def cloned(plain, **changed):
    """What a run does that takes its policy from the plain one."""
    return {"sft": None, "model": {"path": str(plain / "sft")},
            "diagnose": {"floor": 0, "film": 0, "seen_starts": 0}, **changed}  # fmt: skip


def log_of(plain, path, *, unit=None):
    """pi_0's episodes, as another tool would write them down."""
    held = Record(plain).scores().where(source="policy", split="heldout", decoding="rollout")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "init", "success", "steps"])
        for row in held.rows():
            task, seed = row["unit"].split("/")
            writer.writerow([task, unit or seed, row["success"], row["steps"]])
    return path


def no_simulator(patch):
    from posttrain.vla.work import Run

    def refuse(_):
        raise AssertionError

    patch.setattr(Run, "fleet", refuse)


def test_a_log_of_another_tool_is_diagnosed_without_a_simulator(plain, tmp_path):
    log = log_of(plain, tmp_path / "log.csv")
    with pytest.MonkeyPatch.context() as patch:
        no_simulator(patch)
        folder = small.diagnosed(tmp_path, **cloned(plain, diagnose={"scores": str(log)}))
    ours, theirs = Record(plain).diagnosis(), Record(folder).diagnosis()
    assert (theirs.j_policy, theirs.j_dataset) == (ours.j_policy, ours.j_dataset)


def test_rl_begins_from_a_log_whose_units_name_starts(plain, tmp_path):
    log = log_of(plain, tmp_path / "log.csv")
    given = cloned(plain, diagnose={"scores": str(log), "film": 1})
    folder = small.whole(tmp_path, **given, interventions=[], rl={"steps": 2, "eval_every": 2})
    assert Record(folder).outcome()["units"] == 10
    assert Record(folder).outcome()["deployment"] is None


def test_rl_is_refused_where_a_log_does_not_name_starts(plain, tmp_path):
    log = log_of(plain, tmp_path / "log.csv", unit="init a")
    given = cloned(plain, diagnose={"scores": str(log)})
    with pytest.raises(ValueError, match=r"diagnose\.scores: unit '.*' names no start"):
        small.whole(tmp_path, **given, interventions=[])
    lost = tmp_path / "lost.csv"
    lost.write_text(log_of(plain, tmp_path / "known.csv").read_text().replace("red", "violet"))
    given = cloned(plain, diagnose={"scores": str(lost)})
    with pytest.raises(ValueError, match="must read task/seed"):
        small.whole(tmp_path / "two", **given, interventions=[])


def test_returns_are_replayed_in_the_environment(plain, tmp_path):
    folder = small.diagnosed(tmp_path, **cloned(plain, data={"returns": "replayed"}))
    assert "40 episodes from replaying their actions" in text(folder)
    assert Record(folder).diagnosis().j_dataset == 1


def test_data_of_somebody_else_is_assumed_and_not_paired(plain, stranger, tmp_path):
    data = {"path": str(stranger), "episodes": 30, "returns": "assumed", "success_filtered": True}
    folder = small.diagnosed(tmp_path, **cloned(plain, data=data))
    assert "40 episodes assumed to be successes" in text(folder)
    assert "40 with unknown starts" in text(folder)
    assert {"assumed_returns", "success_filtered"} <= flags(folder)
    assert Record(folder).diagnosis().test != "sequential"


@pytest.mark.parametrize(
    ("data", "sft", "words"),
    [
        ({}, None, "holds no success"),
        ({"returns": "assumed"}, {"only_success": True}, r"data\.columns\.success"),
    ],
)
def test_what_somebody_elses_data_lacks_is_said(plain, stranger, tmp_path, data, sft, words):
    given = cloned(plain, data={"path": str(stranger), "episodes": 30, **data})
    with pytest.raises(DemonstrationsError, match=words):
        small.diagnosed(tmp_path, **{**given, "sft": sft})


def test_a_gate_is_refused_where_starts_are_unknown(plain, stranger, tmp_path):
    data = {"path": str(stranger), "episodes": 30, "returns": "assumed"}
    gate = [{"kind": "replay", "weight": 0.5, "gate": "map"}]
    with pytest.raises(ValueError, match=r"replay\.gate"):
        small.whole(tmp_path, **cloned(plain, data=data), interventions=gate)


def test_a_gate_follows_the_starts_that_were_cloned(plain, tmp_path):
    gate = [{"kind": "replay", "weight": 0.5, "gate": "map"}]
    given = cloned(plain, diagnose={"seen_starts": 30, "floor": 0, "film": 0})
    folder = small.whole(tmp_path, **given, interventions=gate, rl={"steps": 2, "eval_every": 2})
    rows = Record(folder).metrics.read()
    assert any("regime/replay_rows" in row for row in rows)


def test_time_costs_a_slow_demonstrator(plain, tmp_path):
    """Half of D's steps are lost: its return falls, and so does that of pi_0 by its own steps."""
    given = cloned(
        plain,
        environment={"returns": {"time_penalty": 0.5}, "max_steps": 20},
        data={"options": {"idle": 0.5}},
        diagnose={"decides": "deployment", "floor": 0, "film": 0, "seen_starts": 0},
    )
    found = Record(small.diagnosed(tmp_path, **given)).scores()
    for row in found.rows():
        assert row["return"] == pytest.approx(row["success"] * (1 - 0.5 * row["steps"] / 20))
    assert found.where(source="dataset").returns.max() < 1


def test_chunks_of_numbers_are_cloned_with_an_adapter_and_processes_of_their_own(tmp_path):
    folder = small.diagnosed(
        tmp_path,
        environment={"options": {"colours": 2, "actions": "continuous", "state": True},
                     "state": True, "vector": "async", "envs": 2},
        model={"prompt": "{instruction} at {state}", "lora": {"rank": 2},
               "actions": {"bins": 7, "chunk": 2, "execute": 1}},
        sft={"only_success": True, "trainer": {"max_steps": 2, "per_device_train_batch_size": 8}},
        diagnose={"floor": 2, "film": 1, "seen_starts": 0},
    )  # fmt: skip
    assert Record(folder).scores().task is not None
    assert not list((folder / "sft").glob("adapter*"))


def test_a_policy_is_cloned_further(plain, tmp_path):
    from safetensors.torch import load_file

    given = cloned(plain)
    given["sft"] = {"trainer": {"max_steps": 2, "per_device_train_batch_size": 8}}
    folder = small.diagnosed(tmp_path, **given)
    one, two = (load_file(f / "sft" / "model.safetensors") for f in (plain, folder))
    assert one.keys() == two.keys()
    assert any((one[name] != two[name]).any() for name in one)
