"""Which demonstration stands where among rollouts, and what is then asked and answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from posttrain.intervention.plan import TokenWeight
from posttrain.intervention.ramp import Ramp
from posttrain.intervention.replay import mix_counts
from posttrain.tuning.seen import PER_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """Demonstrations that take the place of rollouts in their prompt's group.

    `completions` maps a unit to the token ids of its demonstration, with the end token. `share`
    of each group is whole demonstrations (arXiv 2504.14945); in `prefix_share` of it the policy
    goes on from the first `prefix` of the tokens (arXiv 2507.01679, 2505.16984).
    """

    share: Ramp
    prefix_share: Ramp
    prefix: Ramp
    token_weight: TokenWeight
    completions: Mapping[str, Sequence[int]]

    def times(self, factor: float) -> GroupShare:
        """The same with `factor` times as much of each group."""
        if factor == 1:
            return self
        share, begun = self.share.times(factor), self.prefix_share.times(factor)
        return replace(self, share=share, prefix_share=begun)

    def dealt(self, unit: str, place: int, *, group: int, step: int, limit: int) -> Dealt | None:
        """What stands at `place` of the group of `unit`; None is a rollout of the policy's own.

        Whole demonstrations take the last places, beginnings those before them. A beginning
        leaves at least one token to write.

        Args:
            unit: the prompt.
            place: from 0.
            group: rollouts of a group.
            step: since the warm-up.
            limit: most tokens a completion may have.
        """
        whole = mix_counts(group, self.share, step)
        begun = mix_counts(group, self.prefix_share, step)
        said = self.completions.get(unit)
        if said is None or place < group - whole - begun:
            return None
        if place >= group - whole:
            return Dealt(kind="whole", tokens=tuple(said[:limit]))
        most = min(len(said), limit) - 1
        given = min(math.floor(self.prefix(step) * len(said) + 0.5), most)
        return Dealt(kind="prefix", tokens=tuple(said[:given])) if given > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """The demonstration's tokens at the start of a row."""

    kind: Literal["whole", "prefix"]
    tokens: tuple[int, ...]


Hand = Sequence[Dealt | None]
Logps = list[float | None]


def asked(prompt_ids: Sequence[Sequence[int]], hand: Hand) -> list[list[int]]:
    """What the policy is to go on from: prompts, with the beginnings that are given."""
    return [
        [*ids, *(dealt.tokens if dealt is not None and dealt.kind == "prefix" else ())]
        for ids, dealt in zip(prompt_ids, hand, strict=True)
    ]


def answered(
    ids: Sequence[Sequence[int]], logps: Sequence[Logps] | None, hand: Hand, *, limit: int
) -> tuple[list[list[int]], list[Logps] | None]:
    """The completions of a batch, with the demonstrations' tokens in their places.

    Their sampler is unknown, so that their log-probability is None and TRL's correction for the
    sampler leaves them alone (ratio 1).
    """
    said, known = [list(row) for row in ids], None if logps is None else [list(r) for r in logps]
    for i, dealt in enumerate(hand):
        if dealt is None:
            continue
        rest = said[i] if dealt.kind == "prefix" else []
        said[i] = [*dealt.tokens, *rest][:limit]
        if known is not None:
            after = known[i] if dealt.kind == "prefix" else []
            known[i] = [*(None for _ in dealt.tokens), *after][:limit]
    return said, known


def own_mask(hand: Hand, width: int) -> torch.Tensor:
    """True on the tokens of demonstrations, `[n, width]`."""
    given = torch.tensor([0 if dealt is None else len(dealt.tokens) for dealt in hand])
    return torch.arange(width) < given.unsqueeze(1)


def stretched(fields: Mapping[str, Any], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What a processor says of every token, with 0 (text) for the beginnings that were added."""
    return {
        name: [
            [*kinds, *[0] * (len(ids) - len(kinds))]
            for kinds, ids in zip(value, prompts, strict=True)
        ]
        if name in PER_TOKEN and isinstance(value, list)
        else value
        for name, value in fields.items()
    }
