"""A kind of recipe without learning: returns follow from the recipe, events go to a log."""

import os
import signal
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.intervention.plan import Anchor, Plan, Replay, Reset, Warmup, chain
from posttrain.recipe import BY_KIND, dump
from posttrain.record import Record, fingerprint, replacing, write_json, write_text
from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, write_scores
from posttrain.study.kind import Kind

STAGES = ("diagnose", "finetune", "outcome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrain:
    policy: float = 0.5
    dataset: float = 0.5
    q: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune:
    steps: int = 2
    gain: float = 0.0
    fails: tuple[int, ...] = ()
    sleeps: float = 0.0
    dies: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRecipe:
    kind: Literal["fake"]
    name: str
    output: str = "runs"
    seed: int = 0
    log: str = ""
    batch: int = 1
    pretrain: Pretrain = field(default_factory=Pretrain)
    finetune: Finetune = field(default_factory=Finetune)
    interventions: tuple[Annotated[Anchor | Replay | Warmup | Reset, BY_KIND], ...] = ()
    start_from: str | None = None
    options: dict[str, int] = field(default_factory=dict)


def run(recipe: FakeRecipe, *, fresh: bool = False, stop_after: str | None = None) -> Path:
    record = Record(Path(recipe.output) / recipe.name)
    record.begin(dump(recipe), seed=recipe.seed, fresh=fresh, free=("output", "start_from"))
    mark = fingerprint(dump(recipe))
    for stage in STAGES:
        if not record.done(stage, fingerprint=mark):
            _note(recipe, f"{'/'.join(record.path.parts[-3:])} {stage}")
            _STAGE[stage](recipe, record)
            record.mark(stage, fingerprint=mark)
        if stage == stop_after:
            break
    return record.path


def group_key(recipe: FakeRecipe) -> Hashable:
    return recipe.batch


def run_many(
    recipes: Sequence[FakeRecipe], *, fresh: bool = False, stop_after: str | None = None
) -> list[Path | Exception]:
    _note(recipes[0], f"together {stop_after}: {len(recipes)} in {os.getpid()}")
    results: list[Path | Exception] = []
    for recipe in recipes:
        try:
            results.append(run(recipe, stop_after=stop_after))
        except Exception as error:
            results.append(error)
    return results


def _note(recipe: FakeRecipe, line: str) -> None:
    if recipe.log:
        with Path(recipe.log).open("a") as file:
            file.write(line + "\n")


def _diagnose(recipe: FakeRecipe, record: Record) -> None:
    if recipe.start_from is not None:
        copied = Record(Path(recipe.start_from))
        write_text(record.diagnosis_file, copied.diagnosis_file.read_text())
        return
    rows = [
        {"unit": f"{source}-{i}", "source": source, "return": float(i < mean * 40), "steps": 3}
        for source, mean in (
            ("policy", recipe.pretrain.policy),
            ("dataset", recipe.pretrain.dataset),
        )
        for i in range(40)
    ]
    scores = Scores.from_rows(rows)
    write_scores(scores, record.scores_file)
    found = diagnose(scores.where(source="policy"), scores.where(source="dataset"))
    if recipe.pretrain.q is not None:
        q = {"policy": recipe.pretrain.q, "dataset": 0.0, "scale": 2.0}
        write_json(record.path / "alternatives.json", {"q": q, "bc": {"j": 0.5}})
    write_text(record.diagnosis_file, found.to_json())


def _finetune(recipe: FakeRecipe, record: Record) -> None:
    time.sleep(recipe.finetune.sleeps)
    if recipe.seed in recipe.finetune.dies:
        os.kill(os.getpid(), signal.SIGKILL)
    if recipe.seed in recipe.finetune.fails:
        raise ValueError(f"seed {recipe.seed} diverged")
    plan = chain(*recipe.interventions)(Plan())
    write_json(record.plan_file, {"plan": plan.to_dict()})


def _outcome(recipe: FakeRecipe, record: Record) -> None:
    before = record.diagnosis().j_policy
    noise = 0.01 * np.random.default_rng(recipe.seed).standard_normal(recipe.finetune.steps + 1)
    curve = np.clip(np.linspace(before, before + recipe.finetune.gain, len(noise)) + noise, 0, 1)
    steps = np.repeat(np.arange(len(curve)), 2)
    units = ["a", "b"] * len(curve)
    with replacing(record.evaluations_file) as path:
        pq.write_table(pa.table({"step": steps, "unit": units, "return": curve.repeat(2)}), path)
    write_json(record.outcome_file, {"before": before, "after": float(curve[-1])})


_STAGE = {"diagnose": _diagnose, "finetune": _finetune, "outcome": _outcome}

ALONE = {"fake": Kind(settings="fake_kind:FakeRecipe", pipeline="fake_kind")}
TOGETHER = {"fake": Kind(settings="fake_kind:FakeRecipe", pipeline="fake_kind", together=True)}
