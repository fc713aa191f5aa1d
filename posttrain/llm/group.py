"""Demonstrations among the rollouts of a group: whole, or as a beginning that the policy ends.

A mixin for TRL's online trainers. Nothing of TRL is copied: every method below calls the one it
extends, and with nothing to deal each does what TRL's does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from posttrain.intervention.replay import token_weights
from posttrain.tuning import compat
from posttrain.tuning.dealt import Dealt, GroupShare, answered, asked, own_mask, stretched
from posttrain.tuning.dials import Dials
from posttrain.tuning.gate import Gate
from posttrain.tuning.honour import PlanError


class Grouped:
    """Deals demonstrations into the groups of an online trainer of TRL, whose methods it extends.

    `per_token` says whether the trainer's loss has one importance ratio a token (GRPO) or one a
    rollout (RLOO). In the first, `token_weight` multiplies a demonstration's advantages token by
    token. In the second it multiplies the gradients of the tokens' log-probabilities, which is the
    same for a loss that is linear in them.
    """

    per_token = True
    state: Any
    model: Any
    args: Any
    accelerator: Any
    num_generations: int
    max_completion_length: int
    since_warmup: Callable[[], int]
    dials: Dials

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Deal nothing yet."""
        super().__init__(*args, **kwargs)
        self.group: GroupShare | None = None
        self.gate: Gate | None = None
        self._rows: list[dict[str, Any]] | None = None
        self._hand: list[Dealt | None] = []
        self._slopes: torch.Tensor | None = None

    def deal(self, group: GroupShare | None, gate: Gate | None) -> None:
        """Deal from `group` what `gate` keeps.

        Raises:
            PlanError: rollouts are not one answer to one prompt.
        """
        if group is not None:
            _check(self)
        self.group, self.gate = group, gate

    def own_rows(self) -> list[bool]:
        """Which rows of the newest training batch the policy wrote alone, from their beginning."""
        return [dealt is None for dealt in self._hand]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        watched = self.group is not None or self.gate is not None
        self._rows = inputs if self.model.training and watched else None
        self._hand = [None] * len(inputs)
        try:
            return self._weighted(super()._generate_and_score_completions(inputs))  # type: ignore[misc]
        finally:
            self._rows = None

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        generate = super()._generate_single_turn  # type: ignore[misc]
        if self._rows is None or self.group is None:
            return generate(prompt_ids, images, multimodal_fields, *args, **kwargs)
        first = self.accelerator.process_index * len(prompt_ids)
        self._hand = [self._dealt(row["unit"], first + i) for i, row in enumerate(self._rows)]
        longer = asked(prompt_ids, self._hand)
        out = generate(longer, images, stretched(multimodal_fields, longer), *args, **kwargs)
        ids, logps = out if isinstance(out, tuple) else (out, None)
        ids, logps = answered(ids, logps, self._hand, limit=self.max_completion_length)
        return (ids, logps) if isinstance(out, tuple) else ids

    def _dealt(self, unit: str, row: int) -> Dealt | None:
        if self.group is None or (self.gate is not None and not self.gate.keeps(unit)):
            return None
        return self.group.times(self.dials.replay).dealt(
            unit,
            row % self.num_generations,
            group=self.num_generations,
            step=self.since_warmup(),
            limit=self.max_completion_length,
        )

    def _weighted(self, found: dict[str, Any]) -> dict[str, Any]:
        """Weigh the demonstrations' tokens by how likely the policy found them at the rollout."""
        if self._rows is None or self.group is None or self.group.token_weight == "none":
            return found
        mine = [i for i, dealt in enumerate(self._hand) if dealt is not None]
        count = torch.tensor([len(mine)], device=self.accelerator.device)
        most = int(self.accelerator.gather(count).max())
        if most == 0:
            return found
        logps = found.get("old_per_token_logps")
        if logps is None:
            logps = self._rollout_logps(found, [*mine, *[0] * (most - len(mine))])
        given = own_mask(self._hand, logps.shape[1]).to(logps.device)
        weights = torch.where(given, token_weights(self.group.token_weight, logps), 1)
        if self.per_token:
            found["advantages"] = found["advantages"].unsqueeze(1) * weights
        else:
            found["demonstration_weight"] = weights
        return found

    @torch.no_grad()
    def _rollout_logps(self, found: dict[str, Any], rows: list[int]) -> torch.Tensor:
        """Log-probabilities of the completions in `rows`, 0 in others. [B, T].

        Every process passes equally many rows, since models in shards are run in step. With
        pictures, which belong to rows in a way that only TRL knows, all rows are run.
        """
        seen = {name: found[name] for name in _SEEN if name in found}
        if "pixel_values" in seen:
            rows = list(range(len(self._hand)))
        completion, mask = found["completion_ids"], found["completion_mask"]
        logps, _, _ = self._get_per_token_logps_and_entropies(
            self.model,
            torch.cat([found["prompt_ids"], completion], dim=1)[rows],
            torch.cat([found["prompt_mask"], mask], dim=1)[rows],
            completion.shape[1],
            batch_size=self.args.per_device_train_batch_size,
            **seen,
        )
        whole = logps.new_zeros(completion.shape)
        whole[rows] = logps
        return whole

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        logps, *rest = super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
        if self._slopes is not None and logps.requires_grad:
            still = logps.detach()
            logps = still + self._slopes * (logps - still)  # the same values, other gradients
        return (logps, *rest)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """RL's loss, in which demonstrations weigh what `token_weight` says."""
        self._slopes = inputs.get("demonstration_weight")
        try:
            loss: torch.Tensor = super().compute_loss(  # type: ignore[misc]
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        finally:
            self._slopes = None
        return loss

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(  # type: ignore[misc]
            inputs, prompts, completions, completion_ids_list
        )
        if self._rows is not None:
            self._watch(rewards)
        return rewards

    def _watch(self, rewards: torch.Tensor) -> None:
        """Log what the policy earns by itself, and let the gate see it."""
        kinds = torch.tensor([_KINDS[None if d is None else d.kind] for d in self._hand])
        kinds = self.accelerator.gather(kinds.to(rewards.device))
        values = rewards[:, 0]  # the judge; an anchor may stand beside it
        own = kinds == _KINDS[None]
        compat.push(self, "regime/on_policy_reward", float(values[own].nanmean()))
        if self.group is not None:
            self._log_shares(kinds, values)
        if self.gate is not None:
            for what, share in self.gate.shares().items():
                compat.push(self, f"regime/gate_{what}", share)
            units = self._everywhere([row["unit"] for row in self._rows or ()])
            for start in range(0, len(units), self.num_generations):
                group = slice(start, start + self.num_generations)
                self.gate.observe(units[start], values[group][own[group]].tolist())

    def _log_shares(self, kinds: torch.Tensor, values: torch.Tensor) -> None:
        group = self.group
        compat.push(self, "regime/replay_share", float((kinds == _KINDS["whole"]).float().mean()))
        if group is not None and group.prefix_share.peak > 0:
            begun = kinds == _KINDS["prefix"]
            compat.push(self, "regime/prefix_share", float(begun.float().mean()))
            compat.push(self, "regime/prefix", group.prefix(self.since_warmup()))
            if begun.any():
                compat.push(self, "regime/prefix_reward", float(values[begun].nanmean()))

    def _everywhere(self, units: list[str]) -> list[str]:
        """The units of all processes' rows, in the order of their gathered rewards."""
        if self.accelerator.num_processes == 1:
            return units
        from accelerate.utils import gather_object

        return list(gather_object(units))


_KINDS = {None: 0, "prefix": 1, "whole": 2}
_SEEN = (
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes",
    "num_tiles", "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids",
)  # fmt: skip
"""What TRL hands to its forward pass beside the ids."""


def _check(trainer: Any) -> None:
    if getattr(trainer, "tools", None):
        raise PlanError(
            "replay.share and replay.prefix_share: a demonstration in a group is one answer, and "
            "these rollouts call tools; use replay.weight, which imitates several turns"
        )
    if getattr(trainer, "rollout_func", None) is not None:
        raise PlanError(
            "replay.share and replay.prefix_share: a rollout_func makes its own rollouts, so that "
            "no demonstration can be put among them; use replay.weight"
        )
