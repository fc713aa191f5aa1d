"""What RL keeps of D: an SFT loss beside RL's, and demonstrations in groups.

A mixin for TRL's online trainers. Nothing of TRL is copied: every method below calls the one it
extends, and with nothing to keep each does what TRL's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.intervention.actions import kept_rows
from posttrain.intervention.plan import TokenWeight
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.replay import draw, label_logp, weighted_nll
from posttrain.tuning import compat
from posttrain.tuning.dealt import GroupShare
from posttrain.tuning.dials import Dials
from posttrain.tuning.gate import Gate
from posttrain.tuning.model import batch_of
from posttrain.tuning.state import Stateful

Pair = tuple[Sequence[int], Sequence[int]]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Which part of an optimizer step a micro-batch is.

    `micro` counts from 0; `micros` make this step, which ends early where an epoch does;
    `accumulation` make a full one. `rank` is one of `world` processes.
    """

    step: int
    micro: int
    micros: int
    accumulation: int
    rank: int
    world: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayLoss:
    """An SFT loss on D beside the RL loss, with its own normaliser.

    `rows` demonstrations are replayed at every optimizer step, over all processes and
    micro-batches; `weight` multiplies their mean loss a token. Of each demonstration the policy
    says `lengths` tokens itself; `units` are their prompts.
    """

    units: tuple[str, ...]
    lengths: Rows
    rows: int
    weight: Ramp
    token_weight: TokenWeight
    seed: int

    def batch(self, rows: Rows, where: torch.device) -> dict[str, torch.Tensor]:
        """The demonstrations at `rows` as the model takes them, with labels."""
        raise NotImplementedError

    def kept(self, gate: Gate | None) -> Rows:
        """The demonstrations that a gate keeps now; all without one."""
        if gate is None:
            return np.arange(len(self.units))
        return np.array(kept_rows(self.units, gate.actions), dtype=np.int64)

    def rows_at(self, kept: Rows, at: Batch) -> Rows:
        """The demonstrations of one micro-batch on one process.

        They are consecutive draws of an endless stream over `kept`, dealt out to micro-batches and
        processes: the rows of a step do not depend on how it is cut.
        """
        count = self.rows // (at.world * at.accumulation)
        start = at.step * self.rows + (at.micro * at.world + at.rank) * count
        return kept[draw(start, count, size=len(kept), seed=self.seed)]

    def tokens_at(self, kept: Rows, at: Batch) -> int:
        """Demonstration tokens of the whole optimizer step, on all processes."""
        count = self.rows // at.accumulation * at.micros
        taken = draw(at.step * self.rows, count, size=len(kept), seed=self.seed)
        return int(self.lengths[kept[taken]].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReplay(ReplayLoss):
    """Of prompts and completions, whose token ids are `pairs`."""

    pairs: tuple[Pair, ...]
    pad: int

    def batch(self, rows: Rows, where: torch.device) -> dict[str, torch.Tensor]:
        """Padded on the right."""
        return batch_of([self.pairs[i] for i in rows], self.pad, where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Everything of D that a plan keeps."""

    replay: ReplayLoss | None = None
    group: GroupShare | None = None
    gate: Gate | None = None


class KeepData:
    """Keeps D in an online trainer of TRL, whose methods it extends."""

    state: Any
    model: Any
    args: Any
    accelerator: Any
    loss_is_scaled_for_ga: bool
    current_gradient_accumulation_steps: int

    def __init__(self, *args: Any, kept: Kept | None = None, wait: int = 0, **kwargs: Any) -> None:
        """Take the trainer's arguments, and what to keep after `wait` warm-up steps."""
        super().__init__(*args, **kwargs)
        kept = Kept() if kept is None else kept
        self.replay, self.gate, self.wait = kept.replay, kept.gate, wait
        self.dials = Dials()
        self._replaying: _Replaying | None = None
        deal = getattr(self, "deal", None)
        if deal is not None:
            deal(kept.group, kept.gate)

    def memories(self) -> list[Stateful]:
        """What has to be remembered in a checkpoint."""
        return [self.gate] if self.gate is not None and self.gate.live else []

    def since_warmup(self) -> int:
        """Steps in which the policy could move: what a plan's ramps count."""
        return max(0, int(self.state.global_step) - self.wait)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Add the replay loss to RL's."""
        loss: torch.Tensor = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.replay is None or not self.model.training:
            return loss
        weight = self.replay.weight(self.since_warmup()) * self.dials.replay
        if weight == 0:
            compat.push(self, "regime/replay_weight", 0.0)
            return loss
        nll = self._replay_nll(model, self.replay, weight)
        # The optimizer sees the mean over processes and, unless the loss is scaled already, over
        # micro-batches; the replay loss is a sum over both.
        accumulation = 1 if self.loss_is_scaled_for_ga else self.current_gradient_accumulation_steps
        return loss + weight * nll * self.accelerator.num_processes * accumulation

    def _replay_nll(self, model: Any, replay: ReplayLoss, weight: float) -> torch.Tensor:
        """This micro-batch' part of the step's mean loss a token, at temperature 1."""
        now = self._now(replay)
        nll = torch.zeros((), device=self.accelerator.device)
        if len(now.kept):
            at = self._batch(now.micro)
            batch = replay.batch(replay.rows_at(now.kept, at), self.accelerator.device)
            nll = self._batch_nll(model, batch, replay, max(now.tokens, 1))
        now.micro += 1
        now.nll = nll.detach() + now.nll
        if now.micro == self.current_gradient_accumulation_steps:
            compat.push(self, "replay/nll", float(self.accelerator.gather(now.nll).sum()))
            compat.push(self, "regime/replay_weight", weight)
            compat.push(self, "regime/replay_rows", float(len(now.kept)))
        return nll

    def _now(self, replay: ReplayLoss) -> _Replaying:
        """What this optimizer step replays: settled at its first micro-batch."""
        step = int(self.state.global_step)
        last = self._replaying
        if last is None or last.step != step:
            moves = self.gate is not None and self.gate.live
            kept = replay.kept(self.gate) if last is None or moves else last.kept
            tokens = replay.tokens_at(kept, self._batch(0)) if len(kept) else 0
            last = self._replaying = _Replaying(step=step, kept=kept, tokens=tokens)
        return last

    def _batch(self, micro: int) -> Batch:
        return Batch(
            step=int(self.state.global_step),
            micro=micro,
            micros=int(self.current_gradient_accumulation_steps),
            accumulation=int(self.args.gradient_accumulation_steps),
            rank=int(self.accelerator.process_index),
            world=int(self.accelerator.num_processes),
        )

    def _batch_nll(
        self, model: Any, batch: dict[str, torch.Tensor], replay: ReplayLoss, tokens: int
    ) -> torch.Tensor:
        """The loss of cloning a batch, summed and divided by the `tokens` of the whole step."""
        logp, mask = self._label_logp(model, batch)
        return weighted_nll(logp, mask, token_weight=replay.token_weight, num_items=tokens)

    def _label_logp(
        self, model: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the demonstrations' tokens at temperature 1.

        The fused head of TRL's online trainers saves the logits, but divides them by the rollouts'
        temperature.
        """
        labels = batch.pop("labels")
        if getattr(self, "temperature", None) == 1:
            with self.accelerator.autocast():
                out = model(**batch, labels=labels, fused_lm_head=True)
            return out.log_probs, labels[:, 1:] != -100
        return label_logp(model(**batch).logits, labels)


@dataclass(slots=True, kw_only=True)
class _Replaying:
    """The replay of the optimizer step in progress."""

    step: int
    kept: Rows
    tokens: int
    micro: int = 0
    nll: torch.Tensor | float = 0.0
