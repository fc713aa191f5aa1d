"""One leg of a race: an arm and a seed take a round's steps, are measured, and are charged for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from posttrain import progress, record
from posttrain.intervention.ramp import ramp
from posttrain.llm import finetune, rl
from posttrain.llm.arms import Arm
from posttrain.llm.data import Row
from posttrain.llm.sampling import rollouts
from posttrain.llm.settings import ProbeSettings
from posttrain.llm.work import Run, generator
from posttrain.record import MetricsLog
from posttrain.regime.scores import Scores
from posttrain.tuning import model
from posttrain.tuning.measured import never

SEED = 11
"""Added to the recipe's seed for the rollouts that arms are compared on."""
LOGS = ("metrics.jsonl", "curve.jsonl", "events.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What was spent."""

    steps: int = 0
    """Optimizer steps."""
    rollouts: int = 0
    """Drawn to train on."""
    demonstrations: int = 0
    """Of D, put through the model to imitate them."""
    evaluations: int = 0
    """Rollouts of the curve J(pi_n), as any run of RL draws them."""
    comparisons: int = 0
    """Rollouts that arms are compared on."""
    seconds: float = 0.0
    """Of the clock; those of an attempt that was killed are lost."""

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        mine, theirs = asdict(self), asdict(other)
        return Cost(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """What a leg has shown, and what it cost."""

    records: tuple[dict[str, Any], ...]
    cost: Cost

    @property
    def scores(self) -> Scores:
        """Returns on the units of the race."""
        return Scores.from_rows(list(self.records))


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Where a race takes place: the run, the job that arms vary, and the prompts to compare on."""

    work: Run
    job: rl.Job
    probe: ProbeSettings
    rows: Sequence[Row]

    @property
    def folder(self) -> Path:
        """Of the race, inside the run's."""
        return self.work.record.path / "probe"

    def place(self, arm: Arm, number: int) -> Path:
        """The folder of an arm's seed."""
        return self.folder / arm.name.replace(" ", "-") / f"seed-{number}"

    def job_of(self, arm: Arm, number: int, *, until: int | None = None) -> rl.Job:
        """The very run that the arm would be alone, paused after `until` steps."""
        settings, place = self.job.settings, self.place(arm, number)
        if arm.algorithm == "sft":
            settings = finetune.as_sft(settings)
        return replace(
            self.job,
            plan=arm.plan,
            settings=settings,
            seed=self.job.seed + number,
            folder=place / "checkpoints",
            metrics=MetricsLog(place / "metrics.jsonl"),
            curve=MetricsLog(place / "curve.jsonl"),
            until=until,
        )


def run_leg(track: Track, arm: Arm, number: int, lap: int) -> Leg:
    """Take an arm's steps of round `lap` with seed `number`, from where it stopped.

    A leg that was finished before is read from its files.
    """
    world, place = track.work.world, track.place(arm, number)
    shown, bill = (place / f"round-{lap}.{end}" for end in ("jsonl", "json"))
    if not world.broadcast(bill.exists()):
        began, until = time.monotonic(), (lap + 1) * track.probe.steps
        progress.say(f"race: {arm.name}, seed {number}, to step {until}", speak=world.main)
        job = track.job_of(arm, number, until=until)
        policy, tokenizer = finetune.TRAIN[arm.algorithm](job)
        records = _measure(track, policy, tokenizer, place / f"round-{lap}", number)
        cost = _cost(job, lap * track.probe.steps, len(records), time.monotonic() - began)
        if world.main:
            record.write_jsonl(shown, records)
            record.write_json(bill, asdict(cost))
            shutil.rmtree(place / f"round-{lap}", ignore_errors=True)
        world.wait()
    return Leg(records=tuple(record.read_jsonl(shown)), cost=Cost(**record.read_json(bill)))


def _measure(
    track: Track, policy: Any, tokenizer: Any, folder: Path, number: int
) -> list[dict[str, Any]]:
    """Roll a policy out on the prompts of the race, as the recipe rolls out."""
    work = track.work
    if work.world.main:
        with record.replacing_folder(folder / "policy") as saved:
            model.save(policy, tokenizer, saved)
    work.world.wait()
    with progress.bar("comparing", len(track.rows), speak=work.world.main) as bar:
        return rollouts(
            track.rows,
            generator(work, folder / "policy"),
            work.judge,
            work.recipe.rollout,
            samples=track.probe.samples,
            batch=work.recipe.diagnose.batch,
            seed=work.recipe.seed + SEED + number,
            folder=folder / "rollouts",
            enough=never,
            tick=bar.update,
            world=work.world,
            split="heldout",
            kind="rollout",
        )


def _cost(job: rl.Job, before: int, comparisons: int, seconds: float) -> Cost:
    """What the steps from `before` on were. A run that ended itself took fewer than asked."""
    ended = [row["step"] for row in job.events.read() if "the run ends here" in row["done"]]
    steps = max(0, min(job.last, *ended, job.last) - before)
    replay = job.plan.replay
    imitates = job.settings.algorithm in ("sft", "dpo")
    replays = replay is not None and ramp(replay.weight).peak > 0
    curve = [row for row in job.curve.read() if before < row["step"] or row["step"] == before == 0]
    return Cost(
        steps=steps,
        rollouts=0 if imitates else round(steps * rl.rollouts_a_step(job)),
        demonstrations=steps * job.settings.replay_rows if imitates or replays else 0,
        evaluations=sum(len(row["unit"]) for row in curve),
        comparisons=comparisons,
        seconds=round(seconds, 2),
    )
