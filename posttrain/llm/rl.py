"""RL fine-tuning of pi_0 with TRL's GRPO or RLOO, under a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from posttrain import progress
from posttrain.intervention.ramp import ramp
from posttrain.llm.data import Row
from posttrain.llm.environment import judged_rows, last_word
from posttrain.llm.honour import check_group, honour
from posttrain.llm.job import Experience, Job
from posttrain.llm.kept import kept_of
from posttrain.llm.prompts import demonstration_ids, prompt_ids
from posttrain.llm.reused import dealt_first, stored_of
from posttrain.llm.reward import Judge
from posttrain.llm.trainer import TRAINERS, PlanGRPOTrainer, PlanRLOOTrainer
from posttrain.record import write_jsonl
from posttrain.tuning import anchored, callbacks, monitor, training
from posttrain.tuning.cloning import peft_config
from posttrain.tuning.gate import Map, map_of
from posttrain.tuning.honour import PlanError, check_cycle, check_replay
from posttrain.tuning.interventions import curve_of, interventions, reset_first
from posttrain.tuning.model import batch_of, device, token_logps
from posttrain.tuning.order import GoOnInOrder
from posttrain.tuning.resume import go_on
from posttrain.tuning.seen import pad_of, plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Fine-tune with online RL; return the final policy (adapters merged).

    Raises:
        PlanError: the plan has a field that cannot be honoured.
        WrongReferenceError: the reference that TRL built is not pi_0.
    """
    logs = (job.metrics, job.curve, job.events)
    resume = training.resume_point(job.folder, logs, job.world)
    config = _config(job, start=resume is None)
    _check(job, config)
    model, tokenizer = job.load(job.pi0)
    last = monitor.last_step(resume, job.last)
    ended = training.trained_to_the_end(model, resume, last, lora=job.lora is not None)
    if ended is not None:
        return ended, tokenizer
    probe = probe_of(model, tokenizer, job.experience, job.settings.probe_units)
    reset = job.plan.reset
    before = job.base() if reset is not None and reset.how == "interpolate" else None
    if reset is not None and resume is None:
        reset_first(reset, model, before, job.seed)
    recorder = callbacks.Recorder()
    with progress.bar("RL under the plan", job.settings.steps, speak=job.world.main) as bar:
        trainer = _trainer(job, config, model, tokenizer, recorder)
        anchored.verify(trainer, probe)
        for callback in (
            *interventions(job, trainer, before, resume),
            callbacks.Probe(trainer, probe),
            curve_of(job, trainer, recorder, job.settings.eval_samples),
            training.Keep(job.metrics, bar, ("reward", "regime/J", "regime/kl_to_pi0")),
            training.EndAt(job.last),
            GoOnInOrder(trainer),
            training.MarkComplete(),
        ):
            trainer.add_callback(callback)
        training.quiet(trainer)
        go_on(trainer, resume)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return (trained if job.lora is None else trained.merge_and_unload()), tokenizer


def rollouts_a_step(job: Job) -> float:
    """How many rollouts an optimizer step costs; steps that share them cost a part each."""
    config = _config(job)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    return float(batch * job.world.size / config.num_iterations)


def _check(job: Job, config: Any) -> None:
    """Refuse what cannot be honoured, before anything is loaded."""
    replay = job.plan.replay
    honour(
        job.plan,
        generations=config.num_generations,
        lora=job.lora is not None,
        algorithm=job.settings.algorithm,
        acting=job.factory is not None,
    )
    monitor.check_monitor(job.settings.monitor, job.plan, job.settings.algorithm)
    if replay is not None:
        check_group(config, replay)
    if replay is not None and ramp(replay.weight).peak > 0:
        check_replay(config, job.settings.replay_rows, job.world.size)
    check_cycle(config, job.until)


