"""Fine-tuning of pi_0 without rollouts: further SFT on D, and DPO on preferences.

Further SFT is the rival that stands beside every plan that keeps D: as many updates, as many
demonstrations each, no RL. Both are evaluated as RL is, by rollouts on held-out prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from posttrain import progress
from posttrain.intervention.ramp import ramp
from posttrain.llm import rl
from posttrain.llm.data import Row
from posttrain.llm.honour import learner
from posttrain.llm.kept import kept_of
from posttrain.llm.preferences import pairs
from posttrain.llm.rollouts_in_environment import in_environment
from posttrain.llm.sampling import judge_completions, transformers_generator
from posttrain.llm.sft import pairs_dataset
from posttrain.recipe import RecipeError
from posttrain.tuning import anchored, callbacks, interventions, training
from posttrain.tuning.cloning import peft_config
from posttrain.tuning.honour import PlanError, check_replay
from posttrain.tuning.monitor import check_monitor
from posttrain.tuning.resume import go_on

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain.llm.rl import Job

EVALUATION = 7_919
"""Added to the seed of a run for the rollouts of its evaluations."""


def train(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Fine-tune by `job.settings.algorithm`, `sft` or `dpo`; return the final policy.

    Raises:
        PlanError: the plan has a field that cannot be honoured.
        PreferenceError: DPO without rejected answers.
        WrongReferenceError: the reference that TRL built is not pi_0.
    """
    resume = training.resume_point(job.folder, (job.metrics, job.curve), job.world)
    configure = _sft_config if job.settings.algorithm == "sft" else _dpo_config
    config = configure(job, start=resume is None)
    _check(job, config)
    model, tokenizer = job.load(job.pi0)
    lora = job.lora is not None
    ended = training.trained_to_the_end(model, resume, job.last, lora=lora)
    if ended is not None:
        return ended, tokenizer
    probe = rl.probe_of(model, tokenizer, job.experience, job.settings.probe_units)
    reset = job.plan.reset
    base = job.base() if reset is not None and reset.how == "interpolate" else None
    if reset is not None and resume is None:
        interventions.reset_first(reset, model, base, job.seed)
    make = _sft_trainer if job.settings.algorithm == "sft" else _dpo_trainer
    says = "further SFT on D" if job.settings.algorithm == "sft" else "DPO under the plan"
    with progress.bar(says, job.settings.steps, speak=job.world.main) as bar:
        trainer = make(job, config, model, tokenizer)
        recorder = callbacks.Recorder()
        trainer.measure = _measure(job, trainer, tokenizer, recorder)
        found = []
        if job.settings.algorithm == "dpo":
            anchored.verify(trainer, probe)
            found = interventions.interventions(job, trainer, base, resume)
        for callback in (
            *found,
            callbacks.Probe(trainer, probe),
            interventions.curve_of(job, trainer, recorder, job.settings.eval_samples),
            training.Keep(job.metrics, bar, ("loss", "regime/J", "regime/kl_to_pi0")),
            training.EndAt(job.last),
            training.MarkComplete(),
        ):
            trainer.add_callback(callback)
        training.quiet(trainer)
        go_on(trainer, resume)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return (trained.merge_and_unload() if lora else trained), tokenizer


def _check(job: Job, config: Any) -> None:
    able = learner(job.settings.algorithm, lora=job.lora is not None)
    if missing := able.unsupported(job.plan):
        raise PlanError("; ".join(missing))
    check_monitor(job.settings.monitor, job.plan, job.settings.algorithm)
    replay = job.plan.replay
    if replay is not None and ramp(replay.weight).peak > 0:
        check_replay(config, job.settings.replay_rows, job.world.size)


def _ours(job: Job, *, start: bool) -> dict[str, Any]:
    return {
        "output_dir": str(job.folder),
        "seed": job.seed,
        "max_steps": job.settings.steps,
        "eval_strategy": "steps",
        "eval_steps": job.settings.eval_every,
        "eval_on_start": start,
        "save_steps": job.settings.save_every,
    }


