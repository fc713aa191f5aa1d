"""What a flow has seen, read once for all steps of its chains."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import Cache


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the policy has seen, read once for all steps of a chain."""

    cache: Cache
    mask: Tensor
    state: Tensor

    def __len__(self) -> int:
        return self.mask.shape[1]


@contextmanager
def rewound(prefix: Prefix) -> Iterator[None]:
    """Forget what the action expert adds to the cache."""
    length = len(prefix)
    try:
        yield
    finally:
        prefix.cache.crop(length - prefix.cache.get_seq_length())


def repeated(prefix: Prefix, times: int) -> Prefix:
    """The prefix of n rows `times` over, one block of n after another."""
    cache: Any = copy.copy(prefix.cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in cache.layers:
        layer.keys, layer.values = (x.repeat(times, 1, 1, 1) for x in (layer.keys, layer.values))
    return Prefix(cache, prefix.mask.repeat(times, 1), prefix.state.repeat(times, 1))
