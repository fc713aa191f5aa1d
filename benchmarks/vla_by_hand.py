"""What a person would write for one world and one model: the loops of docs/vla_speed.md.

They do the mathematics of a policy's fine-tuning and cloning on the same rows and nothing else:
no plans, no logs, no processor, no chunks of actions, prompts of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.vla.observation import Observations
from posttrain.vla.played import Played
from posttrain.vla.policy import Policy

CLIP = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What is added to RL's loss."""

    replay: float = 0.0
    kl: float = 0.0


@dataclass(eq=False, kw_only=True)
class ByHand:
    """A model with AdamW, and a reference if there is a KL to it."""

    model: Any
    reference: Any
    ids: Tensor
    """The model's ids of the action tokens."""
    prompts: dict[str, Tensor]
    """The token ids of each instruction's prompt, all of one length."""
    mean: Tensor
    spread: Tensor
    optimizer: torch.optim.Optimizer
    extra: Extra = field(default_factory=Extra)

    def inputs(self, seen: Observations) -> dict[str, Tensor]:
        """Prompts and pictures as the model takes them."""
        (pixels,) = seen.images.values()
        shown = torch.from_numpy(pixels).to(self.ids.device).permute(0, 3, 1, 2) / 255
        ids = torch.stack([self.prompts[words] for words in seen.instructions])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": ((shown - self.mean) / self.spread).contiguous(),
        }

    def says(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Log-probabilities of all actions, `[n, actions]`."""
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        found: Tensor = logits[:, self.ids].log_softmax(-1)
        return found

    def rl(
        self,
        played: Sequence[Played],
        group: int,
        kept: tuple[Observations, Tensor] | None = None,
    ) -> tuple[int, float]:
        """One step of GRPO on episodes of one decision a step, groups beside each other.

        Args:
            played: the episodes.
            group: episodes of a start.
            kept: frames to replay, and what D does there.

        Returns:
            How many rows the loss was taken on, and the loss.
        """
        returns = torch.tensor([float(one.success) for one in played]).view(-1, group)
        centred = returns - returns.mean(1, keepdim=True)
        gain = (centred / (returns.std(1, keepdim=True) + 1e-4)).flatten().tolist()
        chosen = [(p, a) for p, a in zip(played, gain, strict=True) if a or self.extra.kl]
        name = next(iter(played[0].seen.images))
        seen = Observations(
            images={name: np.concatenate([p.seen.images[name] for p, _ in chosen])},
            instructions=[words for p, _ in chosen for words in p.seen.instructions],
        )
        taken = torch.from_numpy(np.concatenate([p.tokens for p, _ in chosen]))
        sizes = torch.tensor([len(p.tokens) for p, _ in chosen])
        values = torch.tensor([a for _, a in chosen]).repeat_interleave(sizes)
        taken, values = taken.to(self.ids.device), values.to(self.ids.device)
        total = sum(len(p.tokens) for p in played)
        loss = self.loss(self.inputs(seen), taken, values, total, kept)
        self.step(loss)
        return len(taken), float(loss.detach())

    def loss(
        self,
        inputs: dict[str, Tensor],
        taken: Tensor,
        values: Tensor,
        total: int,
        kept: tuple[Observations, Tensor] | None,
    ) -> Tensor:
        """Clipped policy gradient, a mean over `total` decisions, and what is added to it."""
        whole = self.says(self.model, inputs)
        logp = whole.gather(1, taken)[:, 0]
        ratio = (logp - logp.detach()).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        found = -torch.minimum(ratio * values, clipped * values).sum() / total
        if self.extra.kl:
            with torch.no_grad():
                there = self.says(self.reference, inputs)
            found = found + self.extra.kl * (whole.exp() * (whole - there)).sum() / total
        if kept is not None:
            said = self.says(self.model, self.inputs(kept[0]))
            found = found - self.extra.replay * said.gather(1, kept[1]).mean()
        return found

    def clone(self, seen: Observations, taken: Tensor) -> float:
        """One step of cloning; returns its loss."""
        loss = -self.says(self.model, self.inputs(seen)).gather(1, taken).mean()
        self.step(loss)
        return float(loss.detach())

    def step(self, loss: Tensor) -> None:
        """Backward, clip, AdamW."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def by_hand(
    policy: Policy, instructions: Sequence[str], *, rate: float, like: Any, extra: Extra, pi0: Any
) -> ByHand:
    """The loops for a policy.

    Args:
        policy: its model is trained.
        instructions: all there are.
        rate: the learning rate.
        like: a trainer's configuration, for AdamW's numbers.
        extra: what is added to RL's loss.
        pi0: the reference's model; looked at where there is a KL.
    """
    maker = policy.processor.image_processor
    side = int(maker.size["height"])
    blank = np.zeros((len(instructions), side, side, 3), np.uint8)
    shown = policy.encode(Observations(images={"image": blank}, instructions=list(instructions)))
    where = policy.model.device
    return ByHand(
        model=policy.model.train(),
        reference=pi0.eval(),
        ids=torch.tensor(policy.tokenizer.ids, device=where),
        prompts=dict(zip(instructions, shown["input_ids"], strict=True)),
        mean=torch.tensor(maker.image_mean, device=where)[:, None, None],
        spread=torch.tensor(maker.image_std, device=where)[:, None, None],
        optimizer=torch.optim.AdamW(
            policy.model.parameters(),
            lr=rate,
            betas=(like.adam_beta1, like.adam_beta2),
            eps=like.adam_epsilon,
            weight_decay=like.weight_decay,
            fused="fused" in str(like.optim),
        ),
        extra=extra,
    )
