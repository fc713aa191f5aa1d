"""Numbers as tokens: a float32 is the token whose id is its bits.

So what a flow-matching policy reads and says fits wherever token ids do: in a rollout's decisions,
in a trainer's rows, in replayed demonstrations. Nothing is rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from posttrain.vla.observation import Floats, Tokens


def to_tokens(values: npt.ArrayLike) -> Tokens:
    """Write numbers as tokens of the same shape, in [0, 2**32)."""
    flat = np.ascontiguousarray(values, dtype=np.float32)
    return flat.view(np.uint32).astype(np.int64).reshape(flat.shape)


def from_tokens(tokens: Tokens) -> Floats:
    """Read them back, bit for bit."""
    flat = np.ascontiguousarray(tokens).astype(np.uint32)
    return flat.view(np.float32).reshape(flat.shape)


def read_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """Read numbers from int64 ids on their device, float32."""
    signed = torch.where(tokens >= 2**31, tokens - 2**32, tokens)
    return signed.to(torch.int32).view(torch.float32)