def _trainer(
    job: Job,
    config: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recorder: callbacks.Recorder,
) -> PlanGRPOTrainer | PlanRLOOTrainer:
    settings, given, found = job.settings, job.experience, _map(job)
    prompts = prompts_of(
        given.rows if found is None else found.learnable(given.rows), stage="train"
    )
    stored = None
    if settings.warmup_from == "diagnosis":
        units = list(prompts["unit"])
        stored = stored_of(job.plan, given.seen_tokens, units, config)
        prompts = prompts.select(dealt_first(units, stored.units, config))
    trainer = TRAINERS[settings.algorithm](
        model=model,
        reward_funcs=reward_function(job.judge, recorder),
        args=config,
        train_dataset=prompts,
        eval_dataset=prompts_of(given.heldout[: settings.eval_units], stage="eval"),
        processing_class=tokenizer,
        **({} if job.factory is None else {"environment_factory": job.factory}),
        peft_config=None if job.lora is None else peft_config(job.lora),
        kept=kept_of(
            job.plan.replay,
            given.rows,
            tokenizer,
            batch=settings.replay_rows,
            seed=job.seed,
            found=found,
        ),
        anchor=job.plan.anchor,
        wait=0 if job.plan.warmup is None else job.plan.warmup.steps,
    )
    if not any(p.requires_grad for p in trainer.model.parameters()):
        raise PlanError("model: no parameter is trainable; RL would change nothing")
    trainer.recorder, trainer.stored = recorder, stored
    return trainer


def _map(job: Job) -> Map | None:
    """The map that the plan's gate follows, written down as units.jsonl beside the metrics."""
    given = job.experience
    found = map_of(
        job.plan.replay,
        [row.unit for row in given.rows],
        policy=given.policy_returns,
        dataset=given.dataset_returns,
        success=given.scale[1] if given.success is None else given.success,
    )
    if found is not None and job.world.main:
        rows = [{"unit": unit, "action": what} for unit, what in found.actions.items()]
        write_jsonl(job.metrics.path.with_name("units.jsonl"), rows)
        progress.say(found.described())
    return found


def _config(job: Job, *, start: bool = True) -> Any:
    from trl import GRPOConfig, RLOOConfig

    settings, rollout = job.settings, job.rollout
    if rollout.temperature == 0:
        raise PlanError("rollout.temperature: RL needs samples, got 0 (greedy)")
    return training.trainer_config(
        GRPOConfig if settings.algorithm == "grpo" else RLOOConfig,
        "rl.trainer",
        {"logging_steps": 5, **settings.trainer},
        ours={
            "output_dir": str(job.folder),
            "seed": job.seed,
            "max_steps": settings.steps,
            "beta": anchored.first_beta(job.plan.anchor),
            "temperature": rollout.temperature,
            "top_p": rollout.top_p,
            "top_k": rollout.top_k,
            "max_completion_length": rollout.max_new_tokens,
            "eval_strategy": "steps",
            "eval_steps": settings.eval_every,
            "eval_on_start": start,
            "num_generations_eval": settings.eval_samples,
            "save_steps": settings.save_every,
            "sync_ref_model": False,
            **({} if job.factory is None else job.factory.limits()),
        },
    )


def prompts_of(rows: Sequence[Row], *, stage: str) -> Any:
    """One row a unit: the prompt, what the reward asks for, and which stage it is."""
    from datasets import Dataset

    first = {row.unit: row for row in reversed(rows)}
    units = list(dict.fromkeys(row.unit for row in rows))
    found = [{**first[u].reward_columns(), "stage": stage} for u in units]
    if any(row.images for row in rows):  # there TRL asks any column of these names for messages
        taken = ("chosen", "rejected", "completion", "messages")
        found = [{k: v for k, v in row.items() if k not in taken} for row in found]
    return Dataset.from_list(found)


def reward_function(
    judge: Judge, recorder: callbacks.Recorder
) -> Callable[..., list[float | None]]:
    """The judge with TRL's signature; evaluations are recorded by unit."""

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        rows = judged_rows([plain(prompt) for prompt in prompts], completions, columns)
        texts = [c if isinstance(c, str) else last_word(c) for c in completions]
        values = [j.value for j in judge(rows, [text.strip() for text in texts])]
        training = bool(rows) and rows[0]["stage"] == "train"
        recorder.hear([row["unit"] for row in rows], values, training=training)
        return values

    return reward


@torch.no_grad()
def probe_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experience: Experience,
    units: int,
) -> callbacks.ProbeBatch:
    """Rollouts of pi_0 with its log-probabilities, and held-out demonstrations, to gauge by."""
    model = model.to(device()).eval()
    pad = pad_of(tokenizer)
    pairs = [
        (prompt_ids(tokenizer, row.prompt, row.images, row.tools), ids)
        for row, ids in experience.pi0_rollouts[:units]
    ]
    rollouts = batch_of(pairs, pad, device())
    demonstrations = [demonstration_ids(tokenizer, row) for row in experience.heldout[:units]]
    return callbacks.ProbeBatch(
        rollouts=rollouts,
        pi0_logps=token_logps(model, rollouts)[0],
        demonstrations=batch_of(demonstrations, pad, device()),
    )
