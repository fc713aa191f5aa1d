"""What RL keeps of D: an SFT loss beside RL's, and demonstrations in groups.

A mixin for TRL's online trainers. Nothing of TRL is copied: every method below calls the one it
extends, and with nothing to keep each does what TRL's does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from posttrain.intervention.plan import Replay, TokenWeight
from posttrain.intervention.ramp import Ramp, ramp
from posttrain.intervention.replay import label_logp, mix_counts, replay_indices, weighted_nll
from posttrain.llm import compat
from posttrain.llm.data import Row
from posttrain.llm.model import batch_of, demonstration_ids
from posttrain.llm.seen import pad_of
from posttrain.llm.state import Stateful

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Everything of D that a plan keeps."""

    replay: ReplayLoss | None = None
    group: GroupShare | None = None


def kept_of(
    replay: Replay | None,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch: int,
    seed: int,
) -> Kept:
    """Turn a plan's replay into token ids.

    Args:
        replay: the intervention; None keeps nothing.
        rows: the demonstrations.
        tokenizer: of the policy.
        batch: demonstrations a step (`rl.replay_rows`).
        seed: of the stream of demonstrations.
    """
    if replay is None:
        return Kept()
    encoded = [(row.unit, *demonstration_ids(tokenizer, row)) for row in rows]
    loss = group = None
    if ramp(replay.weight).peak > 0:
        loss = ReplayLoss(
            pairs=tuple((prompt, completion) for _, prompt, completion in encoded),
            rows=batch,
            weight=ramp(replay.weight),
            token_weight=replay.token_weight,
            pad=pad_of(tokenizer),
            seed=seed,
        )
    if ramp(replay.share).peak > 0:
        group = GroupShare(
            share=ramp(replay.share),
            completions={unit: completion for unit, _, completion in reversed(encoded)},
        )
    return Kept(replay=loss, group=group)


class KeepData:
    """Keeps D in an online trainer of TRL, whose methods it extends."""

    state: Any
    model: Any
    args: Any
    accelerator: Any
    num_generations: int
    loss_is_scaled_for_ga: bool
    current_gradient_accumulation_steps: int

    def __init__(self, *args: Any, kept: Kept | None = None, wait: int = 0, **kwargs: Any) -> None:
        """Take the trainer's arguments, and what to keep after `wait` warm-up steps."""
        super().__init__(*args, **kwargs)
        kept = Kept() if kept is None else kept
        self.replay, self.group, self.wait = kept.replay, kept.group, wait
        self._rows: list[dict[str, Any]] | None = None
        self._injected: list[bool] = []

    def memories(self) -> list[Stateful]:
        """What has to be remembered in a checkpoint."""
        return []

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
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        finally:
            self._rows = None

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        out = super()._generate_single_turn(prompt_ids, *args, **kwargs)  # type: ignore[misc]
        if self._rows is None or self.group is None:
            return out
        ids, logps = out if isinstance(out, tuple) else (out, None)
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
        return (ids, logps) if isinstance(out, tuple) else ids

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(  # type: ignore[misc]
            inputs, prompts, completions, completion_ids_list
        )
        if self._rows is not None:
            flags = torch.tensor(self._injected, device=rewards.device)
            injected = self.accelerator.gather(flags)
            own = rewards[~injected].nansum(dim=1)
            compat.push(self, "regime/on_policy_reward", float(own.mean()))
            compat.push(self, "regime/replay_share", float(injected.float().mean()))
        return rewards
