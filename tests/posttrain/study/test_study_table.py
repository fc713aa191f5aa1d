"""A study's table: an example by hand in which rules are right, nearly right and wrong."""

import json

import numpy as np
import pytest

from posttrain.record import write_json
from posttrain.regime.diagnosis import diagnose
from posttrain.regime.statistics import clopper_pearson
from posttrain.regime.verdict import Regime
from posttrain.study import Arm, Compare, Setting, Study
from posttrain.study.read import Finish, SettingRecords, Start
from posttrain.study.show import summary, to_markdown, to_terminal
from posttrain.study.table import tabulate

SEEDS = (0, 1, 2, 3)
WOBBLE = np.array([-0.02, 0.01, 0.02, -0.01])


def study(metric="final", arms=("anchor", "warm", "replay", "sft"), settings=("a", "b", "c", "d")):
    families = {"sft": "supervised"}
    return Study(
        kind="study",
        name="golden",
        recipe="none",
        settings=tuple(Setting(name=name) for name in settings),
        arms=tuple(Arm(name=name, family=families.get(name)) for name in arms),
        seeds=SEEDS,
        compare=Compare(metric=metric),
    )


def start(seed, policy, dataset, q=None, clone=None):
    around = np.array([-0.01, 0.01])
    policy, dataset = policy + WOBBLE[seed] + around, dataset + around * np.array([1.0, 1.5])
    return Start(
        seed=seed,
        diagnosis=diagnose(policy, dataset),
        policy=policy,
        dataset=dataset,
        q_gap=q,
        j_clone=clone,
    )


FAMILIES = {"anchor": "pi0-centric", "warm": "pi0-centric", "replay": "D-centric"}


def finishes(means, seeds=SEEDS):
    flip = {"anchor": 1, "warm": 1, "replay": -1, "sft": 1}
    return {
        arm: tuple(
            Finish(
                seed=seed,
                family=FAMILIES.get(arm),
                final=mean + flip[arm] * float(WOBBLE[seed]),
                steps=np.array([0, 10]),
                curve=np.array([0.1, mean]),
            )
            for seed in seeds
        )
        for arm, mean in means.items()
    }


def setting(name, policy, dataset, *, q, clone, **means):
    starts = tuple(start(s, policy, dataset, q and q + WOBBLE[s], clone) for s in SEEDS)
    return SettingRecords(name=name, starts=starts, finishes=finishes(means))


RECORDS = (
    # superior, and the anchor wins: correct. Q says inferior: opposite. The clone: superior.
    setting("a", 0.7, 0.3, q=-0.5, clone=0.3, anchor=0.9, warm=0.5, replay=0.4, sft=1.0),
    # inferior, and replay wins: correct. Q agrees. pi_0 is as good as a clone: adjacent.
    setting("b", 0.2, 0.8, q=-0.5, clone=0.2, anchor=0.2, warm=0.3, replay=0.7, sft=0.1),
    # comparable, and replay wins: adjacent. No critic. The clone is far worse: opposite.
    setting("c", 0.5, 0.5, q=None, clone=0.1, anchor=0.4, warm=0.5, replay=0.9, sft=0.1),
    # inferior, and warm-up wins: opposite. Q says comparable: adjacent. The clone: inferior.
    setting("d", 0.3, 0.6, q=0.001, clone=0.9, anchor=0.4, warm=0.9, replay=0.4, sft=0.1),
)


@pytest.fixture(scope="module")
def table():
    return tabulate(study(), RECORDS)


def verdicts(table, rule):
    return [
        next((p.verdict for p in row.predictions if p.rule == rule), None) for row in table.settings
    ]


def test_predictions_and_outcomes_are_those_worked_out_by_hand(table):
    predicted = [row.predictions[0].gap.regime for row in table.settings]
    assert predicted == ["superior", "inferior", "comparable", "inferior"]
    found = [row.outcome.found.regime for row in table.settings]
    assert found == ["superior", "inferior", "inferior", "superior"]
    winners = [row.outcome.pi0_arms for row in table.settings]
    assert winners == [("anchor",) * 2, ("warm",) * 2, ("warm",) * 2, ("warm",) * 2]


def test_every_rule_is_judged_by_the_same_outcome(table):
    assert verdicts(table, "returns") == ["correct", "correct", "adjacent", "opposite"]
    assert verdicts(table, "q") == ["opposite", "correct", None, "adjacent"]
    assert verdicts(table, "clone") == ["correct", "adjacent", "opposite", "opposite"]
    assert verdicts(table, "always comparable") == ["adjacent"] * 4


