"""A robot policy's run from start to finish: data, SFT, scores, diagnosis, plan, RL, outcome.

Each stage leaves its files in the run's record and a marker; a killed run starts again at the
first stage without one, and inside it where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from posttrain import progress, record
from posttrain.intervention.capabilities import VLA_LEARNERS, Capabilities
from posttrain.record import Record
from posttrain.regime.scores import write_scores
from posttrain.start import Taken
from posttrain.terminal import describe
from posttrain.tuning import measured
from posttrain.tuning.cloning import integrity, integrity_flags
from posttrain.tuning.outcome import outcome as what_changed
from posttrain.tuning.planned import plan_of, plan_record
from posttrain.tuning.stages import run_stages
from posttrain.tuning.world import current
from posttrain.vla import checkpoint, film, finetune, load, lookback, measure, returns, sft
from posttrain.vla.settings import VlaRecipe
from posttrain.vla.starts import measuring_starts
from posttrain.vla.work import D, Run

TAKEN = Taken(
    shared=(
        "environment", "data", "model", "sft", "rollout", "deployment", "diagnose", "seed",
    ),
    stages=("data", "sft", "score", "sample"),
    files=(
        "data/about.json", "data/demonstration_scores.jsonl", "data/account.json",
        "sft_metrics.jsonl", "integrity.json", "scores.parquet", "floor.json",
    ),
    folders=("sft", "data/demonstrations", "films"),
)  # fmt: skip
"""What a run takes over from another of the same setting."""
STAGES = ("data", "sft", "score", "sample", "diagnose", "rl", "outcome")


def run(settings: VlaRecipe, *, fresh: bool = False, stop_after: str | None = None) -> Path:
    """Run the stages that are not finished yet, and return the record's folder.

    Raises:
        ValueError: the recipe, its data, its environment, its model or its plan cannot be used.
    """
    world = current()
    work = Run(settings, Record(Path(settings.output) / settings.name), world)
    stages = {name: partial(_STAGE[name], work) for name in STAGES}
    return run_stages(
        settings, work.record, world, stages, TAKEN, fresh=fresh, stop_after=stop_after
    )


def _data(work: Run) -> None:
    """Make D or read it, and write it down as a LeRobot dataset of the run's own."""
    from posttrain.vla.lerobot import write

    if not work.world.main:
        return
    found, account = load.load(work.recipe.data, work.recipe.environment)
    write(found, work.record.data / D)
    heldout = min(work.recipe.data.heldout, len(found.episodes) - 1)
    about = {"name": found.name, "account": account, "heldout": heldout, **found.about}
    record.write_json(work.record.data / "about.json", about, nan_as_null=True)
    progress.say(account)


def _sft(work: Run) -> None:
    """Make pi_0: clone D, or copy the checkpoint that the recipe names."""
    settings = work.recipe.sft
    found = work.base()
    losses: list[tuple[int, float]] = []
    if settings is not None:
        model, losses = sft.train(
            found,
            sft.to_clone(work.cloned, settings),
            work.heldout,
            settings,
            lora=work.recipe.model.lora,
            seed=work.recipe.seed,
            folder=work.record.path / "checkpoints" / "sft",
            log=work.record.sft_metrics,
            world=work.world,
        )
        found = replace(found, model=model)
    if work.world.main:
        with record.replacing_folder(work.record.sft) as folder:
            checkpoint.save(found, folder)
        record.write_json(work.record.integrity_file, integrity(losses))


def _score(work: Run) -> None:
    """The returns of D, and how they are known."""
    if not work.world.main:
        return
    found = returns.scores_of(
        work.demonstrations,
        work.recipe.data,
        work.recipe.environment,
        heldout=work.heldout_count,
    )
    record.write_jsonl(work.record.data / "demonstration_scores.jsonl", found.records)
    account = {"text": found.account, "flags": [[f.kind, f.text] for f in found.flags]}
    record.write_json(work.record.data / "account.json", account)
    progress.say(found.account)


