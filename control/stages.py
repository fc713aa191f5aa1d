"""What each stage of a control run does, for all runs of a setting that have not done it yet."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from control import alternatives, data, diagnosis, outcome
from control.agent import load as load_agent
from control.datasets.dataset import DatasetWarning
from control.datasets.hdf5 import write_hdf5
from control.finetune import FinetuneRun, finetune
from control.integrity import integrity
from control.pretrain import PretrainRun, pretrain
from control.work import Load, Stage, Work, alone, sound
from posttrain import progress
from posttrain.intervention.plan import Plan, plan_from_dict
from posttrain.outcome import write_evaluations
from posttrain.record import replacing_folder, write_json


def make_data(works: Sequence[Work], load: Load) -> None:
    """Make D or look for it, and write down what it is."""
    recipe = works[0].recipe
    if recipe.dataset.make is not None:
        found = data.make(recipe.dataset, recipe.env)
        for work in works:
            write_hdf5(found, work.record.data / data.MADE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DatasetWarning)
        source = load()
    chosen = source.chosen
    sizes = chosen.observations.shape[1], chosen.actions.shape[1]
    data.require_fit(f"dataset: '{chosen.name}'", sizes, recipe.env)
    told = [str(w.message) for w in caught if issubclass(w.category, DatasetWarning)]
    told += [str(text) for text in source.chosen.about.get("warnings", ())]
    for work in works:
        summary = {**data.summary(source, recipe), "warnings": told}
        write_json(work.record.data / "dataset.json", summary, nan_as_null=True)
    before = data.mean_score(source.whole, recipe.env.score)
    after = data.mean_score(source.chosen, recipe.env.score)
    part = (
        "" if source.chosen is source.whole else f" (of all {source.whole.episodes}: {before:.3g})"
    )
    progress.say(
        f"D is {source.chosen.name}: {source.chosen.episodes:,} episodes, "
        f"{len(source.chosen):,} rows, J(D) = {after:.3g}{part}"
    )
    for text in told:
        progress.say(f"Warning: {text}")


def make_pi0(works: Sequence[Work], load: Load) -> None:
    """Pretrain pi_0 on D, all runs at once; or copy the agent that the recipe names."""
    recipe = works[0].recipe
    if recipe.pretrain.path is not None:
        for work in works:
            _copy_agent(Path(recipe.pretrain.path), work.pi0)
            write_json(work.record.integrity_file, integrity([], recipe))
        return
    runs = [
        PretrainRun(
            seed=work.recipe.seed,
            folder=work.checkpoints("pretrain"),
            out=work.pi0,
            log=work.record.sft_metrics,
        )
        for work in works
    ]
    pretrain(load().chosen, recipe, runs)
    for work in works:
        write_json(work.record.integrity_file, integrity(work.record.sft_metrics.read(), recipe))


def _copy_agent(path: Path, to: Path) -> None:
    load_agent(path)  # whatever is wrong with it is told here
    with replacing_folder(to) as folder:
        for name in ("agent.safetensors", "agent.json"):
            shutil.copyfile(path / name, folder / name)


def sample(works: Sequence[Work], load: Load) -> None:
    """Let every pi_0 play, and put its returns beside D's."""
    diagnosis.sample(works, load().chosen)


def diagnose(works: Sequence[Work], load: Load) -> None:
    """Tell the regimes, and choose the plans."""
    source = load()
    for work in works:
        with alone(work):
            diagnosis.diagnose(work, source)
    wanted = [work for work in sound(works) if work.recipe.diagnose.alternatives]
    missing = [work for work in wanted if not work.alternatives.exists()]
    if missing:
        alternatives.measure(missing, source.chosen)


def tune(works: Sequence[Work], load: Load) -> None:
    """Fine-tune every run under its plan, all at once."""
    recipe = works[0].recipe
    if recipe.finetune is None:
        return
    runs: list[FinetuneRun] = []
    for work in works:
        with alone(work):
            runs.append(_finetune_run(work))
    if runs:
        finetune(load().chosen, recipe, runs)
    for work in sound(works):
        write_evaluations(work.curve, work.record.evaluations_file)


def _finetune_run(work: Work) -> FinetuneRun:
    found = work.record.diagnosis()
    if found is None:
        raise ValueError(f"{work.record.path}: the diagnosis is missing")
    return FinetuneRun(
        seed=work.recipe.seed,
        plan=plan_of(work),
        pi0=work.pi0,
        folder=work.checkpoints("finetune"),
        out=work.record.rl,
        log=work.record.metrics,
        curve=work.curve,
        prior=max(found.j_policy, found.j_dataset),
        scale=found.scale if found.bounded else None,
        alpha=found.alpha,
        episodes=work.rollouts,
        eval_seeds=tuple(work.starts()),
    )


def plan_of(work: Work) -> Plan:
    """The plan of the record.

    Raises:
        ValueError: there is none.
    """
    stored: dict[str, Any] | None = work.record.plan()
    if stored is None:
        raise ValueError(f"{work.record.path}: the plan is missing")
    return plan_from_dict(stored["plan"])


def measure(works: Sequence[Work], load: Load) -> None:
    """Play the fine-tuned policies where pi_0 was measured."""
    if works[0].recipe.finetune is not None:
        outcome.measure(works, load().chosen)


STAGES: dict[str, Stage] = {
    "data": make_data,
    "pretrain": make_pi0,
    "sample": sample,
    "diagnose": diagnose,
    "finetune": tune,
    "outcome": measure,
}
"""In their order."""
