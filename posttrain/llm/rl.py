"""RL fine-tuning of pi_0 with TRL's GRPO, under a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import progress
from posttrain.intervention.plan import Plan, Replay, Reset
from posttrain.intervention.ramp import ramp
from posttrain.intervention.reference import verify_reference
from posttrain.intervention.reset import apply_reset
from posttrain.llm import callbacks, training
from posttrain.llm.data import Row
from posttrain.llm.honour import PlanError, check_cycle, check_replay, honour
from posttrain.llm.model import batch_of, demonstration_ids, device, prompt_ids, token_logps
from posttrain.llm.reward import Judge
from posttrain.llm.settings import Decoding, Lora, RlSettings
from posttrain.llm.sft import peft_config
from posttrain.llm.trainer import GroupShare, PlanGRPOTrainer, ReplayLoss
from posttrain.llm.world import World
from posttrain.record import MetricsLog

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What RL starts from: pi_0 and D, and what the diagnosis measured of them."""

    rows: Sequence[Row]
    heldout: Sequence[Row]
    pi0_rollouts: Sequence[tuple[Row, list[int]]]
    prior: float
    alpha: float
    scale: tuple[float, float]


def train(
    pi0: Path,
    settings: RlSettings,
    plan: Plan,
    experience: Experience,
    judge: Judge,
    *,
    load: Callable[[Path], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    base: Callable[[], Mapping[str, torch.Tensor]],
    rollout: Decoding,
    lora: Lora | None,
    seed: int,
    folder: Path,
    metrics: MetricsLog,
    curve: MetricsLog,
    world: World,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Fine-tune; return the final policy (adapters merged).

    Args:
        pi0: folder of the SFT checkpoint. It is the anchor's reference, whatever is reset.
        settings: steps, batch sizes and TRL's fields.
        plan: what to keep.
        experience: prompts, demonstrations and the diagnosis' rollouts.
        judge: the reward.
        load: reads a model folder.
        base: weights that a reset may interpolate towards.
        rollout: the sampler, the one that the diagnosis used.
        lora: train an adapter on top of pi_0.
        seed: of everything drawn here.
        folder: checkpoints; a killed run resumes from the last whole one.
        metrics: one row a logged step.
        curve: one row an evaluation.
        world: the processes.

    Raises:
        PlanError: the plan has a field that cannot be honoured.
        WrongReferenceError: the reference that TRL built is not pi_0.
    """
    resume = world.broadcast(training.last_complete(folder) if world.main else None)
    config = _config(settings, plan, rollout, seed=seed, folder=folder, start=resume is None)
    honour(plan, generations=config.num_generations, lora=lora is not None)
    if plan.replay is not None and ramp(plan.replay.weight).peak > 0:
        check_replay(config, settings.replay_rows, world.size)
    check_cycle(config)
    if world.main:
        for log in (metrics, curve):
            log.truncate_after(training.step_of(resume) if resume else -1)
    model, tokenizer = load(pi0)
    ended = training.trained_to_the_end(model, resume, settings.steps, lora=lora is not None)
    if ended is not None:
        return ended, tokenizer
    probe = _probe(model, tokenizer, experience, settings.probe_units)
    before = base() if plan.reset is not None and plan.reset.how == "interpolate" else None
    if plan.reset is not None and resume is None:
        _reset_first(plan.reset, model, before, seed)
    recorder = callbacks.Recorder()
    with progress.bar("RL under the plan", settings.steps, speak=world.main) as bar:
        trainer = PlanGRPOTrainer(
            model=model,
            reward_funcs=reward_function(judge, recorder),
            args=config,
            train_dataset=_dataset(experience.rows, stage="train"),
            eval_dataset=_dataset(experience.heldout[: settings.eval_units], stage="eval"),
            processing_class=tokenizer,
            peft_config=None if lora is None else peft_config(lora),
            **_replay_arguments(plan.replay, experience.rows, tokenizer, settings, seed),
            wait=0 if plan.warmup is None else plan.warmup.steps,
        )
        if not any(p.requires_grad for p in trainer.model.parameters()):
            raise PlanError("model: no parameter is trainable; RL would change nothing")
        if plan.anchor is not None:
            _verify(trainer, probe)
        gauges = callbacks.Curve(
            trainer,
            recorder,
            curve,
            prior=experience.prior,
            world=world,
            alpha=experience.alpha,
            scale=experience.scale,
            samples=settings.eval_samples,
        )
        keep = training.Keep(metrics, bar, ("reward", "regime/J", "regime/kl_to_pi0"))
        for callback in (
            *_interventions(plan, trainer, seed=seed, base=before),
            callbacks.Probe(trainer, probe),
            gauges,
            keep,
            training.MarkComplete(),
        ):
            trainer.add_callback(callback)
        training.quiet(trainer)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return (trained if lora is None else trained.merge_and_unload()), tokenizer


def _reset_first(
    reset: Reset, model: Any, base: Mapping[str, torch.Tensor] | None, seed: int
) -> None:
    """Reset what exists before RL starts; adapters and optimizer are new then."""
    parts = tuple(part for part in reset.parts if part not in {"adapter", "optimizer"})
    if parts:
        apply_reset(replace(reset, parts=parts), model, base_state=base, seed=seed)


def _interventions(
    plan: Plan, trainer: PlanGRPOTrainer, *, seed: int, base: Mapping[str, torch.Tensor] | None
) -> list[Any]:
    """The callbacks that a plan asks for."""
    found: list[Any] = []
    if plan.anchor is not None:
        found.append(callbacks.AnchorSchedule(trainer, ramp(plan.anchor.coefficient)))
    if plan.warmup is not None:
        found.append(callbacks.MomentWarmup(plan.warmup.steps))
    if plan.reset is not None and plan.reset.every:
        found.append(callbacks.ScheduledReset(plan.reset, seed=seed, base=base))
    return found


def _config(
    settings: RlSettings,
    plan: Plan,
    rollout: Decoding,
    *,
    seed: int,
    folder: Path,
    start: bool = True,
) -> Any:
    from trl import GRPOConfig

    if rollout.temperature == 0:
        raise PlanError("rollout.temperature: RL needs samples, got 0 (greedy)")
    beta = 0.0
    if plan.anchor is not None:
        beta = max(callbacks.FLOOR, ramp(plan.anchor.coefficient)(0))
    return training.trainer_config(
        GRPOConfig,
        "rl.trainer",
        {"logging_steps": 5, **settings.trainer},
        ours={
            "output_dir": str(folder),
            "seed": seed,
            "max_steps": settings.steps,
            "beta": beta,
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
        },
    )


def _dataset(rows: Sequence[Row], *, stage: str) -> Any:
    """One row a unit: the prompt, what the reward asks for, and which stage it is."""
    from datasets import Dataset

    first = {row.unit: row for row in reversed(rows)}
    units = list(dict.fromkeys(row.unit for row in rows))
    return Dataset.from_list([{**first[u].reward_columns(), "stage": stage} for u in units])


def reward_function(
    judge: Judge, recorder: callbacks.Recorder
) -> Callable[..., list[float | None]]:
    """The judge with TRL's signature; evaluations are recorded by unit."""
    hidden = {"trainer_state", "log_extra", "log_metric", "environments"}

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        names = [name for name in columns if name not in hidden]
        rows = [
            {"prompt": prompt, **{name: columns[name][i] for name in names}}
            for i, prompt in enumerate(prompts)
        ]
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        values = [j.value for j in judge(rows, [text.strip() for text in texts])]
        recorder.found += [
            (row["unit"], value)
            for row, value in zip(rows, values, strict=True)
            if row["stage"] == "eval" and value is not None
        ]
        return values

    return reward


def _replay_arguments(
    replay: Replay | None,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    settings: RlSettings,
    seed: int,
) -> dict[str, Any]:
    if replay is None:
        return {}
    encoded = [(row.unit, *demonstration_ids(tokenizer, row)) for row in rows]
    arguments: dict[str, Any] = {}
    if ramp(replay.weight).peak > 0:
        arguments["replay"] = ReplayLoss(
            pairs=tuple((prompt, completion) for _, prompt, completion in encoded),
            rows=settings.replay_rows,
            weight=ramp(replay.weight),
            token_weight=replay.token_weight,
            pad=int(tokenizer.pad_token_id),
            seed=seed,
        )
    if ramp(replay.share).peak > 0:
        arguments["group"] = GroupShare(
            share=ramp(replay.share),
            completions={unit: completion for unit, _, completion in reversed(encoded)},
        )
    return arguments


@torch.no_grad()
def _probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experience: Experience,
    units: int,
) -> callbacks.ProbeBatch:
    model = model.to(device()).eval()
    pad = int(tokenizer.pad_token_id)
    pairs = [
        (prompt_ids(tokenizer, row.prompt), ids) for row, ids in experience.pi0_rollouts[:units]
    ]
    rollouts = batch_of(pairs, pad, device())
    demonstrations = [demonstration_ids(tokenizer, row) for row in experience.heldout[:units]]
    return callbacks.ProbeBatch(
        rollouts=rollouts,
        pi0_logps=token_logps(model, rollouts)[0],
        demonstrations=batch_of(demonstrations, pad, device()),
    )


@torch.no_grad()
def _verify(trainer: PlanGRPOTrainer, probe: callbacks.ProbeBatch) -> None:
    """The anchor must be pi_0: compare TRL's reference with pi_0 on pi_0's own rollouts."""
    labels = probe.rollouts["labels"][:, 1:]
    if trainer.ref_model is not None:
        reference, _ = token_logps(trainer.ref_model.eval(), probe.rollouts)
    else:
        adapted = trainer.accelerator.unwrap_model(trainer.model)
        with adapted.disable_adapter():
            reference, _ = token_logps(adapted.eval(), probe.rollouts)
    verify_reference(probe.pi0_logps, reference, labels != -100)
