"""The monitor beside RL of a tiny model, with returns of pi_0 and D that are made up."""

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, chain
from posttrain.llm import prompts, reward, rl
from posttrain.llm.settings import Decoding, MonitorSettings, RegexReward, RlSettings
from posttrain.record import MetricsLog
from posttrain.tuning import model
from posttrain.tuning.honour import PlanError
from posttrain.tuning.monitor import check_monitor
from posttrain.tuning.world import World

SOMETIMES = reward.make_judge(RegexReward(pattern=r"[37]"), scale=(0.0, 1.0))
KEEP = chain(Anchor(coefficient=0.1), Replay(weight=1.0, share=0.25))(Plan())
TRAINER = {"per_device_train_batch_size": 64, "num_generations": 4, "learning_rate": 1e-2,
           "logging_steps": 1, "per_device_eval_batch_size": 8}  # fmt: skip


def by_the_answer(rows, texts):
    """1 for what the demonstrations say, and this policy never does."""
    right = [text == str(row["answer"]) for row, text in zip(rows, texts, strict=True)]
    return [reward.Judgement(float(x)) for x in right]


def train(tiny, sums, plan, folder, *, watch, pi0=0.0, data=1.0, judge=SOMETIMES, steps=6):
    own, heldout = sums
    _, tokenizer = model.load(tiny)
    said = [(row, prompts.demonstration_ids(tokenizer, row)[1]) for row in heldout[:8]]
    given = rl.Experience(
        rows=own[:64],
        heldout=heldout,
        pi0_rollouts=said,
        prior=0.5,
        alpha=0.05,
        scale=(0.0, 1.0),
        policy_returns={} if pi0 is None else {row.unit: [pi0] for row in heldout},
        dataset_returns={row.unit: [data] for row in (*own, *heldout)},
    )
    job = rl.Job(
        pi0=tiny,
        settings=RlSettings(
            steps=steps, eval_every=3, eval_units=8, save_every=2, probe_units=8, replay_rows=8,
            monitor=watch, trainer=TRAINER,
        ),
        plan=plan,
        experience=given,
        judge=judge,
        load=model.load,
        base=model.load(tiny)[0].state_dict,
        rollout=Decoding(max_new_tokens=4),
        lora=None,
        seed=3,
        folder=folder / "checkpoints",
        metrics=MetricsLog(folder / "metrics.jsonl"),
        curve=MetricsLog(folder / "curve.jsonl"),
        world=World(),
    )  # fmt: skip
    trained, _ = rl.train(job)
    return {name: value.clone() for name, value in trained.state_dict().items()}


def rows(file):
    return MetricsLog(file).read()


def column(folder, key):
    return [row[key] for row in rows(folder / "metrics.jsonl") if key in row]


def events(folder):
    return rows(folder / "events.jsonl")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


LOOKS = MonitorSettings(window=2, alpha=0.4)
ANSWERS = replace(LOOKS, adapt=("release", "tighten"), factor=4.0)


@pytest.fixture(scope="module")
def alone(tiny, sums, tmp_path_factory):
    """Weights and folder of a run without a monitor."""
    folder = tmp_path_factory.mktemp("alone")
    return train(tiny, sums, KEEP, folder, watch=None), folder


@pytest.fixture(scope="module")
def adapted(tiny, sums, tmp_path_factory):
    """Weights and folder of a run that is above D and below pi_0, and answers to both."""
    folder = tmp_path_factory.mktemp("adapted")
    return train(tiny, sums, KEEP, folder, watch=ANSWERS, pi0=1.0, data=0.0), folder


def test_watching_alone_changes_no_bit_of_the_weights(alone, tiny, sums, tmp_path):
    """Though it sees a drop and a passing of D, which it tells."""
    watched = train(tiny, sums, KEEP, tmp_path, watch=LOOKS, pi0=1.0, data=0.0)
    assert same(alone[0], watched)
    assert {event["kind"] for event in events(tmp_path)} >= {"passed", "dropped"}
    assert all(event["done"].startswith("nothing") for event in events(tmp_path))
    assert column(alone[1], "reward") == column(tmp_path, "reward")
    assert not column(alone[1], "monitor/J")


def test_no_alarm_no_answer(alone, tiny, sums, tmp_path):
    """pi_0 was no better, and D is: whatever may be adapted, nothing is."""
    eager = replace(LOOKS, adapt=("release", "tighten", "stop"))
    watched = train(tiny, sums, KEEP, tmp_path, watch=eager, pi0=0.0, data=1.0)
    assert same(alone[0], watched)
    assert events(tmp_path) == []


def test_what_is_logged_is_the_mean_of_the_windows_own_rollouts(tiny, sums, tmp_path):
    train(tiny, sums, KEEP, tmp_path, watch=replace(LOOKS, window=4), pi0=0.5, data=0.25)
    own = column(tmp_path, "regime/on_policy_reward")
    # Windows of 4 open at steps 1, 3 and 5; the oldest open one speaks.
    begun = [0, 0, 0, 0, 2, 2]
    means = [sum(own[b : n + 1]) / (n + 1 - b) for n, b in enumerate(begun)]
    assert column(tmp_path, "monitor/J") == pytest.approx(means)
    gaps = [mean - 0.25 for mean in means]
    assert column(tmp_path, "monitor/gap_to_data") == pytest.approx(gaps)
    for name in ("J", "gap_to_data", "stability", "plasticity"):
        ends = [column(tmp_path, f"monitor/{name}{end}") for end in ("_low", "", "_high")]
        assert all(low <= mid <= high for low, mid, high in zip(*ends, strict=True)), name
    assert column(tmp_path, "monitor/stability")[0] == pytest.approx(means[0] - 0.5)


