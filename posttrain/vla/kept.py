"""What a plan keeps of a robot policy's demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from posttrain.intervention.plan import Replay
from posttrain.intervention.ramp import ramp
from posttrain.tuning.gate import Gate, Map
from posttrain.tuning.keep import Kept, ReplayLoss, Rows
from posttrain.vla.demonstrations import Demonstrations
from posttrain.vla.frames import Frames
from posttrain.vla.policy import Policy
from posttrain.vla.starts import unit_of_episode


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameReplay(ReplayLoss):
    """Of frames, whose pictures are read when they are replayed."""

    frames: Frames
    policy: Policy

    def batch(self, rows: Rows, where: torch.device) -> dict[str, torch.Tensor]:
        """As the policy was cloned."""
        found = self.policy.rows(self.frames.seen(rows.tolist()), self.frames.tokens[rows])
        return {name: tensor.to(where) for name, tensor in found.items()}


def kept_of(
    replay: Replay | None,
    demonstrations: Demonstrations,
    policy: Policy,
    *,
    batch: int,
    seed: int,
    found: Map | None = None,
) -> Kept:
    """Turn a plan's replay into frames.

    Args:
        replay: the intervention; None keeps nothing.
        demonstrations: whose episodes are replayed.
        policy: makes rows of them.
        batch: frames a step (`rl.replay_rows`).
        seed: of the stream of frames.
        found: the map that the plan's gate follows.
    """
    if replay is None:
        return Kept()
    frames = Frames(demonstrations, policy.tokenizer)
    units = [unit_of_episode(e, i) for i, e in enumerate(demonstrations.episodes)]
    loss = FrameReplay(
        frames=frames,
        policy=policy,
        units=tuple(units[i] for i in frames.episode),
        lengths=np.full(len(frames), frames.tokens.shape[1], dtype=np.int64),
        rows=batch,
        weight=ramp(replay.weight),
        token_weight=replay.token_weight,
        seed=seed,
    )
    return Kept(
        replay=loss, gate=None if found is None else Gate(found, live=replay.gate == "live")
    )
