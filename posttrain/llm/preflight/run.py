"""Inspect a recipe before any training: a few rows, one model, no update.

Checks are grouped by subject in the modules beside this one; each says what it measured and
which field to change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from posttrain.llm import environment
from posttrain.llm.data import load_rows
from posttrain.llm.preflight import leak, offload, traps, verifier
from posttrain.llm.preflight.case import Case, Options, guarded
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.preflight.subject import start_of
from posttrain.llm.preflight.weights import weight_checks
from posttrain.llm.reward import Judge, make_judge
from posttrain.llm.settings import LlmRecipe
from posttrain.record import Record, write_json
from posttrain.tuning import training

FILE = "preflight.json"
JUDGED = 200
"""Training rows given to the reward, and half as many held-out ones."""


def preflight(recipe: LlmRecipe, options: Options | None = None) -> tuple[Finding, ...]:
    """Every finding on a recipe, in the order of its stages; nothing is trained or changed.

    A run's folder is read where there is one: its pi_0, its scores, its plan. The findings are
    then written there as preflight.json.
    """
    training.silence()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    record = Record(Path(recipe.output) / recipe.name)
    with TemporaryDirectory() as scratch:
        case = Case(
            recipe=recipe, options=options or Options(), record=record, scratch=Path(scratch)
        )
        found = tuple(_findings(case))
    if record.path.is_dir():
        write_json(record.path / FILE, [f.to_dict() for f in found], nan_as_null=True)
    return found


def _findings(case: Case) -> Iterable[Finding]:
    recipe = case.recipe
    try:
        train, heldout = load_rows(recipe.data)
        factory = _factory(recipe)
        opened = environment.enter(train, heldout, factory)
    except (ValueError, OSError) as error:
        change = "correct data or environment as it says"
        yield Finding(check="data", severity="stop", text=str(error), change=change)
        yield from _settings(case, heldout=recipe.data.heldout)
        return
    case = replace(case, train=opened[0], heldout=opened[1], factory=factory)
    yield Finding(
        check="data",
        severity="ok",
        text=f"{len(train):,} demonstrations to train on, {len(heldout):,} held out",
        value={"train": len(train), "heldout": len(heldout)},
    )
    yield from _settings(case, heldout=len({row.unit for row in heldout}))
    yield from leak.leak_checks(train, heldout, overlap=case.options.overlap)
    judge: Judge | None = None
    try:
        judge = make_judge(recipe.reward, scale=recipe.diagnose.scale)
    except ValueError as error:
        change = "correct reward as it says"
        yield Finding(check="reward", severity="stop", text=str(error), change=change)
    if judge is not None and factory is None:
        yield from verifier.reward_checks(
            [*train[:JUDGED], *heldout[: JUDGED // 2]],
            judge,
            scale=recipe.diagnose.scale,
            per_step=round(case.prompts * case.group / case.world),
        )
    yield from guarded(
        "model", lambda: _model(case, judge), "correct model.path, model.dtype or data as it says"
    )


def _factory(recipe: LlmRecipe) -> environment.Factory | None:
    if recipe.environment is None:
        return None
    rewards = recipe.reward.kind == "environment"
    return environment.make_factory(recipe.environment, rewards=rewards)


def _model(case: Case, judge: Judge | None) -> Iterable[Finding]:
    with start_of(case.recipe, case.record, case.train, case.heldout) as start:
        yield from weight_checks(case, start, judge)


def _settings(case: Case, *, heldout: int) -> Iterable[Finding]:
    recipe = case.recipe
    fix = "correct the file that it names"
    yield from guarded("deepspeed", lambda: _offload(case), fix)
    if recipe.sft is None:
        yield offload.made_elsewhere(recipe.model.path)
    yield from guarded(
        "settings",
        lambda: traps.settings_checks(
            recipe,
            plan=case.plan,
            accelerator=torch.accelerator.is_available(),
            world=case.world,
            heldout=heldout,
            folder=case.scratch / "settings",
        ),
        "correct the field that it names",
    )


def _offload(case: Case) -> Iterable[Finding]:
    recipe, file = case.recipe, case.options.accelerate
    sections = {
        "sft.trainer": None if recipe.sft is None else recipe.sft.trainer,
        "rl.trainer": None if recipe.rl is None else recipe.rl.trainer,
    }
    version = offload.installed()
    for name, trainer in sections.items():
        if trainer is None:
            continue
        found = offload.from_trainer(trainer)
        if found is None and file is not None:
            found = offload.from_accelerate(file, trainer)
        yield offload.offload_check(name, found, version)