def _sample(work: Run) -> None:
    """Play pi_0 from held-out starts; what it sees and does there is kept for the report."""
    settings = work.recipe.diagnose
    demonstrations = record.read_jsonl(work.record.data / "demonstration_scores.jsonl")
    if settings.scores is None:
        played, limit = _played(work, demonstrations)
    else:
        reading = measure.reading(work.recipe.environment)
        played = measured.reuse(Path(settings.scores), reading)
        limit = work.recipe.environment.max_steps
    if work.world.main:
        film.film_data(work)
        write_scores(measure.side_by_side(demonstrations, played, limit), work.record.scores_file)


def _played(work: Run, demonstrations: list[dict[str, Any]]) -> tuple[measured.Records, int | None]:
    """Episodes of pi_0, and the limit on their steps."""
    settings, fleet = work.recipe.diagnose, work.fleet()
    try:
        known = work.starts_of_d(work.heldout)
        count = settings.starts
        if len(known) >= settings.minimum:  # both sides meet at every start
            count = min(count, len(known))
        starts = measuring_starts(known, count, seed=work.recipe.seed)
        actor = work.load(work.record.sft)
        played = measure.policy(
            work.recipe,
            actor,
            fleet,
            starts,
            seen=work.starts_of_d(work.cloned)[: settings.seen_starts],
            demonstrations=demonstrations,
            folder=work.record.path / "rollouts" / "pi0",
            world=work.world,
        )
        if work.world.main:
            lookback.chance(work, fleet, starts)
            film.film_policy(work, actor, fleet, starts, side="pi0")
        return played, fleet.max_steps
    finally:
        fleet.close()


def _diagnose(work: Run) -> None:
    if not work.world.main:
        return
    scores = work.record.scores()
    if scores is None:
        raise ValueError(f"{work.record.scores_file}: no scores were written")
    settings = work.recipe.diagnose
    flags = (
        *integrity_flags(work.record.integrity() or {}),
        *lookback.flags_of_data(work),
    )
    diagnosis = measured.diagnose_split(
        scores, "heldout", settings, flags, decoding=settings.decides
    )
    record.write_text(work.record.diagnosis_file, diagnosis.to_json() + "\n")
    progress.say(diagnosis.sentence)
    lookback.by_task(work, scores)
    lookback.silence(work, scores)
    rl = work.recipe.rl
    stored = plan_record(
        work.recipe.interventions,
        diagnosis,
        learner(work.recipe),
        steps=100 if rl is None else rl.steps,
        clones=rl is not None and rl.algorithm == "sft",
    )
    record.write_json(work.record.plan_file, stored)
    plan = plan_of(stored)
    told = describe(plan).replace("\n", "; ")
    progress.say(f"Plan ({plan.family}): {told}. {stored['reason']}")


def learner(settings: VlaRecipe) -> Capabilities:
    """What the recipe's algorithm can be told to do."""
    algorithm = "grpo" if settings.rl is None else settings.rl.algorithm
    return VLA_LEARNERS[algorithm, settings.model.lora is not None]


def _outcome(work: Run) -> None:
    """Measure the fine-tuned policy where pi_0 was measured."""
    if work.recipe.rl is None:
        return
    before = work.record.scores()
    if before is None:
        raise ValueError(f"{work.record.path}: no scores of pi_0")
    after = finetune.again(work, before)
    if work.world.main:
        write_scores(after, work.record.outcome_scores_file)
        record.write_json(
            work.record.outcome_file,
            what_changed(
                before,
                after,
                record.MetricsLog(work.record.path / "curve.jsonl"),
                settings=work.recipe.diagnose,
                seed=work.recipe.seed,
            ),
            nan_as_null=True,
        )


_STAGE: dict[str, Callable[[Run], None]] = {
    "data": _data,
    "sft": _sft,
    "score": _score,
    "sample": _sample,
    "diagnose": _diagnose,
    "rl": finetune.finetune,
    "outcome": _outcome,
}
