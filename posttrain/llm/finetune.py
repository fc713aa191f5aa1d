"""The stage that fine-tunes pi_0: what the record holds becomes a job, and an algorithm does it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from posttrain import progress, record
from posttrain.intervention.actions import success_from
from posttrain.llm import interpolation, measure, offline, rl
from posttrain.llm.sampling import Generator, tokens_of, transformers_generator
from posttrain.llm.settings import RlSettings
from posttrain.llm.work import Run
from posttrain.outcome import write_evaluations
from posttrain.regime import Diagnosis
from posttrain.regime.scores import Scores
from posttrain.tuning import model
from posttrain.tuning.measured import returns_by_unit
from posttrain.tuning.planned import plan_of

TRAIN: dict[str, Callable[[rl.Job], tuple[Any, Any]]] = {
    "grpo": rl.train,
    "rloo": rl.train,
    "dpo": offline.train,
    "sft": offline.train,
}


def finetune(work: Run) -> None:
    """The stage `rl`: fine-tune pi_0 under the plan of the record, and keep the policy."""
    settings = work.recipe.rl
    if settings is None:
        return
    job = job_of(work)
    policy, tokenizer = TRAIN[job.settings.algorithm](job)
    if settings.interpolate:
        _interpolate(work, policy, tokenizer)
    if work.world.main:
        with record.replacing_folder(work.record.rl) as folder:
            model.save(policy, tokenizer, folder)
        write_evaluations(job.curve, work.record.evaluations_file)


def job_of(work: Run, *, aside: Collection[str] = ()) -> rl.Job:
    """What the record says is to be trained, and from what.

    Args:
        work: the run.
        aside: training units to do without, beside those that a race has set aside.

    Raises:
        ValueError: the run has not been diagnosed, or is to train nothing.
    """
    settings = work.recipe.rl
    diagnosis, stored, scores = work.record.diagnosis(), work.record.plan(), work.record.scores()
    if diagnosis is None or stored is None or scores is None:
        raise ValueError(f"{work.record.path}: the diagnosis is missing")
    if settings is None:
        raise ValueError(f"{work.record.path}: rl is null, so there is nothing to train")
    if stored.get("trains") == "sft":
        settings = as_sft(settings)
    without = {*aside, *stored.get("set_aside", ())}

    def base() -> Mapping[str, Any]:
        """Read only where a reset interpolates towards it."""
        return work.base()[0].state_dict()

    return rl.Job(
        pi0=work.record.sft,
        settings=settings,
        plan=plan_of(stored),
        experience=experience_of(work, scores, diagnosis, without=without),
        judge=work.judge,
        load=work.load,
        base=base,
        rollout=work.recipe.rollout,
        lora=work.recipe.model.lora,
        factory=work.factory(),
        seed=work.recipe.seed,
        folder=work.record.path / "checkpoints" / "rl",
        metrics=work.record.metrics,
        curve=record.MetricsLog(work.record.path / "curve.jsonl"),
        world=work.world,
    )


def _interpolate(work: Run, policy: Any, tokenizer: Any) -> None:
    """Leave the best mixture with pi_0 in `policy`, and say what was tried."""
    settings, recipe, scores = work.recipe.rl, work.recipe, work.record.scores()
    if settings is None or scores is None:
        raise ValueError(f"{work.record.path}: the scores of pi_0 are missing")
    measured = {row["unit"] for row in scores.where(source="policy", split="heldout").rows()}

    def generator(mixed: Any) -> Generator:
        return transformers_generator(mixed, tokenizer)

    chosen = interpolation.sweep(
        policy.to(model.device()),
        work.load(work.record.sft)[0].state_dict(),
        settings.interpolate,
        generator=generator,
        rows=interpolation.units_to_choose_by(work.rows()[1], frozenset(measured)),
        judge=work.judge,
        decoding=recipe.rollout,
        samples=recipe.diagnose.samples,
        batch=recipe.diagnose.batch,
        seed=recipe.seed + 5,
        alpha=recipe.diagnose.alpha,
        scale=recipe.diagnose.scale,
        folder=work.record.path / "rollouts" / "interpolated",
        world=work.world,
    )
    if work.world.main:
        record.write_json(work.record.path / "interpolation.json", chosen.to_dict())
    progress.say(f"The best share of the fine-tuned policy is {chosen.share:g}.")


def as_sft(settings: RlSettings) -> RlSettings:
    """The same for further SFT, which has no rollouts to monitor."""
    return replace(settings, algorithm="sft", monitor=None, warmup_from="fresh")


def experience_of(
    work: Run, scores: Scores, diagnosis: Diagnosis, *, without: Collection[str] = ()
) -> rl.Experience:
    """What the diagnosis measured, as fine-tuning needs it."""
    train, heldout = work.rows()
    train = [row for row in train if row.unit not in without]
    tokenizer = work.processing(work.record.sft)
    return rl.Experience(
        rows=train,
        heldout=heldout,
        pi0_rollouts=measure.rollouts_of_pi0(scores, {row.unit: row for row in heldout}, tokenizer),
        prior=max(diagnosis.j_policy, diagnosis.j_dataset),
        j_dataset=diagnosis.j_dataset,
        alpha=diagnosis.alpha,
        scale=diagnosis.scale,
        policy_returns=returns_by_unit(scores.where(source="policy", decoding="rollout")),
        dataset_returns=returns_by_unit(scores.where(source="dataset")),
        success=success_from(diagnosis.scale, continuous=diagnosis.recoverability is None),
        seen_tokens=tokens_of(work.record.path / "rollouts" / "pi0" / "seen"),
    )
