"""What a plan keeps of a language model's demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from posttrain.intervention.plan import Replay
from posttrain.intervention.ramp import ramp
from posttrain.llm.data import Row
from posttrain.llm.prompts import demonstration_ids
from posttrain.tuning.dealt import GroupShare
from posttrain.tuning.gate import Gate, Map
from posttrain.tuning.keep import Kept, PairReplay
from posttrain.tuning.seen import pad_of
from posttrain.tuning.turns import spoken

if TYPE_CHECKING:
    from posttrain.tuning.seen import Processing


def kept_of(
    replay: Replay | None,
    rows: Sequence[Row],
    tokenizer: Processing,
    *,
    batch: int,
    seed: int,
    found: Map | None = None,
) -> Kept:
    """Turn a plan's replay into token ids.

    Args:
        replay: the intervention; None keeps nothing.
        rows: the demonstrations.
        tokenizer: of the policy.
        batch: demonstrations a step (`rl.replay_rows`).
        seed: of the stream of demonstrations.
        found: the map that the plan's gate follows (`map_of`).
    """
    if replay is None:
        return Kept()
    encoded = [(row.unit, *demonstration_ids(tokenizer, row)) for row in rows]
    gate = None if found is None else Gate(found, live=replay.gate == "live")
    loss = group = None
    if ramp(replay.weight).peak > 0:
        loss = PairReplay(
            pairs=tuple((prompt, completion) for _, prompt, completion in encoded),
            units=tuple(unit for unit, _, _ in encoded),
            lengths=np.array([sum(spoken(said)) for _, _, said in encoded], dtype=np.int64),
            rows=batch,
            weight=ramp(replay.weight),
            token_weight=replay.token_weight,
            pad=pad_of(tokenizer),
            seed=seed,
        )
    if max(ramp(replay.share).peak, ramp(replay.prefix_share).peak) > 0:
        group = GroupShare(
            share=ramp(replay.share),
            prefix_share=ramp(replay.prefix_share),
            prefix=ramp(replay.prefix),
            token_weight=replay.token_weight,
            completions={unit: completion for unit, _, completion in reversed(encoded)},
        )
    return Kept(replay=loss, group=group, gate=gate)
