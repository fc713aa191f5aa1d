"""The stage that fine-tunes pi_0, and what the result is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain import progress, record
from posttrain.intervention.actions import success_from
from posttrain.outcome import write_evaluations
from posttrain.regime import Diagnosis
from posttrain.regime.scores import Scores
from posttrain.tuning.measured import Records, never, returns_by_unit
from posttrain.tuning.planned import plan_of
from posttrain.vla import checkpoint, film, lookback, measure, rl
from posttrain.vla.job import Experience, Job
from posttrain.vla.observation import Observations, Tokens, join
from posttrain.vla.rollout import play
from posttrain.vla.starts import Start, seed_of, training_starts
from posttrain.vla.work import Run

if TYPE_CHECKING:
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.played import Played
    from posttrain.vla.policy import Policy

PROBE = 4
"""What the streams of draws of the gauge are for; `posttrain.vla.acting` has others."""


def finetune(work: Run) -> None:
    """The stage `rl`: fine-tune pi_0 under the plan of the record, and keep the policy."""
    if work.recipe.rl is None:
        return
    job = job_of(work)
    found = rl.train(job)
    if work.world.main:
        with record.replacing_folder(work.record.rl) as folder:
            checkpoint.save(found, folder)
        write_evaluations(job.curve, work.record.evaluations_file)
        lookback.parity(work, job.curve)


def job_of(work: Run) -> Job:
    """What the record says is to be trained, and from what.

    Raises:
        ValueError: the run has not been diagnosed, or is to train nothing.
    """
    settings, found = work.recipe.rl, work.record
    diagnosis, stored, scores = found.diagnosis(), found.plan(), found.scores()
    if diagnosis is None or stored is None or scores is None:
        raise ValueError(f"{found.path}: the diagnosis is missing")
    if settings is None:
        raise ValueError(f"{found.path}: rl is null, so there is nothing to train")
    if stored.get("trains") == "sft":
        settings = replace(settings, algorithm="sft", monitor=None)

    def base() -> Mapping[str, Any]:
        """Read only where a reset interpolates towards it."""
        weights: Mapping[str, Any] = work.base().model.state_dict()
        return weights

    plan = plan_of(stored)
    gated = plan.replay is not None and plan.replay.gate != "none"
    return Job(
        pi0=found.sft,
        settings=settings,
        plan=plan,
        experience=experience_of(work, scores, diagnosis, gated=gated),
        load=work.load,
        base=base,
        fleet=work.fleet,
        returns=work.recipe.environment.returns,
        execute=work.recipe.model.actions.execute,
        temperature=work.recipe.rollout.temperature,
        lora=work.recipe.model.lora,
        seed=work.recipe.seed,
        folder=found.path / "checkpoints" / "rl",
        metrics=found.metrics,
        curve=record.MetricsLog(found.path / "curve.jsonl"),
        world=work.world,
    )


def experience_of(work: Run, scores: Scores, diagnosis: Diagnosis, *, gated: bool) -> Experience:
    """What the diagnosis measured, as fine-tuning needs it.

    RL begins at starts of its own; with a gate, which decides demonstration by demonstration, it
    begins where D does.
    """
    settings = work.recipe.rl
    if settings is None:
        raise ValueError(f"{work.record.path}: rl is null, so there is nothing to train")
    heldout = measured_starts(scores)
    mine = scores.where(source="policy", decoding="rollout")
    return Experience(
        rows=work.starts_of_d(work.cloned)
        if gated
        else training_starts(settings.starts, seed=work.recipe.seed),
        heldout=heldout,
        demonstrations=work.cloned,
        watched=work.heldout,
        decided=decisions(work, heldout, settings.probe_rows),
        prior=max(diagnosis.j_policy, diagnosis.j_dataset),
        j_dataset=diagnosis.j_dataset,
        alpha=diagnosis.alpha,
        scale=diagnosis.scale,
        policy_returns=returns_by_unit(mine),
        dataset_returns=returns_by_unit(scores.where(source="dataset")),
        success=success_from(diagnosis.scale, continuous=diagnosis.recoverability is None),
    )


def measured_starts(scores: Scores) -> list[Start]:
    """Where pi_0 was measured, in the order in which it was, so that the first are of all tasks.

    Raises:
        ValueError: somebody else's log does not say where its episodes began.
    """
    held = scores.where(source="policy", split="heldout").rows()
    units = list(dict.fromkeys(row["unit"] for row in held))
    unknown = [unit for unit in units if "/" not in unit or not unit.rsplit("/", 1)[1].isdigit()]
    if unknown or not units:
        what = f"unit {unknown[0]!r}" if unknown else "no unit"
        raise ValueError(
            f"diagnose.scores: {what} names no start (task/seed), so the fine-tuned policy cannot "
            "be measured where pi_0 was; leave diagnose.scores out, or set rl: null"
        )
    return [Start(seed_of(unit), unit.rsplit("/", 1)[0]) for unit in units]


def decisions(work: Run, starts: list[Start], rows: int) -> tuple[Observations, Tokens]:
    """What pi_0 sees and decides from the first of `starts`, until there are enough rows."""
    fleet = work.fleet()
    try:
        actor = work.load(work.record.sft)
        seen, tokens = [], []
        for first in range(0, len(starts), fleet.size):
            batch = starts[first : first + fleet.size]
            played = _probed(work, actor, fleet, batch)
            for start, one in zip(batch, played, strict=True):
                if one.task != start.task:
                    raise ValueError(
                        f"diagnose.scores: unit {start.unit!r} is task {start.task!r}, and the "
                        f"environment begins task {one.task!r} at seed {start.seed}: its units "
                        "must read task/seed; leave diagnose.scores out, or set rl: null"
                    )
                seen.append(one.seen)
                tokens.append(one.tokens)
            if sum(map(len, tokens)) >= rows:
                break
    finally:
        fleet.close()
    return join(seen), np.concatenate(tokens)


def _probed(work: Run, actor: Policy, fleet: Fleet, starts: list[Start]) -> list[Played]:
    def stream(place: int) -> np.random.Generator:
        return np.random.default_rng((work.recipe.seed, PROBE, starts[place].seed))

    return play(
        actor,
        fleet,
        [start.seed for start in starts],
        draws=stream,
        temperature=work.recipe.rollout.temperature,
        execute=work.recipe.model.actions.execute,
        keep="decisions",
    )


def again(work: Run, before: Scores) -> Scores:
    """Play the fine-tuned policy from the starts on which pi_0 was diagnosed."""
    starts = measured_starts(before)
    actor, fleet = work.load(work.record.rl), work.fleet()
    found: Records = []
    try:
        for kind, decoding in (
            ("rollout", work.recipe.rollout),
            ("deployment", work.recipe.deployment),
        ):
            with progress.bar(f"after RL, {kind}", len(starts), speak=work.world.main) as bar:
                found += measure.episodes(
                    work.recipe,
                    actor,
                    fleet,
                    starts,
                    decoding=decoding,
                    kind=kind,
                    split="heldout",
                    folder=work.record.path / "rollouts" / "finetuned" / kind,
                    enough=never,
                    world=work.world,
                    tick=bar.update,
                )
        if work.world.main:
            film.film_policy(work, actor, fleet, starts, side="finetuned")
    finally:
        fleet.close()
    return Scores.from_rows(found)
