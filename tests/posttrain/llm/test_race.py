"""A race of three plans of a tiny model: what it costs, who wins, and what the run goes on from."""

import json
import shutil
from dataclasses import replace

import pytest

from posttrain.intervention import halving
from posttrain.intervention.plan import Anchor, Plan, Replay, Reset
from posttrain.llm import arms as takes_part
from posttrain.llm import legs, pipeline
from posttrain.llm.arms import RaceError, arms_of, units_to_race_on
from posttrain.llm.data import Row
from posttrain.llm.race import race
from posttrain.llm.settings import (
    DataSettings,
    Decoding,
    DiagnoseSettings,
    LlmRecipe,
    ModelSettings,
    ProbeSettings,
    RegexReward,
    RlSettings,
    SftSettings,
)
from posttrain.outcome import unit_means
from posttrain.record import Record, read_jsonl

OPTIONS = {
    "min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2, "operators": ["+"],
    "allow_parentheses": False, "allow_negation": False,
}  # fmt: skip
ARMS = {
    "plain": (),
    "stiff": (Anchor(coefficient=100.0),),
    "reset": (Reset(parts=("policy",)), Replay(weight=0.01)),
}
PROBE = ProbeSettings(arms=ARMS, steps=2, eta=2, seeds=2, units=20, samples=2)


