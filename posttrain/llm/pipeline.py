"""A language model's run from start to finish: data, SFT, scores, diagnosis, plan, RL, outcome.

Each stage leaves its files in the run's record and a marker; a killed run starts again at the
first stage without one, and inside it where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import progress, record
from posttrain.intervention.capabilities import Capabilities
from posttrain.llm import (
    environment,
    finetune,
    honour,
    measure,
    outcome,
    replayed,
    reward,
    score,
    sft,
)
from posttrain.llm.data import Row, load_rows
from posttrain.llm.settings import LlmRecipe
from posttrain.llm.work import Run, generator
from posttrain.record import Record
from posttrain.regime import Diagnosis
from posttrain.regime.scores import Scores, write_scores
from posttrain.start import Taken
from posttrain.terminal import describe
from posttrain.tuning import measured, model
from posttrain.tuning.cloning import integrity, integrity_flags
from posttrain.tuning.outcome import outcome as what_changed
from posttrain.tuning.planned import plan_of, plan_record
from posttrain.tuning.stages import run_stages
from posttrain.tuning.world import current

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAKEN = Taken(
    shared=(
        "data", "environment", "reward", "model", "sft", "rollout", "deployment", "diagnose",
        "seed",
    ),
    stages=("data", "sft", "score", "sample"),
    files=(
        "data/train.jsonl", "data/heldout.jsonl", "data/demonstration_scores.jsonl",
        "sft_metrics.jsonl", "integrity.json", "scores.parquet",
    ),
    folders=("sft", "rollouts/pi0/seen/tokens"),
)  # fmt: skip
"""What a run takes over from another of the same setting."""
STAGES = ("data", "sft", "score", "sample", "diagnose", "rl", "outcome")


def run(settings: LlmRecipe, *, fresh: bool = False, stop_after: str | None = None) -> Path:
    """Run the stages that are not finished yet, and return the record's folder.

    Raises:
        ValueError: the recipe, its data, its reward, its model or its plan cannot be used.
    """
    world = current()
    work = Run(
        settings,
        Record(Path(settings.output) / settings.name),
        world,
        reward.make_judge(settings.reward, scale=settings.diagnose.scale),
    )
    stages = {name: partial(_STAGE[name], work) for name in STAGES}
    return run_stages(
        settings, work.record, world, stages, TAKEN, fresh=fresh, stop_after=stop_after
    )


def _data(work: Run) -> None:
    train, heldout = load_rows(work.recipe.data)
    train, heldout = environment.enter(train, heldout, work.factory())
    if work.world.main:
        for name, rows in (("train", train), ("heldout", heldout)):
            record.write_jsonl(work.record.data / f"{name}.jsonl", [row.to_dict() for row in rows])


def _sft(work: Run) -> None:
    """Make pi_0: clone D, or copy the checkpoint that the recipe names."""
    policy, tokenizer = work.base()
    settings = work.recipe.sft
    losses: list[tuple[int, float]] = []
    if settings is not None:
        train, heldout = work.rows()
        policy, losses = sft.train(
            policy,
            tokenizer,
            _to_clone(work, train, tokenizer),
            heldout,
            settings,
            lora=work.recipe.model.lora,
            seed=work.recipe.seed,
            folder=work.record.path / "checkpoints" / "sft",
            log=work.record.sft_metrics,
            world=work.world,
        )
    if work.world.main:
        with record.replacing_folder(work.record.sft) as folder:
            model.save(policy, tokenizer, folder)
        record.write_json(work.record.integrity_file, integrity(losses))


def _to_clone(work: Run, train: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    recipe = work.recipe
    if recipe.sft is None:
        return list(train)
    return sft.rows_to_clone(
        recipe.sft,
        train,
        work.judge,
        tokenizer,
        limit=recipe.rollout.max_new_tokens,
        best=recipe.diagnose.scale[1],
        factory=work.factory(),
    )


def _score(work: Run) -> None:
    train, heldout = work.rows()
    tokenizer = work.processing(work.record.sft)
    if work.world.main:
        records = [
            row
            for split, rows in (("heldout", heldout), ("seen", train))
            for row in score.score_demonstrations(
                rows,
                work.judge,
                tokenizer,
                limit=work.recipe.rollout.max_new_tokens,
                split=split,
                factory=work.factory(),
            )
        ]
        record.write_jsonl(work.record.data / "demonstration_scores.jsonl", records)
        if work.recipe.environment is not None:
            progress.say(replayed.account(records))


def _sample(work: Run) -> None:
    """Roll pi_0 out: held-out prompts decide, seen prompts and deployment stand beside them."""
    demonstrations = record.read_jsonl(work.record.data / "demonstration_scores.jsonl")
    if work.recipe.diagnose.scores is not None:
        rollouts = measured.reuse(Path(work.recipe.diagnose.scores))
    else:
        train, heldout = work.rows()
        tokenizer = work.processing(work.record.sft)
        rollouts = measure.policy(
            work.recipe,
            generator(work, work.record.sft),
            work.judge,
            heldout=heldout,
            seen=_to_clone(work, train, tokenizer),
            demonstrations=demonstrations,
            folder=work.record.path / "rollouts" / "pi0",
            world=work.world,
        )
    if work.world.main:
        write_scores(Scores.from_rows([*demonstrations, *rollouts]), work.record.scores_file)


def _diagnose(work: Run) -> None:
    if not work.world.main:
        return
    scores = work.record.scores()
    if scores is None:
        raise ValueError(f"{work.record.scores_file}: no scores were written")
    flags = integrity_flags(work.record.integrity() or {})
    diagnosis = measured.diagnose_split(scores, "heldout", work.recipe.diagnose, flags)
    record.write_text(work.record.diagnosis_file, diagnosis.to_json() + "\n")
    if work.recipe.diagnose.seen_units and work.recipe.diagnose.scores is None:
        seen = measured.diagnose_split(scores, "seen", work.recipe.diagnose, flags)
        record.write_text(work.record.diagnosis_seen_file, seen.to_json() + "\n")
    record.write_json(work.record.plan_file, _planned(work.recipe, diagnosis))
    progress.say(diagnosis.sentence)
    stored = work.record.plan() or {}
    plan = plan_of(stored)
    told = describe(plan).replace("\n", "; ")
    progress.say(f"Plan ({plan.family}): {told}. {stored['reason']}")


def _learner(settings: LlmRecipe) -> Capabilities:
    algorithm = "grpo" if settings.rl is None else settings.rl.algorithm
    return honour.learner(
        algorithm, lora=settings.model.lora is not None, acting=settings.environment is not None
    )


def _planned(settings: LlmRecipe, diagnosis: Diagnosis) -> dict[str, Any]:
    rl = settings.rl
    return plan_record(
        settings.interventions,
        diagnosis,
        _learner(settings),
        steps=100 if rl is None else rl.steps,
        clones=rl is not None and rl.algorithm == "sft",
    )


def _outcome(work: Run) -> None:
    """Measure the fine-tuned policy where pi_0 was measured."""
    if work.recipe.rl is None:
        return
    before = work.record.scores()
    if before is None:
        raise ValueError(f"{work.record.path}: no scores of pi_0")
    _, heldout = work.rows()
    after = outcome.again(
        work.recipe,
        generator(work, work.record.rl),
        work.judge,
        rows=heldout,
        before=before,
        folder=work.record.path / "rollouts" / "finetuned",
        world=work.world,
    )
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