@pytest.mark.parametrize("kept", [Replay(share=0.5), Replay(prefix_share=0.5, prefix=1.0)])
def test_demonstrations_in_a_group_are_not_the_policys_returns(kept, tiny, sums, tmp_path):
    train(tiny, sums, kept(Plan()), tmp_path, watch=LOOKS, judge=by_the_answer, steps=2)
    assert column(tmp_path, "monitor/J") == [0.0, 0.0]
    if kept.share.peak:
        assert column(tmp_path, "reward") == pytest.approx([0.5, 0.5])


def test_each_answer_turns_its_own_dial_once_a_window(alone, adapted):
    weights, folder = adapted
    assert not same(alone[0], weights)
    at = {
        kind: [event["step"] for event in events(folder) if event["kind"] == kind]
        for kind in ("passed", "dropped")
    }
    # A dial that is turned after a step holds from the next one on.
    turned = {kind: [sum(s < n for s in steps) for n in range(1, 7)] for kind, steps in at.items()}
    assert all(len(steps) >= 2 for steps in at.values())
    assert all(b - a >= 2 for steps in at.values() for a, b in pairwise(steps))
    replayed, anchored = (column(folder, f"regime/{x}") for x in ("replay_weight", "anchor"))
    assert replayed == pytest.approx([4.0**-n for n in turned["passed"]])
    assert anchored == pytest.approx([0.1 * 4.0**n for n in turned["dropped"]])
    shares, first = column(folder, "regime/replay_share"), at["passed"][0]
    assert shares[first - 1] == 0.25
    assert sum(shares[first:]) < 0.25 * (6 - first) / 2


def test_a_killed_run_resumes_to_the_same_weights_events_and_logs(adapted, tiny, sums, tmp_path):
    weights, whole = adapted
    assert min(event["step"] for event in events(whole)) <= 4 < events(whole)[-1]["step"]
    shutil.copytree(whole, tmp_path / "broken")
    (tmp_path / "broken/checkpoints/checkpoint-6/complete.json").unlink()
    resumed = train(tiny, sums, KEEP, tmp_path / "broken", watch=ANSWERS, pi0=1.0, data=0.0)
    assert same(weights, resumed)
    for name in ("metrics.jsonl", "curve.jsonl", "events.jsonl"):
        assert rows(whole / name) == rows(tmp_path / "broken" / name), name


def test_a_collapse_ends_the_run_with_a_checkpoint_and_stays_ended(tiny, sums, tmp_path):
    stop = replace(LOOKS, adapt=("stop",))
    given = {"watch": stop, "pi0": 1.0, "judge": by_the_answer, "steps": 20}
    ended = train(tiny, sums, Replay(weight=1.0)(Plan()), tmp_path, **given)
    (last,) = [event for event in events(tmp_path) if event["kind"] == "collapsed"]
    assert last["done"] == "the run ends here, with a checkpoint"
    assert last["step"] < 20
    assert (tmp_path / f"checkpoints/checkpoint-{last['step']}/complete.json").exists()
    assert rows(tmp_path / "curve.jsonl")[-1]["step"] == last["step"]
    told = events(tmp_path)
    again = train(tiny, sums, Replay(weight=1.0)(Plan()), tmp_path, **given)
    assert same(ended, again)
    assert events(tmp_path) == told


def test_groups_without_signal_end_the_run_unless_replay_still_teaches(tiny, sums, tmp_path):
    stop = replace(LOOKS, adapt=("stop",))
    given = {"watch": stop, "pi0": 0.0, "judge": by_the_answer, "steps": 3}
    train(tiny, sums, Plan(), tmp_path / "rl", **given)
    (only,) = events(tmp_path / "rl")
    assert (only["kind"], only["step"]) == ("silent", 2)
    assert only["done"] == "the run ends here, with a checkpoint"
    train(tiny, sums, Replay(weight=1.0)(Plan()), tmp_path / "replay", **given)
    (only,) = events(tmp_path / "replay")
    assert only["done"] == "nothing done, since replay still teaches"
    assert len(column(tmp_path / "replay", "reward")) == 3


@pytest.mark.parametrize(
    ("adapt", "plan", "algorithm", "words"),
    [
        ((), Plan(), "sft", "sft takes no rollouts"),
        (("release",), Plan(), "grpo", "'release' needs replay"),
        (("tighten",), Plan(), "grpo", "'tighten' needs an anchor"),
        (("tighten",), Anchor(coefficient=0.0)(Plan()), "grpo", "which is 0"),
        (("tighten",), Anchor(target=0.1)(Plan()), "grpo", "both steer the anchor"),
        (("stop",), chain(Reset(), Replay(weight=1.0))(Plan()), "grpo", "drops the return"),
    ],
)
def test_an_answer_that_the_plan_leaves_no_room_for_is_refused(adapt, plan, algorithm, words):
    with pytest.raises(PlanError, match=words):
        check_monitor(MonitorSettings(adapt=adapt), plan, algorithm)


def test_a_monitor_needs_returns_of_pi0_on_heldout_units(tiny, sums, tmp_path):
    with pytest.raises(PlanError, match="no returns of pi_0"):
        train(tiny, sums, Plan(), tmp_path, watch=LOOKS, pi0=None)
