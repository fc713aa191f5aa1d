"""Diagnose again while RL runs, from rollouts that it takes anyway; answer if asked to.

The rollouts of a step are its policy's own: demonstrations in a group, whole or begun, are left
out. What they show stands in `posttrain.regime.monitor`; here it is logged, told, and acted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from transformers import TrainerCallback

from posttrain import progress
from posttrain.intervention.ramp import ramp
from posttrain.record import MetricsLog
from posttrain.regime.monitor import Band, Reading, Watch, begin
from posttrain.tuning import compat
from posttrain.tuning.dials import Dials
from posttrain.tuning.honour import PlanError
from posttrain.tuning.state import read_state

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from posttrain.intervention.plan import Plan
    from posttrain.tuning.callbacks import Recorder
    from posttrain.tuning.job import Experience, Job
    from posttrain.tuning.settings import MonitorSettings
    from posttrain.tuning.world import World

Kind = Literal["passed", "dropped", "collapsed", "silent"]
ANSWERS: dict[Kind, Literal["release", "tighten", "stop"]] = {
    "passed": "release",
    "dropped": "tighten",
    "collapsed": "stop",
    "silent": "stop",
}
"""What `adapt` may name, by what has been seen."""
NAME = "monitor"


class Monitor(TrainerCallback):
    """Watches a run of RL; its memory goes into checkpoints."""

    name = NAME

    def __init__(
        self,
        settings: MonitorSettings,
        trainer: Any,
        recorder: Recorder,
        watch: Watch,
        *,
        dataset: Mapping[str, float],
        scale: tuple[float, float],
        log: MetricsLog,
        world: World,
    ) -> None:
        """Watch `trainer`, whose rollouts `recorder` hears.

        `dataset` has D's mean return of each unit in units of the reward's range; empty: unknown.
        Events go to `log`.
        """
        self.settings, self.trainer, self.recorder = settings, trainer, recorder
        self.watch, self.dataset, self.scale = watch, dataset, scale
        self.log, self.world = log, world
        self.dials: Dials = trainer.dials
        recorder.own = trainer.own_rows
        self.told: dict[Kind, int] = {}
        """The step at which each kind of event came last."""
        self.silent, self.stopped = 0, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take in the rollouts of the step; every process sees those of all."""
        step = int(state.global_step)
        self._hear(self.world.gather(self.recorder.take_own()))
        reading = self.watch.reading()
        for kind in self._seen(reading):
            self.told[kind] = step
            done = self._answer(kind, control)
            if self.world.main:
                event = {"step": step, "kind": kind, "measured": self._measured(reading)}
                self.log.append({**event, "done": done})
            progress.say(
                f"step {step}: {self._sentence(kind, reading)}; {done}", speak=self.world.main
            )
        if step % int(args.logging_steps) == 0 or self.stopped:
            for name, value in self._columns(reading).items():
                compat.push(self.trainer, f"monitor/{name}", value)

    def _hear(self, found: Sequence[tuple[str, float]]) -> None:
        low, high = self.scale
        groups: dict[str, list[float]] = {}
        for unit, value in found:
            groups.setdefault(unit, []).append((value - low) / (high - low))
        if groups:
            speaks = any(len(set(group)) > 1 for group in groups.values())
            best = min(min(group) for group in groups.values()) >= 1.0
            self.silent = 0 if speaks or best else self.silent + 1
        units = [unit for unit in groups if not self.dataset or unit in self.dataset]
        returns = [float(np.mean(groups[unit])) for unit in units]
        data = [self.dataset[unit] for unit in units] if self.dataset else None
        self.watch = self.watch.update(np.clip(returns, 0.0, 1.0), data)

    def _seen(self, reading: Reading) -> list[Kind]:
        """What is certain by now, told once a window, on evidence from after the last time."""
        certain: dict[Kind, bool] = {
            "passed": bool(reading.passed),
            "dropped": bool(reading.dropped),
            "collapsed": bool(reading.collapsed),
            "silent": self.silent >= self.settings.window,
        }
        begun = dict.fromkeys(certain, reading.start)
        begun["silent"] = self.watch.step - self.silent
        return [k for k, true in certain.items() if true and begun[k] >= self.told.get(k, 0)]

    def _answer(self, kind: Kind, control: TrainerControl) -> str:
        answer, factor = ANSWERS[kind], self.settings.factor
        if answer not in self.settings.adapt:
            return f"nothing done, since rl.monitor.adapt does not name {answer!r}"
        if kind == "silent" and getattr(self.trainer, "replay", None) is not None:
            return "nothing done, since replay still teaches"
        if answer == "release":
            self.dials.replay /= factor
            return f"replay is now {self.dials.replay:g} of the plan's"
        if answer == "tighten":
            self.dials.anchor *= factor
            return f"the anchor is now {self.dials.anchor:g} times the plan's"
        self.stopped = True
        control.should_training_stop = control.should_save = True
        control.should_log = control.should_evaluate = True
        return "the run ends here, with a checkpoint"

    def _sentence(self, kind: Kind, reading: Reading) -> str:
        j, pi0 = (self._returns(band) for band in (reading.j, reading.pi0))
        steps = self.watch.step - reading.start
        over = f"{steps} step{'' if steps == 1 else 's'}"
        if kind == "passed":
            low, mid, high = (x * self._reach for x in reading.gap)
            return f"the policy has passed D by {mid:+.3f} ({low:+.3f} to {high:+.3f}) over {over}"
        if kind == "silent":
            return f"no group has had two different returns for {self.silent} steps"
        word = "is below pi_0" if kind == "dropped" else "has lost over half of pi_0's return"
        return (
            f"the policy {word}: {j.mid:.3f} ({j.low:.3f} to {j.high:.3f}) over {over}, pi_0 had "
            f"{pi0.mid:.3f} ({pi0.low:.3f} to {pi0.high:.3f})"
        )

    def _measured(self, reading: Reading) -> dict[str, Any]:
        return {
            **self._columns(reading),
            "J_pi0": self._returns(reading.pi0).mid,
            "since_step": reading.start,
            "units": reading.units,
            "silent_steps": self.silent,
        }

    def _columns(self, reading: Reading) -> dict[str, float]:
        """The reading on the reward's own scale."""
        gaps = {"stability": reading.stability, "plasticity": reading.plasticity}
        if self.dataset:
            gaps = {"gap_to_data": reading.gap, **gaps}
        found = _named("J", self._returns(reading.j))
        for name, band in gaps.items():
            found |= _named(name, Band(*(float(x) * self._reach for x in band)))
        return {**found, "replay": self.dials.replay, "anchor": self.dials.anchor}

    @property
    def _reach(self) -> float:
        return self.scale[1] - self.scale[0]

    def _returns(self, band: Band) -> Band:
        return Band(*(self.scale[0] + float(x) * self._reach for x in band))

    def state(self) -> dict[str, Any]:
        """Everything it remembers."""
        return {
            "watch": self.watch.to_dict(),
            "told": dict(self.told),
            "silent": self.silent,
            "stopped": self.stopped,
            "replay": self.dials.replay,
            "anchor": self.dials.anchor,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there, dials included."""
        self.watch = self.watch.go_on(state["watch"])
        self.told, self.silent = dict(state["told"]), int(state["silent"])
        self.stopped = bool(state["stopped"])
        self.dials.replay, self.dials.anchor = float(state["replay"]), float(state["anchor"])


def _named(name: str, band: Band) -> dict[str, float]:
    return {name: band.mid, f"{name}_low": band.low, f"{name}_high": band.high}


def monitor_of(job: Job, trainer: Any) -> Monitor:
    """The monitor that a job asks for, on the trainer that runs it."""
    settings, given = job.settings.monitor, job.experience
    if settings is None:
        raise ValueError("rl.monitor: the job has none")
    low, high = given.scale

    def unit_scale(returns: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {
            unit: (float(np.mean(values)) - low) / (high - low)
            for unit, values in returns.items()
            if values
        }

    data = unit_scale(given.dataset_returns)
    own = {row.unit for row in given.rows}
    seen = {unit: value for unit, value in data.items() if unit in own}
    watch = begin(
        steps=job.settings.steps,
        window=settings.window,
        alpha=settings.alpha,
        pi0=_of_pi0(given, unit_scale(given.policy_returns), data),
        dataset=float(np.mean(list(seen.values()))) if seen else None,
    )
    return Monitor(
        settings,
        trainer,
        trainer.recorder,
        watch,
        dataset=seen,
        scale=given.scale,
        log=job.events,
        world=job.world,
    )


def _of_pi0(
    given: Experience, policy: Mapping[str, float], data: Mapping[str, float]
) -> list[float]:
    """pi_0 on held-out units, which SFT has not memorised and RL will not."""
    heldout = {row.unit for row in given.heldout}
    found = [x for u, x in policy.items() if u in heldout and (not data or u in data)]
    if not found:
        raise PlanError(
            "rl.monitor: there are no returns of pi_0 on held-out units to compare with; diagnose "
            "first, or leave the monitor out"
        )
    return found


def check_monitor(settings: MonitorSettings | None, plan: Plan, algorithm: str) -> None:
    """Refuse answers that a plan leaves no room for.

    Raises:
        PlanError: one sentence a field.
    """
    if settings is None:
        return
    complaints = []
    if algorithm not in ("grpo", "rloo"):
        complaints.append(f"rl.monitor: {algorithm} takes no rollouts while it trains; remove it")
    if "release" in settings.adapt and plan.replay is None:
        complaints.append("rl.monitor.adapt: 'release' needs replay in the plan, which has none")
    if "tighten" in settings.adapt:
        complaints += _no_tightening(plan)
    lost = (
        set() if plan.reset is None else {"policy", "head", "last_layers"} & set(plan.reset.parts)
    )
    if lost and {"tighten", "stop"} & set(settings.adapt):
        complaints.append(
            f"rl.monitor.adapt: a reset of {sorted(lost)} drops the return on purpose, so that "
            "'tighten' and 'stop' would answer to the plan itself; leave them out"
        )
    if complaints:
        raise PlanError("; ".join(complaints))


def _no_tightening(plan: Plan) -> list[str]:
    if plan.anchor is None:
        return ["rl.monitor.adapt: 'tighten' needs an anchor in the plan, which has none; add one"]
    if plan.anchor.target is not None:
        return ["rl.monitor.adapt: 'tighten' and anchor.target both steer the anchor; choose one"]
    if ramp(plan.anchor.coefficient).peak == 0:
        return ["rl.monitor.adapt: 'tighten' multiplies the anchor's coefficient, which is 0"]
    return []


def last_step(checkpoint: Path | None, steps: int) -> int:
    """The step that a run ends at: earlier than `steps` where its monitor has stopped it."""
    stored = {} if checkpoint is None else read_state(checkpoint).get(NAME, {})
    if checkpoint is not None and stored.get("stopped"):
        return min(steps, int(checkpoint.name.rsplit("-", 1)[1]))
    return steps
