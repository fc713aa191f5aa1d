import json
import shutil

import pytest

from posttrain.intervention.plan import Plan, Replay
from posttrain.llm import rl
from posttrain.tuning.gate import Gate, Map, map_of
from posttrain.tuning.honour import PlanError
from posttrain.tuning.state import StateError, Stateful

ACTIONS = {"a": "demonstration", "b": "rl", "c": "drop", "d": "fix", "e": "demonstration"}
LIVE = Replay(weight=1.0, share=0.25, gate="live")


def gate(*, live):
    return Gate(Map(actions=ACTIONS, success=1.0), live=live)


def test_only_a_needed_and_right_demonstration_is_kept():
    kept = gate(live=False)
    assert [unit for unit in ACTIONS if kept.keeps(unit)] == ["a", "e"]
    assert kept.shares() == {"rl": 0.2, "demonstration": 0.4, "drop": 0.2, "fix": 0.2}


def test_a_live_gate_follows_the_latest_group():
    kept = gate(live=True)
    kept.observe("a", [0.0, 1.0])
    assert kept.actions["a"] == "rl"
    kept.observe("a", [0.0, 0.5])
    assert kept.actions["a"] == "demonstration"
    kept.observe("b", [0.0])
    assert kept.actions["b"] == "demonstration"


def test_a_live_gate_never_asks_for_a_wrong_demonstration():
    kept = gate(live=True)
    kept.observe("c", [0.0, 0.0])
    kept.observe("d", [1.0])
    assert (kept.actions["c"], kept.actions["d"]) == ("drop", "fix")


def test_a_fixed_gate_and_unscorable_rollouts_change_nothing():
    fixed, live = gate(live=False), gate(live=True)
    fixed.observe("a", [1.0])
    live.observe("a", [])
    live.observe("b", [float("nan"), float("nan")])
    assert fixed.actions == live.actions == ACTIONS


def test_a_live_gate_comes_back_from_json_as_it_was():
    kept, other = gate(live=True), gate(live=True)
    assert isinstance(kept, Stateful)
    kept.observe("a", [1.0])
    kept.observe("b", [0.0])
    other.restore(json.loads(json.dumps(kept.state())))
    assert other.actions == kept.actions
    assert list(other.actions) == list(kept.actions)
    with pytest.raises(StateError, match="1 units and this run has 5"):
        other.restore({"rl": ["z"], "demonstration": [], "drop": [], "fix": []})


def test_a_gate_without_scores_of_demonstrations_is_refused():
    with pytest.raises(PlanError, match=r"replay\.gate: 'map' needs the returns"):
        map_of(Replay(weight=1.0, gate="map"), ["a"], policy={}, dataset={}, success=1.0)
    assert map_of(Replay(weight=1.0), ["a"], policy={}, dataset={}, success=1.0) is None


def test_prompts_on_which_all_fail_are_left_out_and_listed(online, sums, tmp_path):
    units = [row.unit for row in sums[0][:8]]
    given = {
        "policy_returns": {unit: [0.0] for unit in units[:4]},
        "dataset_returns": {unit: [float(i % 2)] for i, unit in enumerate(units)},
    }
    job = online.job(Replay(weight=1.0, gate="map")(Plan()), rows=sums[0][:8], **given)
    found = rl._map(job)
    listed = [json.loads(line) for line in (tmp_path / "units.jsonl").read_text().splitlines()]
    wanted = ["fix", "demonstration", "fix", "demonstration",
              "drop", "demonstration", "drop", "demonstration"]  # fmt: skip
    assert [row["action"] for row in listed] == wanted
    assert [row.unit for row in found.learnable(sums[0][:8])] == [
        u for u, what in zip(units, wanted, strict=True) if what != "fix"
    ]
    assert "keeps the demonstration of 4, leaves 0 to RL" in found.described()


def test_with_nothing_to_learn_the_run_is_refused(sums):
    rows = sums[0][:2]
    found = Map(actions={row.unit: "fix" for row in rows}, success=1.0)
    with pytest.raises(PlanError, match="nothing to learn"):
        found.learnable(rows)


def test_a_killed_run_under_a_live_gate_resumes_to_the_same_weights(online, sums, tmp_path):
    rows = sums[0][:16]
    data = {row.unit: [1.0] for row in rows}
    chosen = {"steps": 6, "save_every": 3, "eval_every": 6}

    def train(folder):
        job = online.job(
            LIVE(Plan()), rows=rows, folder=tmp_path / folder, dataset_returns=data, **chosen
        )
        return rl.train(job)[0].state_dict(), job.metrics.read()

    whole, logged = train("whole")
    shares = [row["regime/gate_rl"] for row in logged if "regime/gate_rl" in row]
    assert shares[0] == 0.0 < shares[-1]  # so there is something to remember
    checkpoints = tmp_path / "whole" / "checkpoints"
    state = json.loads((checkpoints / "checkpoint-3" / "posttrain.json").read_text())["gate"]
    assert state["rl"]
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "checkpoint-6")
    resumed, again = train("broken")
    assert all(whole[name].equal(resumed[name]) for name in whole)
    assert again == logged


def test_a_live_gate_takes_back_what_the_policy_finds_alone(online, sums):
    """Demonstrations leave groups and replay once the policy succeeds without them."""
    rows = sums[0][:8]
    trainer = online.trainer(
        LIVE(Plan()), rows=rows, value=lambda *_: 1.0,
        dataset_returns={row.unit: [1.0] for row in rows}, steps=3, num_generations=4,
        per_device_train_batch_size=32,
    )  # fmt: skip
    trainer.train()
    logged = [row for row in trainer.state.log_history if "regime/replay_share" in row]
    assert [row["regime/replay_share"] for row in logged] == [0.25, 0.0, 0.0]
    assert [row["regime/gate_rl"] for row in logged] == [0.0, 1.0, 1.0]
    # The first step draws its replay after its own rollouts: nothing is left to replay.
    assert [row["regime/replay_rows"] for row in logged] == [0.0] * 3
    assert [row["replay/nll"] for row in logged] == [0.0] * 3
