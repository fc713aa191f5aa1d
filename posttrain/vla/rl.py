"""Fine-tuning of a robot policy with TRL's GRPO under a plan, or further cloning in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from posttrain import progress
from posttrain.intervention.capabilities import VLA_LEARNERS
from posttrain.intervention.ramp import ramp
from posttrain.tuning import anchored, callbacks, monitor, training
from posttrain.tuning.cloning import peft_config
from posttrain.tuning.gate import Map, map_of
from posttrain.tuning.honour import PlanError, check_cycle, check_replay, undone
from posttrain.tuning.interventions import curve_of, interventions, reset_first
from posttrain.tuning.model import token_logps
from posttrain.tuning.order import GoOnInOrder
from posttrain.tuning.resume import go_on
from posttrain.vla.acting import EVALUATION
from posttrain.vla.checkpoint import holds_flow, is_flow
from posttrain.vla.frames import Frames, spread
from posttrain.vla.kept import kept_of
from posttrain.vla.rollout import play
from posttrain.vla.sft import further_config, further_trainer, preset
from posttrain.vla.starts import return_of, unit_of
from posttrain.vla.trainer import PlanVLATrainer

if TYPE_CHECKING:
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.job import Job
    from posttrain.vla.policy import Policy


def train(job: Job) -> Policy:
    """Fine-tune by `rl.algorithm`; return the final policy (adapters merged).

    Raises:
        PlanError: the plan has a field that cannot be honoured.
        WrongReferenceError: the reference that TRL built is not pi_0.
    """
    clones = job.settings.algorithm == "sft"
    logs = (job.metrics, job.curve, job.events)
    resume = training.resume_point(job.folder, logs, job.world)
    config = (further_config if clones else grpo_config)(job, start=resume is None)
    check(job, config)
    policy = job.load(job.pi0)
    lora = job.lora is not None
    last = monitor.last_step(resume, job.last)
    ended = training.trained_to_the_end(policy.model, resume, last, lora=lora)
    if ended is not None:
        return replace(policy, model=ended)
    probe = probe_of(job, policy)
    reset = job.plan.reset
    base = job.base() if reset is not None and reset.how == "interpolate" else None
    if reset is not None and resume is None:
        reset_first(reset, policy.model, base, job.seed)
    fleet = job.fleet()
    try:
        trainer = _train(job, config, policy, fleet=fleet, probe=probe, base=base, resume=resume)
    finally:
        fleet.close()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return replace(policy, model=trained.merge_and_unload() if lora else trained)


def _train(
    job: Job,
    config: Any,
    policy: Policy,
    *,
    fleet: Fleet,
    probe: callbacks.ProbeBatch,
    base: Mapping[str, torch.Tensor] | None,
    resume: Path | None,
) -> Any:
    """Build the trainer of a job with everything that its plan asks for, and let it run."""
    recorder = callbacks.Recorder()
    clones = job.settings.algorithm == "sft"
    title = "further cloning of D" if clones else "RL under the plan"
    with progress.bar(title, job.settings.steps, speak=job.world.main) as bar:
        trainer: Any
        planned: list[Any] = []
        if clones:
            trainer = further_trainer(job, config, policy)
            trainer.measure = _measure(job, trainer, policy, fleet, recorder)
        else:
            trainer = trainer_of(job, config, policy, fleet, recorder)
            anchored.verify(trainer, probe)
            planned = [*interventions(job, trainer, base, resume), GoOnInOrder(trainer)]
        for callback in (
            *planned,
            callbacks.Probe(trainer, probe),
            curve_of(job, trainer, recorder, 1),
            training.Keep(job.metrics, bar, ("reward", "regime/J", "regime/kl_to_pi0")),
            training.EndAt(job.last),
            training.MarkComplete(),
        ):
            trainer.add_callback(callback)
        training.quiet(trainer)
        go_on(trainer, resume)
    return trainer


def check(job: Job, config: Any) -> None:
    """Refuse what cannot be honoured, before anything is loaded.

    Raises:
        PlanError: one sentence a field.
    """
    able = VLA_LEARNERS[job.settings.algorithm, job.lora is not None]
    missing = [*able.unsupported(job.plan), *undone(job.plan)]
    if missing:
        raise PlanError("; ".join(missing))
    monitor.check_monitor(job.settings.monitor, job.plan, job.settings.algorithm)
    replay = job.plan.replay
    if replay is not None and ramp(replay.weight).peak > 0:
        check_replay(config, job.settings.replay_rows, job.world.size)
    if job.settings.algorithm == "grpo":
        check_cycle(config)


def grpo_config(job: Job, *, start: bool = True) -> Any:
    """TRL's configuration: the recipe's, and what other parts of it decide."""
    from trl import GRPOConfig

    settings = job.settings
    each = -(-settings.eval_starts // job.world.size)
    return training.trainer_config(
        GRPOConfig,
        "rl.trainer",
        {
            "logging_steps": 5,
            "per_device_train_batch_size": 64,
            "per_device_eval_batch_size": each,
            **preset(flow=holds_flow(job.pi0)),
            **settings.trainer,
        },
        ours={
            "output_dir": str(job.folder),
            "seed": job.seed,
            "max_steps": settings.steps,
            "beta": anchored.first_beta(job.plan.anchor),
            "temperature": job.temperature,
            "eval_strategy": "steps",
            "eval_steps": settings.eval_every,
            "eval_on_start": start,
            "num_generations_eval": 1,
            "save_steps": settings.save_every,
            "sync_ref_model": False,
            "remove_unused_columns": False,
        },
    )


def trainer_of(
    job: Job, config: Any, policy: Policy, fleet: Fleet, recorder: callbacks.Recorder
) -> PlanVLATrainer:
    """The trainer of a job, before any callback.

    Raises:
        PlanError: nothing is trainable.
    """
    settings, given, found = job.settings, job.experience, map_for(job)
    starts = given.rows if found is None else found.learnable(given.rows)
    trainer = _kind(policy)(
        model=policy.model,
        reward_funcs=_unused,
        args=config,
        train_dataset=_dataset([start.seed for start in starts]),
        eval_dataset=_dataset([s.seed for s in given.heldout[: settings.eval_starts]]),
        processing_class=policy.processor,
        peft_config=None if job.lora is None else peft_config(job.lora),
        policy=policy,
        fleet=fleet,
        returns=job.returns,
        execute=job.execute,
        draws=job.seed,
        kept=kept_of(
            job.plan.replay,
            given.demonstrations,
            policy,
            batch=settings.replay_rows,
            seed=job.seed,
            found=found,
        ),
        anchor=job.plan.anchor,
        wait=0 if job.plan.warmup is None else job.plan.warmup.steps,
    )
    if not any(p.requires_grad for p in trainer.model.parameters()):
        raise PlanError("model: no parameter is trainable; RL would change nothing")
    trainer.recorder = recorder
    return trainer


def _kind(policy: Any) -> type[PlanVLATrainer]:
    """The trainer of a policy of tokens, or of a flow, which scores its labels itself."""
    if not is_flow(policy):
        return PlanVLATrainer
    from posttrain.vla.flow.trainer import FlowVLATrainer

    return FlowVLATrainer


def map_for(job: Job) -> Map | None:
    """The map that the plan's gate follows.

    Raises:
        PlanError: RL does not begin where D does, so that no start has both.
    """
    replay, given = job.plan.replay, job.experience
    if replay is None or replay.gate == "none":
        return None
    units = [start.unit for start in given.rows]
    if not units or not set(units) <= set(given.dataset_returns):
        raise PlanError(
            "replay.gate: it decides start by start, and D does not say where its episodes began; "
            "set replay.gate to none"
        )
    found = map_of(
        replay,
        units,
        policy=given.policy_returns,
        dataset=given.dataset_returns,
        success=given.success,
    )
    if found is not None:
        progress.say(found.described(), speak=job.world.main)
    return found


def _unused(completions: list[Any], **_: Any) -> list[float]:
    """TRL asks for a reward function; the environment gives the return here."""
    raise AssertionError(f"asked to judge {len(completions)} completions")


def _dataset(seeds: list[int]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": ["start"] * len(seeds), "seed": seeds})


@torch.no_grad()
def probe_of(job: Job, policy: Policy) -> callbacks.ProbeBatch:
    """Decisions of pi_0 with its log-probabilities, and held-out frames of D, to gauge by."""
    count = job.settings.probe_rows
    seen, tokens = job.experience.decided
    chosen = spread(len(seen), count)
    rollouts = policy.rows(seen.take(chosen), tokens[chosen])
    frames = Frames(job.experience.watched, policy.tokenizer)
    some = spread(len(frames), count)
    policy.model.eval()
    return callbacks.ProbeBatch(
        rollouts=rollouts,
        pi0_logps=token_logps(policy.model, rollouts)[0],
        demonstrations=policy.rows(frames.seen(some), frames.tokens[some]),
    )


def _measure(
    job: Job, trainer: Any, policy: Policy, fleet: Fleet, recorder: callbacks.Recorder
) -> Callable[[], None]:
    """An evaluation of the rival: episodes from held-out starts; the draws come from the step."""
    starts = job.world.share(list(job.experience.heldout[: job.settings.eval_starts]))
    seeds = [start.seed for start in starts]

    def measure() -> None:
        key = (job.seed, EVALUATION, int(trainer.state.global_step))
        played = play(
            replace(policy, model=trainer.accelerator.unwrap_model(trainer.model)),
            fleet,
            seeds,
            draws=lambda place: np.random.default_rng((*key, seeds[place])),
            temperature=job.temperature,
            execute=job.execute,
            keep="none",
        )
        for one in played:
            value = return_of(
                job.returns,
                success=one.success,
                steps=one.steps,
                max_steps=fleet.max_steps,
                rewards=one.rewards,
            )
            recorder.hear([unit_of(one.task, one.seed)], [value], training=False)

    return measure