def _sft_config(job: Job, *, start: bool = True) -> Any:
    """Read `rl.trainer` for SFT: what only RL has (group size, clipping) does nothing here.

    So that the rival differs from the arms beside it by one key, `rl.algorithm`.
    """
    from trl import GRPOConfig, SFTConfig

    mine = {f.name for f in fields(SFTConfig)}
    only_rl = {f.name for f in fields(GRPOConfig)} - mine
    cuts = ("per_device_train_batch_size", "per_device_eval_batch_size")
    given = {
        name: value
        for name, value in job.settings.trainer.items()
        if name not in only_rl and name not in cuts
    }
    parts = job.world.size * given.get("gradient_accumulation_steps", 1)
    if job.settings.replay_rows % parts:
        raise PlanError(
            f"rl.replay_rows: {job.settings.replay_rows} demonstrations a step cannot be dealt out "
            f"evenly to {parts} parts (processes x micro-batches); use a multiple"
        )
    return training.trainer_config(
        SFTConfig,
        "rl.trainer",
        {"logging_steps": 5, **given},
        ours={
            **_ours(job, start=start),
            "per_device_train_batch_size": job.settings.replay_rows // parts,
        },
    )


def _sft_trainer(job: Job, config: Any, model: Any, tokenizer: Any) -> Any:
    from posttrain.llm.rolled import RolledSFTTrainer

    return RolledSFTTrainer(
        model=model,
        args=config,
        train_dataset=pairs_dataset(job.experience.rows, tokenizer),
        eval_dataset=pairs_dataset(job.experience.heldout[:1], tokenizer),
        processing_class=tokenizer,
        peft_config=None if job.lora is None else peft_config(job.lora),
    )


def _dpo_config(job: Job, *, start: bool = True) -> Any:
    from trl import DPOConfig

    anchor = job.plan.anchor
    if anchor is None and "beta" not in job.settings.trainer:
        raise RecipeError(
            "rl.trainer.beta: DPO always anchors to its reference; give an anchor in "
            "interventions, or beta in rl.trainer"
        )
    beta = {} if anchor is None else {"beta": anchored.first_beta(anchor)}
    ours = {
        **_ours(job, start=start),
        **beta,
        "sync_ref_model": False,
        "remove_unused_columns": False,
    }
    return training.trainer_config(
        DPOConfig, "rl.trainer", {"logging_steps": 5, **job.settings.trainer}, ours=ours
    )


def _dpo_trainer(job: Job, config: Any, model: Any, tokenizer: Any) -> Any:
    from posttrain.llm.rolled import PlanDPOTrainer

    replay, given = job.plan.replay, job.experience
    preferred = pairs(given.rows)
    return PlanDPOTrainer(
        model=model,
        args=config,
        train_dataset=preferred,
        eval_dataset=preferred.select([0]),
        processing_class=tokenizer,
        peft_config=None if job.lora is None else peft_config(job.lora),
        kept=kept_of(replay, given.rows, tokenizer, batch=job.settings.replay_rows, seed=job.seed),
        anchor=job.plan.anchor,
        wait=0 if job.plan.warmup is None else job.plan.warmup.steps,
    )


def _measure(
    job: Job, trainer: Any, tokenizer: PreTrainedTokenizerBase, recorder: callbacks.Recorder
) -> Callable[[], None]:
    """An evaluation: held-out prompts are answered and judged; the draws come from the step."""
    first: dict[str, Row] = {}
    for row in job.experience.heldout[: job.settings.eval_units]:
        first.setdefault(row.unit, row)
    rows = job.world.share(list(first.values()))

    def measure() -> None:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        training_mode = policy.training
        if job.factory is None:
            generate = transformers_generator(policy, tokenizer)
        else:
            generate = in_environment(
                policy,
                tokenizer,
                factory=job.factory,
                judge=job.judge,
                given=job.settings.trainer,
                folder=job.folder / "rollouts",
                world=job.world,
            )
        seed = job.seed + EVALUATION * (int(trainer.state.global_step) + 1) + job.world.rank
        samples = job.settings.eval_samples
        drawn = generate(rows, job.rollout, samples=samples, seed=seed)
        policy.train(training_mode)
        recorder.found += [
            (record["unit"], record["return"])
            for record in judge_completions(job.judge, rows, drawn)
            if record["return"] is not None
        ]

    return measure
