"""Was the diagnosis right? Settings with prediction and outcome, and how often each rule holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from posttrain.regime.statistics import clopper_pearson, stratified_bootstrap
from posttrain.regime.verdict import Interval, Regime
from posttrain.study.contest import (
    Contest,
    Gap,
    Verdict,
    cross_fitted,
    judge,
    naive,
    paired_gap,
    regime_gap,
)
from posttrain.study.read import Finish, SettingRecords, Start
from posttrain.study.settings import Compare, Family, Metric, Study

Floats = NDArray[np.float64]

RULES: Final = ("returns", "q", "clone", "always comparable")
"""What predicts: J(pi_0) against J(D); Q of pi_0 against Q of D; J(pi_0) against a clone's
return; nothing at all."""
OUTCOMES: Final = ("cross-fitted", "naive", "cross-fitted, decided")
"""What judges a rule: arms chosen on other seeds than they are judged on; on the same seeds; as
the first, but only in settings where neither prediction nor outcome lacks evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """An arm in a setting."""

    name: str
    family: Family | None
    values: Mapping[int, float]
    """Its number by seed."""
    mean: float | None
    interval: Interval | None
    """Of the mean, by a bootstrap over seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a rule says before fine-tuning, and what that is worth."""

    rule: str
    gap: Gap
    verdict: Verdict | None
    """Against the cross-fitted outcome; None where there is none yet."""
    verdict_naive: Verdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """A setting: what it starts from, what was predicted, and which family won."""

    name: str
    seeds: tuple[int, ...]
    """Those that are diagnosed."""
    scale: tuple[float, float] | None
    """The reward's range, which all numbers are shares of."""
    j_policy: float | None
    j_dataset: float | None
    seed_regimes: Mapping[int, Regime]
    """Each seed's own diagnosis."""
    predictions: tuple[Prediction, ...]
    outcome: Contest | None
    """Cross-fitted."""
    outcome_naive: Contest | None
    arms: tuple[ArmRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of the settings, with the exact interval of the share at level 0.95."""

    count: int
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """How often a rule is right."""

    rule: str
    outcome: str
    """One of `OUTCOMES`."""
    settings: int
    correct: Share
    adjacent: Share
    opposite: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a study found."""

    study: str
    compare: Compare
    settings: tuple[SettingRow, ...]
    rules: tuple[RuleRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return asdict(self)


def tabulate(study: Study, records: Sequence[SettingRecords]) -> Table:
    """Judge every setting, and every rule over all of them."""
    families = {arm.name: arm.family for arm in study.arms}
    rows = tuple(_setting(setting, families, study.compare) for setting in records)
    return Table(study=study.name, compare=study.compare, settings=rows, rules=_rules(rows))


def _setting(
    records: SettingRecords, families: Mapping[str, Family | None], compare: Compare
) -> SettingRow:
    starts = records.starts
    arms = tuple(
        _arm(name, families[name], cells, compare.metric)
        for name, cells in records.finishes.items()
    )
    pi0, data = _competitors(arms)
    bounded = all(start.diagnosis.bounded for start in starts)
    margin, alpha = compare.margin, compare.alpha
    outcome = cross_fitted(pi0, data, margin=margin, alpha=alpha, bounded=bounded)
    plain = naive(pi0, data, margin=margin, alpha=alpha, bounded=bounded)
    gaps = _predict(starts, compare)
    return SettingRow(
        name=records.name,
        seeds=tuple(start.seed for start in starts),
        scale=starts[0].diagnosis.scale if starts else None,
        j_policy=_mean([start.j_policy for start in starts]),
        j_dataset=_mean([start.j_dataset for start in starts]),
        seed_regimes={start.seed: start.diagnosis.regime for start in starts},
        predictions=tuple(
            Prediction(
                rule=rule,
                gap=gap,
                verdict=_judge(gap, outcome),
                verdict_naive=_judge(gap, plain),
            )
            for rule, gap in gaps.items()
        ),
        outcome=outcome,
        outcome_naive=plain,
        arms=arms,
    )


def _arm(name: str, family: Family | None, cells: Sequence[Finish], metric: Metric) -> ArmRow:
    values = {cell.seed: cell.value(metric) for cell in cells}
    recorded = [cell.family for cell in cells if cell.family is not None]
    return ArmRow(
        name=name,
        family=family or (recorded[0] if recorded else None),
        values=values,
        mean=_mean(list(values.values())),
        interval=_bootstrap(list(values.values())),
    )


def _competitors(arms: Sequence[ArmRow]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Numbers of the pi0-centric and of the D-centric arms, at the seeds that all of them have.

    An arm without any cell is left out, so that a failure is not everybody's.
    """
    competing = [arm for arm in arms if arm.family in {"pi0-centric", "D-centric"} and arm.values]
    if not competing:
        return {}, {}
    shared = sorted(set.intersection(*(set(arm.values) for arm in competing)))
    sides: dict[str, dict[str, Floats]] = {"pi0-centric": {}, "D-centric": {}}
    for arm in competing:
        sides[str(arm.family)][arm.name] = np.array([arm.values[seed] for seed in shared])
    return (sides["pi0-centric"], sides["D-centric"]) if shared else ({}, {})


def _predict(starts: Sequence[Start], compare: Compare) -> dict[str, Gap]:
    """Each rule's gap, where it has one."""
    if not starts:
        return {}
    margin, alpha = compare.margin, compare.alpha
    bounded = all(start.diagnosis.bounded for start in starts)
    policies, datasets = [s.policy for s in starts], [s.dataset for s in starts]
    q = [s.q_gap for s in starts if s.q_gap is not None]
    clone = [s.j_policy - s.j_clone for s in starts if s.j_clone is not None]
    nothing = Gap(gap=0.0, interval=Interval(0.0, 0.0), regime=Regime.COMPARABLE, seeds=len(starts))
    found = {
        "returns": regime_gap(policies, datasets, margin=margin, alpha=alpha, bounded=bounded)
        or _of_one_seed(starts[0]),
        "q": paired_gap(q, margin=margin, alpha=alpha, bounded=False),
        "clone": paired_gap(clone, margin=margin, alpha=alpha, bounded=bounded),
        "always comparable": nothing,
    }
    return {rule: gap for rule, gap in found.items() if gap is not None}


def _of_one_seed(start: Start) -> Gap:
    """A single seed's own diagnosis."""
    d = start.diagnosis
    return Gap(gap=d.gap, interval=d.interval, regime=d.regime, seeds=1)


def _judge(gap: Gap, outcome: Contest | None) -> Verdict | None:
    return None if outcome is None else judge(gap.label, outcome.found.label)


def _rules(rows: Sequence[SettingRow]) -> tuple[RuleRow, ...]:
    found = []
    for rule in RULES:
        pairs = [(row, p) for row in rows for p in row.predictions if p.rule == rule]
        verdicts = (
            [p.verdict for _, p in pairs],
            [p.verdict_naive for _, p in pairs],
            [p.verdict for row, p in pairs if _decided(row, p)],
        )
        found += [_count(rule, *given) for given in zip(OUTCOMES, verdicts, strict=True)]
    return tuple(found)


def _decided(row: SettingRow, prediction: Prediction) -> bool:
    """Whether neither side rests on too little evidence."""
    regimes = {prediction.gap.regime, row.outcome.found.regime if row.outcome else None}
    return not regimes & {Regime.UNDECIDED, None}


def _count(rule: str, outcome: str, verdicts: Sequence[Verdict | None]) -> RuleRow:
    given = [verdict for verdict in verdicts if verdict is not None]

    def share(verdict: Verdict) -> Share:
        count = given.count(verdict)
        return Share(count=count, interval=clopper_pearson(count, len(given)) if given else None)

    return RuleRow(
        rule=rule,
        outcome=outcome,
        settings=len(given),
        correct=share("correct"),
        adjacent=share("adjacent"),
        opposite=share("opposite"),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _bootstrap(values: Sequence[float]) -> Interval | None:
    """Percentile interval of the mean over seeds; the same numbers give the same interval."""
    if len(values) < 2:
        return None
    table = np.array(values)[:, None]
    found = stratified_bootstrap(table, np.mean, rng=np.random.default_rng(0), resamples=4_000)
    return Interval(found.low, found.high)
