"""Which module says a plan in which framework's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from posttrain.export import (
    lerobot,
    ms_swift,
    nemo_rl,
    open_instruct,
    openrlhf,
    rlinf,
    slime,
    trinity,
    trl,
    verl,
)
from posttrain.export.says import Ask, Said
from posttrain.intervention.plan import Plan

Exporter: TypeAlias = Callable[[Plan, Ask], Iterator[Said]]

EXPORTERS: Mapping[str, Exporter] = {
    "verl": verl.says,
    "openrlhf": openrlhf.says,
    "ms-swift": ms_swift.says,
    "trinity": trinity.says,
    "nemo-rl": nemo_rl.says,
    "slime": slime.says,
    "open-instruct": open_instruct.says,
    "rlinf": rlinf.says,
    "lerobot": lerobot.says,
    "trl": trl.says,
}
