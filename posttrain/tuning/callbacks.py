"""The parts of a plan that need no loss: warm-up and resets; and the gauges.

All are functions of the step alone, so a resumed run does what the unbroken one would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from posttrain.intervention.kl import k3, masked_mean
from posttrain.intervention.plan import Reset
from posttrain.intervention.reset import apply_reset
from posttrain.record import MetricsLog
from posttrain.regime.statistics import clustered_mean
from posttrain.tuning import compat
from posttrain.tuning.model import token_logps
from posttrain.tuning.sharding import refuse_master_weights
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class MomentWarmup(TrainerCallback):
    """Let pi_0 act while only the optimizer's moments learn.

    A learner without a critic has no value to warm up; what makes its first steps large is the
    cold optimizer. Each of the first `steps` steps is taken at learning rate 0.
    """

    def __init__(self, steps: int) -> None:
        """Freeze for `steps` steps."""
        self.steps = steps
        self.rates: list[float] = []

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Take the learning rate away."""
        del args, control
        if state.global_step < self.steps:
            self.rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = 0.0

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Give it back."""
        del args, control
        if state.global_step < self.steps:
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate


class ScheduledReset(TrainerCallback):
    """Repeat a reset every so many steps."""

    def __init__(self, reset: Reset, *, seed: int, base: Mapping[str, torch.Tensor] | None) -> None:
        """Apply `reset` with draws from `seed` and the step."""
        self.reset, self.seed, self.base = reset, seed, base

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Refuse where the next step would undo a reset."""
        del state, control
        refuse_master_weights(args, "reset.every")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Between two optimizer steps, never during a rollout."""
        del args, control
        if state.global_step % self.reset.every == 0 and state.global_step < state.max_steps:
            apply_reset(
                self.reset,
                model,
                optimizer=optimizer,
                base_state=self.base,
                seed=self.seed + state.global_step,
            )


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """Fixed rollouts of pi_0 with pi_0's own log-probabilities, and fixed demonstrations."""

    rollouts: dict[str, torch.Tensor]
    pi0_logps: torch.Tensor
    demonstrations: dict[str, torch.Tensor]


class Probe(TrainerCallback):
    """Measure the distance to pi_0 and to D at every log, whether or not the plan anchors.

    `regime/kl_to_pi0` is the forward KL(pi_0 || pi) in nats a token on pi_0's own rollouts (by k3),
    the gauge of forgetting of arXiv 2509.04259; `regime/nll_on_data` is in nats a token of D.
    """

    def __init__(self, trainer: Any, batch: ProbeBatch) -> None:
        """Probe `trainer`'s policy on `batch`."""
        self.trainer, self.batch = trainer, batch

    @torch.no_grad()
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Two forward passes on the steps that are logged."""
        del control
        if state.global_step % int(args.logging_steps) != 0:
            return
        training = model.training
        model.eval()
        logps, mask = token_logps(model, self.batch.rollouts)
        kl = masked_mean(k3(self.batch.pi0_logps, logps), mask)  # samples of pi_0: KL(pi_0 || pi)
        logps, mask = token_logps(model, self.batch.demonstrations)
        nll = -masked_mean(logps, mask)
        model.train(training)
        compat.push(self.trainer, "regime/kl_to_pi0", float(kl))
        compat.push(self.trainer, "regime/nll_on_data", float(nll))


class Recorder:
    """Returns of the evaluation in progress, by unit; and of training rollouts if asked for."""

    def __init__(self) -> None:
        """Start empty."""
        self.found: list[tuple[str, float]] = []
        self.rolled: list[tuple[str, float]] = []
        self.own: Callable[[], Sequence[bool]] | None = None
        """Says which rows of the training batch are the policy's own; None keeps none of them."""

    def hear(self, units: Sequence[str], values: Sequence[float | None], *, training: bool) -> None:
        """Keep what one call of the reward has scored; what it cannot judge is left out."""
        scored = [(u, v) for u, v in zip(units, values, strict=True) if v is not None]
        if not training:
            self.found += scored
        elif self.own is not None:
            rows = zip(units, values, self.own(), strict=True)
            self.rolled += [(u, v) for u, v, own in rows if own and v is not None]

    def take_own(self) -> list[tuple[str, float]]:
        """Hand over the training rollouts since the last time."""
        rolled, self.rolled = self.rolled, []
        return rolled

    def take(self) -> list[tuple[str, float]]:
        """Hand over what has been recorded, and start anew."""
        found, self.found = self.found, []
        return found


class Curve(TrainerCallback):
    """Keep J(pi_n) at every evaluation, and log prior, stability and plasticity so far."""

    def __init__(
        self,
        trainer: Any,
        recorder: Recorder,
        log: MetricsLog,
        *,
        prior: float,
        world: World,
        alpha: float,
        scale: tuple[float, float],
        samples: int,
    ) -> None:
        """Append to `log` what `recorder` holds after an evaluation.

        `prior` is J*_off. Several processes pad their last batch with units that others have
        done: more than `samples` returns of a unit are one too many.
        """
        self.trainer, self.recorder, self.log = trainer, recorder, log
        self.prior, self.world, self.alpha = prior, world, alpha
        self.scale, self.samples = scale, samples

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """After the last held-out prompt has been scored."""
        del args, control
        self.keep(int(state.global_step))

    def keep(self, step: int) -> None:
        """Append what the recorder holds as the evaluation of `step`, and log its gauges."""
        found = _at_most(self.samples, self.world.gather(self.recorder.take()))
        if self.world.main:
            self.log.append(
                {
                    "step": step,
                    "unit": [unit for unit, _ in found],
                    "return": [value for _, value in found],
                }
            )
        values = self.world.broadcast(
            [_mean(row["return"]) for row in self.log.read()] if self.world.main else []
        )
        units = [unit for unit, _ in found]
        estimate = clustered_mean(
            [value for _, value in found], units, level=1 - self.alpha, bounds=self.scale
        )
        self.trainer.log(
            {
                "regime/J": estimate.mean,
                "regime/J_low": estimate.low,
                "regime/J_high": estimate.high,
                "regime/prior": self.prior,
                "regime/stability": min(values) - self.prior,
                "regime/plasticity": max(values) - min(values),
            }
        )


def _at_most(samples: int, found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    count: dict[str, int] = {}
    kept = []
    for unit, value in found:
        count[unit] = count.get(unit, 0) + 1
        if count[unit] <= samples:
            kept.append((unit, value))
    return kept


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