def test_counts_have_their_exact_intervals(table):
    rules = {(row.rule, row.outcome): row for row in table.rules}
    returns, q = rules["returns", "cross-fitted"], rules["q", "cross-fitted"]
    counts = [(r.correct.count, r.adjacent.count, r.opposite.count) for r in (returns, q)]
    assert counts == [(2, 1, 1), (1, 1, 1)]
    assert (returns.settings, q.settings) == (4, 3)
    assert returns.correct.interval == clopper_pearson(2, 4)
    assert rules["always comparable", "cross-fitted"].adjacent.count == 4


def test_supervised_arms_stand_beside_the_contest(table):
    """In setting a the supervised arm is the best of all, and no family's."""
    row = table.settings[0]
    assert max(row.arms, key=lambda arm: arm.mean).name == "sft"
    assert row.arms[3].family == "supervised"
    assert "sft" not in (*row.outcome.pi0_arms, *row.outcome.data_arms)


def test_an_arm_is_summed_up_over_its_seeds(table):
    arm = table.settings[0].arms[0]
    assert arm.mean == pytest.approx(0.9)
    assert 0.88 <= arm.interval.low < arm.interval.high <= 0.92
    assert arm.values == pytest.approx({0: 0.88, 1: 0.91, 2: 0.92, 3: 0.89})


def test_a_setting_without_evidence_counts_as_comparable_and_not_as_decided():
    wild = RECORDS[0]
    cells = {
        "anchor": finishes({"anchor": 0.5})["anchor"],
        "replay": tuple(
            Finish(seed=s, family="D-centric", final=v, steps=np.zeros(0, int), curve=np.zeros(0))
            for s, v in zip(SEEDS, (0.0, 1.0, 0.1, 0.9), strict=True)
        ),
    }
    records = SettingRecords(name="a", starts=wild.starts, finishes=cells)
    found = tabulate(study(arms=("anchor", "replay"), settings=("a",)), [records])
    row = found.settings[0]
    assert row.outcome.found.regime is Regime.UNDECIDED
    assert row.predictions[0].verdict == "adjacent"
    decided = [r for r in found.rules if r.outcome == "cross-fitted, decided"]
    assert [r.settings for r in decided] == [0] * 4
    assert "comparable?" in to_markdown(found)


def test_the_metric_is_the_one_that_was_asked_for():
    means = {
        metric: tabulate(study(metric), RECORDS).settings[0].arms[0].mean
        for metric in ("final", "mean", "best")
    }
    assert means == pytest.approx({"final": 0.9, "mean": 0.5, "best": 0.9})


def test_only_seeds_that_all_competitors_have_are_compared():
    cells = dict(RECORDS[0].finishes)
    cells["replay"] = cells["replay"][:2]
    cells["warm"] = ()
    records = SettingRecords(name="a", starts=RECORDS[0].starts, finishes=cells)
    row = tabulate(study(settings=("a",)), [records]).settings[0]
    assert row.outcome_naive.found.seeds == 2
    assert row.arms[1].mean is None


def test_a_study_that_has_not_run_has_a_table_too():
    records = [SettingRecords(name="a", starts=(), finishes={})]
    found = tabulate(study(settings=("a",)), records)
    assert found.settings[0].predictions == ()
    assert "no setting has an outcome yet" in summary(found)
    to_markdown(found)


def test_one_seed_alone_is_predicted_by_its_own_diagnosis():
    cells = finishes({"anchor": 0.9, "replay": 0.4}, seeds=(0,))
    records = SettingRecords(name="a", starts=RECORDS[0].starts[:1], finishes=cells)
    row = tabulate(study(settings=("a",), arms=("anchor", "replay")), [records]).settings[0]
    assert row.predictions[0].gap.regime == RECORDS[0].starts[0].diagnosis.regime
    assert row.predictions[0].gap.seeds == 1
    assert row.outcome is None


def test_the_page_reads_as_the_table(table):
    page = to_markdown(table)
    row = next(line for line in page.splitlines() if line.startswith("| a |"))
    assert row == (
        "| a | 4 | 0.70 | 0.30 | superior | anchor 0.90 | replay 0.40 | "
        "+0.50 (+0.46 to +0.54) | superior | correct | opposite | correct |"
    )
    assert "2 correct, 1 adjacent, 1 opposite" in summary(table)
    assert to_terminal(table)


def test_the_machine_form_is_plain_json(table, tmp_path):
    write_json(tmp_path / "table.json", table.to_dict(), nan_as_null=True)
    read = json.loads((tmp_path / "table.json").read_text())
    assert read["settings"][0]["outcome"]["found"]["regime"] == "superior"
    assert read["settings"][0]["predictions"][1]["rule"] == "q"
    assert read["rules"][0]["correct"] == {"count": 2, "interval": list(clopper_pearson(2, 4))}