def recipe(folder, **given):
    """SFT of ten steps, RL of six; the reward is for a digit that is said now and then."""
    return LlmRecipe(
        kind="llm",
        name="run",
        output=str(folder),
        data=DataSettings(
            path="reasoning_gym:basic_arithmetic", options=OPTIONS, size=300, heldout=60
        ),
        reward=RegexReward(pattern="[37]"),
        model=ModelSettings(hidden=32, layers=2),
        rollout=Decoding(max_new_tokens=4),
        sft=SftSettings(
            check_rows=8,
            trainer={"max_steps": 10, "per_device_train_batch_size": 32, "learning_rate": 1e-2},
        ),
        diagnose=DiagnoseSettings(samples=2, units=20, minimum=10, batch=10, seen_units=4),
        rl=RlSettings(
            steps=6, eval_every=3, eval_units=8, save_every=2, probe_units=8, replay_rows=8,
            trainer={"per_device_train_batch_size": 64, "num_generations": 4,
                     "learning_rate": 1e-2, "logging_steps": 1,
                     "per_device_eval_batch_size": 8},
        ),
        **given,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pi0(tmp_path_factory):
    """A run that has been diagnosed."""
    return pipeline.run(recipe(tmp_path_factory.mktemp("pi0")), stop_after="diagnose")


@pytest.fixture(scope="module")
def raced(pi0, tmp_path_factory):
    """A folder in which the race has been run, and the run after it."""
    settings = recipe(tmp_path_factory.mktemp("raced"), start_from=str(pi0))
    folder = race(settings, PROBE)
    shutil.copytree(folder, folder.parent / "before_rl")
    assert pipeline.run(settings) == folder
    return folder


def found_in(folder):
    return json.loads((folder / "probe.json").read_text())


def test_the_run_goes_on_from_the_winner_to_what_the_winner_alone_would_be(raced, pi0, tmp_path):
    """Bit for bit: weights, metrics and curve, though the race paused it twice."""
    winner = found_in(raced)["winner"]
    alone = pipeline.run(
        recipe(tmp_path, start_from=str(pi0), interventions=ARMS[winner]), stop_after="rl"
    )
    for name in ("rl/model.safetensors", "metrics.jsonl", "curve.jsonl"):
        assert (raced / name).read_bytes() == (alone / name).read_bytes(), name
    before = raced.parent / "before_rl"
    handed = before / "checkpoints/rl/checkpoint-4/model.safetensors"
    assert (
        handed.read_bytes()
        == (alone / "checkpoints/rl/checkpoint-4/model.safetensors").read_bytes()
    )
    assert Record(raced).stages().keys() >= {"rl", "outcome"}


def test_arms_that_cannot_learn_lose(raced):
    """One is held to pi_0, one has been made anew and hardly imitates."""
    told = found_in(raced)
    assert told["winner"] == "plain"
    first, last = told["rounds"]
    assert [arm["name"] for arm in first["arms"] if not arm["goes_on"]] == ["reset"]
    assert (first["steps"], last["steps"]) == (2, 4)
    (plain, stiff) = last["arms"]
    assert plain["mean"] > stiff["mean"]
    low, high = stiff["against_best"]["interval"]
    assert low < stiff["against_best"]["gain"] < high
    plan = Record(raced).plan()
    assert (plan["source"], plan["trains"]) == ("probe", "rl")
    assert plan["plan"] == Plan().to_dict()
    assert plan["reason"].startswith("plain won a race of 3 arms over 4 steps with 2 seeds")


def test_arms_are_compared_unit_by_unit_over_the_same_seeds(raced):
    told = found_in(raced)
    shown = {}
    for arm in ("plain", "stiff"):
        files = [raced / f"probe/{arm}/seed-{k}/round-1.jsonl" for k in (0, 1)]
        rows = [row for file in files for row in read_jsonl(file)]
        shown[arm] = unit_means(rows)
    assert shown["plain"].keys() == shown["stiff"].keys()
    assert len(shown["plain"]) == 20
    gains = [shown["stiff"][unit] - shown["plain"][unit] for unit in shown["plain"]]
    found = told["rounds"][1]["arms"][1]["against_best"]
    assert found["gain"] == pytest.approx(sum(gains) / 20)
    assert found["units"] == 20


def test_the_prompts_of_the_race_are_nobody_elses(raced):
    record = Record(raced)
    raced_on = {row["unit"] for row in read_jsonl(raced / "probe/plain/seed-0/round-0.jsonl")}
    assert not raced_on & {
        row["unit"] for row in record.scores().where(split="heldout", source="policy").rows()
    }
    assert not raced_on & {row["unit"] for row in record.outcome_scores().rows()}
    assert found_in(raced)["units"] == {"heldout": 20, "set_aside": []}


def test_the_bill_adds_up(raced):
    cost = found_in(raced)["cost"]
    bills = {(leg["arm"], leg["seed"]): leg for leg in cost["legs"]}
    assert len(bills) == 6
    for name in ("steps", "rollouts", "demonstrations", "evaluations", "comparisons", "seconds"):
        assert cost["total"][name] == pytest.approx(sum(leg[name] for leg in cost["legs"]))
    plain, reset = bills["plain", 0], bills["reset", 1]
    # two rounds of two steps of 64 rollouts; 8 prompts at steps 0 and 3; 20 prompts twice
    assert [plain[k] for k in ("steps", "rollouts", "evaluations")] == [4, 256, 16]
    assert (plain["comparisons"], plain["demonstrations"]) == (80, 0)
    assert (reset["steps"], reset["demonstrations"], reset["evaluations"]) == (2, 16, 8)
    assert sum(leg["steps"] for leg in bills.values()) == 2 * halving.legs(3, 2, 2)
    assert cost["handed_over"] == {**{k: plain[k] for k in cost["handed_over"]}, "comparisons": 0}


def test_a_killed_race_ends_as_the_unbroken_one(raced, pi0, tmp_path, monkeypatch):
    """Killed while it measures, and while it trains; legs are the same whatever else races."""
    settings = recipe(tmp_path, start_from=str(pi0))
    probe = replace(PROBE, arms={k: ARMS[k] for k in ("stiff", "plain")}, seeds=1)
    measure, kills = legs._measure, iter((True, False, True))

    def killed(*args):
        if next(kills, False):
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(legs, "_measure", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            race(settings, probe)
        done = sorted((tmp_path / "run/probe").glob("*/seed-0/checkpoints/checkpoint-2"))
        (done[-1] / "complete.json").unlink()  # and the newest state is torn
    folder = race(settings, probe)
    for arm in ("stiff", "plain"):
        mine, theirs = (f / f"probe/{arm}/seed-0/round-0.jsonl" for f in (folder, raced))
        assert mine.read_bytes() == theirs.read_bytes(), arm
    again = found_in(folder)
    race(settings, probe)
    assert found_in(folder) == again
    assert (folder / "checkpoints/rl/checkpoint-2/complete.json").exists()
    with pytest.raises(RaceError, match="a race of other settings"):
        race(settings, replace(probe, steps=3))


def test_a_race_after_rl_has_begun_is_refused(pi0, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pi0, folder)
    (folder / "checkpoints/rl/checkpoint-2").mkdir(parents=True)
    settings = replace(recipe(tmp_path), start_from=None)
    with pytest.raises(RaceError, match="RL has begun"):
        race(settings, PROBE)


def test_arms_of_rl_run_rl_where_further_sft_is_prescribed(pi0, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pi0, folder)
    told = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**told, **prescription(Plan(), "sft")}))
    probe = replace(PROBE, arms={"plain": (), "more": "sft"}, steps=1, seeds=1)
    found = found_in(race(recipe(tmp_path), probe))
    bills = {leg["arm"]: leg for leg in found["cost"]["legs"]}
    assert (bills["plain"]["rollouts"], bills["plain"]["demonstrations"]) == (64, 0)
    assert (bills["more"]["rollouts"], bills["more"]["demonstrations"]) == (0, 8)
    trained = "sft" if found["winner"] == "more" else "rl"
    assert Record(folder).plan()["trains"] == trained


