"""TRL's GRPOTrainer, extended where a plan keeps D: an SFT loss, demonstrations in groups.

Nothing of TRL is copied: every method below calls the one it extends. With no replay and no
share the trainer does what GRPOTrainer does, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import GRPOTrainer

from posttrain.intervention.plan import TokenWeight
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.replay import label_logp, mix_counts, replay_indices, weighted_nll
from posttrain.llm import compat
from posttrain.llm.model import batch_of

Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayLoss:
    """An SFT loss on D beside the RL loss, with its own normaliser.

    `rows` demonstrations are replayed at every optimizer step, over all processes and
    micro-batches; `weight` multiplies their mean loss a token. `pairs` are token ids.
    """

    pairs: tuple[Pair, ...]
    rows: int
    weight: Ramp
    token_weight: TokenWeight
    pad: int
    seed: int

    def rows_at(self, draw: int, *, rank: int, world: int, accumulation: int) -> list[Pair]:
        """This process' demonstrations for one micro-batch."""
        indices = replay_indices(
            draw,
            size=len(self.pairs),
            batch=self.rows // (world * accumulation),
            seed=self.seed,
            rank=rank,
            world=world,
        )
        return [self.pairs[i] for i in indices]

    def tokens_at(self, step: int, *, world: int, accumulation: int) -> int:
        """Demonstration tokens of a whole optimizer step, on all processes."""
        return sum(
            len(completion)
            for micro in range(accumulation)
            for rank in range(world)
            for _, completion in self.rows_at(
                step * accumulation + micro, rank=rank, world=world, accumulation=accumulation
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """Demonstrations that take the place of rollouts in their prompt's group (arXiv 2504.14945).

    `completions` maps a unit to the token ids of its demonstration, with the end token.
    """

    share: Ramp
    completions: Mapping[str, Sequence[int]]


class PlanGRPOTrainer(GRPOTrainer):
    """GRPO that can keep the data. See `posttrain.llm.callbacks` for the rest of a plan."""

    def __init__(
        self,
        *args: Any,
        replay: ReplayLoss | None = None,
        group: GroupShare | None = None,
        wait: int = 0,
        **kwargs: Any,
    ) -> None:
        """Take GRPOTrainer's arguments, and what to keep of D after `wait` warm-up steps."""
        super().__init__(*args, **kwargs)
        self.replay, self.group, self.wait = replay, group, wait
        self._rows: list[dict[str, Any]] | None = None
        self._injected: list[bool] = []

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
        """Add the replay loss to GRPO's."""
        loss: torch.Tensor = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.replay is None or not self.model.training:
            return loss
        weight = self.replay.weight(self.since_warmup())
        compat.push(self, "regime/replay_weight", weight)
        if self.replay.weight.peak == 0:
            return loss
        nll = self._replay_nll(model, self.replay)
        compat.push(self, "replay/nll", float(self.accelerator.gather(nll.detach()).sum()))
        # The optimizer sees the mean over processes and, unless the loss is scaled already, over
        # micro-batches; the replay loss is a sum over both.
        accumulation = 1 if self.loss_is_scaled_for_ga else self.current_gradient_accumulation_steps
        return loss + weight * nll * self.accelerator.num_processes * accumulation

    def _replay_nll(self, model: Any, replay: ReplayLoss) -> torch.Tensor:
        """This micro-batch' part of the step's mean loss a token, at temperature 1."""
        world = {
            "world": int(self.accelerator.num_processes),
            "accumulation": int(self.args.gradient_accumulation_steps),
        }
        pairs = replay.rows_at(
            compat.micro_step(self), rank=self.accelerator.process_index, **world
        )
        batch = batch_of(pairs, replay.pad, self.accelerator.device)
        labels = batch.pop("labels")
        logp, mask = label_logp(model(**batch).logits, labels)
        tokens = replay.tokens_at(int(self.state.global_step), **world)
        return weighted_nll(logp, mask, token_weight=replay.token_weight, num_items=tokens)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._rows = inputs if self.model.training and self.group is not None else None
        self._injected = [False] * len(inputs)
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._rows = None

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        out = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if self._rows is None or self.group is None:
            return out
        ids, logps = out
        count = mix_counts(self.num_generations, self.group.share, self.since_warmup())
        first = self.accelerator.process_index * len(ids)
        for i, row in enumerate(self._rows):
            demonstration = self.group.completions.get(row["unit"])
            place = (first + i) % self.num_generations
            if demonstration is None or place < self.num_generations - count:
                continue
            ids[i], self._injected[i] = list(demonstration), True
            if logps is not None:  # None: unknown to the sampler, so the importance ratio is 1
                logps[i] = [None] * len(demonstration)
        return ids, logps

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        if self._rows is not None:
            flags = torch.tensor(self._injected, device=rewards.device)
            injected = self.accelerator.gather(flags)
            own = rewards[~injected].nansum(dim=1)
            compat.push(self, "regime/on_policy_reward", float(own.mean()))
            compat.push(self, "regime/replay_share", float(injected.float().mean()))
        return rewards
