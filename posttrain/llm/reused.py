"""Rollouts of pi_0 that the diagnosis has drawn stand in for those that RL would draw first.

Until its weights have moved, the policy is pi_0, and its sampler is the diagnosis': what was drawn
then is what would be drawn now. So a diagnosis costs no interaction that a warm-up does not save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import GRPOTrainer

from posttrain import progress
from posttrain.intervention.plan import Plan
from posttrain.intervention.ramp import ramp
from posttrain.tuning import compat
from posttrain.tuning.honour import PlanError

Ids = Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Rollouts of pi_0 for the first batches of RL.

    `completions` are token ids by unit; `units` come first, in this order; `batches` batches of
    rollouts are taken from here.
    """

    completions: Mapping[str, Sequence[Ids]]
    units: tuple[str, ...]
    batches: int

    def of(self, unit: str, place: int) -> Ids | None:
        """The rollout that stands at `place` in the group of `unit`, if there is one."""
        found = self.completions.get(unit, ())
        return found[place] if place < len(found) else None


def stored_of(
    plan: Plan,
    tokens: Mapping[str, Sequence[Ids]],
    units: Sequence[str],
    config: Any,
) -> Stored:
    """Choose what is reused, and say so if it does not suffice.

    Args:
        plan: of the run; rollouts are reused until its warm-up has ended.
        tokens: rollouts of pi_0 by unit.
        units: of the training prompts.
        config: TRL's.

    Raises:
        PlanError: the policy would not be pi_0, or its prompts not those of the diagnosis.
    """
    wait = 0 if plan.warmup is None else plan.warmup.steps
    _check(plan, wait, config)
    cycle = config.steps_per_generation * config.num_iterations
    batches = ((wait + 1) * config.gradient_accumulation_steps - 1) // cycle + 1
    needed = batches * (config.generation_batch_size // config.num_generations)
    known = [unit for unit in units if tokens.get(unit)]
    chosen = sorted(known, key=lambda unit: -len(tokens[unit]))[:needed]
    group = config.num_generations
    have = sum(min(group, len(tokens[unit])) for unit in chosen)
    if have < needed * group:
        progress.say(
            f"The warm-up takes {group} rollouts of {needed} prompts; the diagnosis has drawn "
            f"{have} of these {needed * group}, and the others are drawn now. More: "
            f"diagnose.seen_units {needed}, diagnose.samples {group}."
        )
    return Stored(
        completions={unit: tokens[unit] for unit in chosen}, units=tuple(chosen), batches=batches
    )


def _check(plan: Plan, wait: int, config: Any) -> None:
    if getattr(config, "use_vllm", False):
        raise PlanError(
            "rl.warmup_from: vLLM's rollouts come with the sampler's log-probabilities, which the "
            "diagnosis does not keep; use warmup_from: fresh"
        )
    if plan.reset is not None and plan.reset.every <= wait:
        raise PlanError(
            "rl.warmup_from: a policy that was reset is not the pi_0 that the diagnosis rolled "
            "out; use warmup_from: fresh"
        )
    if plan.replay is not None and ramp(plan.replay.prefix_share).peak > 0:
        raise PlanError(
            "rl.warmup_from: the diagnosis' rollouts do not start from parts of demonstrations "
            "(replay.prefix_share); use warmup_from: fresh"
        )


def dealt_first(units: Sequence[str], first: Sequence[str], config: Any) -> list[int]:
    """Order prompts so that TRL's sampler deals `first` before the others.

    The sampler shuffles positions by its seed. What comes first is put where it looks first.

    Args:
        units: of the prompts as they stand.
        first: those that are to be dealt first.
        config: TRL's.

    Returns:
        Indices into `units`, one for each position.
    """
    generator = torch.Generator().manual_seed(config.seed)
    looks: list[int] = (
        torch.randperm(len(units), generator=generator).tolist()
        if config.shuffle_dataset
        else list(range(len(units)))
    )
    index = {unit: i for i, unit in enumerate(units)}
    ahead = {index[unit] for unit in first}
    behind = [i for i in looks if i not in ahead]  # the others keep their order
    dealt = [*(index[unit] for unit in first), *behind]
    order = [0] * len(units)
    for position, unit in zip(looks, dealt, strict=True):
        order[position] = unit
    return order


class Reused:
    """Serves stored rollouts in an online trainer of TRL, whose methods it extends."""

    stored: Stored | None = None
    state: Any
    model: Any
    args: Any
    accelerator: Any
    num_generations: int
    _units: Sequence[str] = ()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if self.stored is not None:
            self._units = [row["unit"] for row in inputs] if self.model.training else ()
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        generate = super()._generate_single_turn  # type: ignore[misc]
        if self.stored is None or not self._units or self._batch_number() >= self.stored.batches:
            return generate(prompt_ids, images, multimodal_fields, *args, **kwargs)
        if images is not None or multimodal_fields or len(prompt_ids) != len(self._units):
            raise PlanError("rl.warmup_from: only for prompts of text that get one answer")
        first = self.accelerator.process_index * len(prompt_ids)
        found = [
            self.stored.of(unit, (first + i) % self.num_generations)
            for i, unit in enumerate(self._units)
        ]
        rest = [i for i, ids in enumerate(found) if ids is None]
        out: Any = ([], None)
        if rest:
            out = generate([prompt_ids[i] for i in rest], images, {}, *args, **kwargs)
        drawn = iter(out[0] if isinstance(out, tuple) else out)
        ids = [list(next(drawn) if stored is None else stored) for stored in found]
        count = torch.tensor([len(found) - len(rest)], device=self.accelerator.device)
        total = float(self.accelerator.gather(count).sum())
        compat.push(self, "regime/reused_rollouts", total)
        return (ids, None) if isinstance(self, GRPOTrainer) else ids

    def _batch_number(self) -> int:
        """Of the rollouts that are due, counted over the whole run."""
        return compat.micro_step(self) // (
            self.args.steps_per_generation * self.args.num_iterations
        )