def test_a_race_longer_than_rl_is_refused(pi0, tmp_path):
    with pytest.raises(RaceError, match="lower it to 3"):
        race(recipe(tmp_path, start_from=str(pi0)), replace(PROBE, steps=4))


def prescription(plan, trains="rl"):
    return {"plan": plan.to_dict(), "trains": trains}


def test_the_arms_are_the_prescription_its_alternatives_and_further_sft():
    keep, hold = Replay(weight=1.0)(Plan()), Anchor(coefficient=0.1)(Plan())
    more = Replay(weight=0.5)(Plan())
    stored = {
        **prescription(keep),
        "alternatives": [prescription(p) for p in (hold, keep, more, Plan())],
    }
    found = {
        arm.name: (arm.plan, arm.algorithm) for arm in arms_of(stored, ProbeSettings(), "rloo")
    }
    assert found == {
        "D-centric": (keep, "rloo"),
        "pi0-centric": (hold, "rloo"),
        "D-centric 2": (more, "rloo"),
        "minimal": (Plan(), "rloo"),
        "sft": (Plan(), "sft"),
    }
    stored["alternatives"] = [prescription(Plan(), "sft"), prescription(Plan())]
    assert [a.name for a in arms_of(stored, ProbeSettings(), "grpo")] == [
        "D-centric",
        "sft",
        "minimal",
    ]
    alone = ProbeSettings(arms={"one": ()})
    with pytest.raises(RaceError, match="at least two arms"):
        arms_of(stored, alone, "grpo")
    with pytest.raises(RaceError, match="sft takes no plan"):
        arms_of(stored, ProbeSettings(), "sft")


def rows(count, kind):
    said = ({"role": "user", "content": "?"},)
    return [
        Row(unit=f"{kind}{i}", prompt=said, completion="", answer="", columns={})
        for i in range(count)
    ]


def test_training_prompts_are_set_aside_only_where_held_out_ones_do_not_reach():
    train, heldout = rows(200, "t"), rows(50, "h")
    measured = frozenset(row.unit for row in heldout[:35])
    found, aside = units_to_race_on(train, heldout, measured, 12)
    assert ([row.unit for row in found], aside) == ([f"h{i}" for i in range(35, 47)], frozenset())
    found, aside = units_to_race_on(train, heldout, measured, 25)
    assert aside == {f"t{i}" for i in range(190, 200)}
    assert len(found) == 25
    _, aside = units_to_race_on(train, heldout, measured, 500)
    assert len(aside) == 200 * takes_part.MOST_ASIDE
    with pytest.raises(RaceError, match="left 0 held-out prompts over"):
        units_to_race_on(train[:90], heldout[:35], measured, 25)


def test_halving_keeps_the_better_part_until_one_is_left():
    means = {"a": 0.1, "b": 0.4, "c": 0.4, "d": 0.2, "e": 0.3}
    assert halving.rounds(5, 2) == (5, 3, 2)
    assert halving.survivors(means, 2) == ("b", "c", "e")
    assert halving.survivors(means, 5) == ("b",)
    assert halving.legs(5, 2, 3) == 30
    for bad in ((1, 2), (3, 1)):
        with pytest.raises(ValueError, match=r"at least two arms|eta must be"):
            halving.rounds(*bad)
