"""Parts of a recipe that language models and robot policies share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup
from posttrain.tuning.requirement import require

Intervention: TypeAlias = Annotated[Anchor | Replay | Warmup | Reset, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """Diagnose again while training, from the training rollouts, at no cost.

    `adapt` names what may be changed: `release` lowers replay once pi_n has passed D, `tighten`
    strengthens the anchor on a drop that is statistically real, `stop` ends a run that has
    collapsed. Empty: only watch. `window` is the number of latest steps that speak for pi_n.
    """

    adapt: tuple[Literal["release", "tighten", "stop"], ...] = ()
    window: int = 20
    alpha: float = 0.05
    factor: float = 2.0

    def __post_init__(self) -> None:
        require(len(set(self.adapt)) == len(self.adapt), f"adapt names one twice: {self.adapt!r}")
        require(self.window >= 1, f"window must be >= 1 steps, got {self.window!r}")
        require(0 < self.alpha < 0.5, f"alpha must lie in (0, 0.5), got {self.alpha!r}")
        require(self.factor > 1, f"factor must be > 1, got {self.factor!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A low-rank adapter for both SFT and RL; SFT's is merged, so that the base of RL is pi_0."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target: str = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Base weights in 8 or 4 bits (QLoRA), on a CUDA GPU with bitsandbytes.

    `type`, `double` and `compute` are bitsandbytes' for 4 bits: nf4 or fp4, constants quantised
    again, and the precision of the arithmetic.
    """

    bits: Literal[4, 8] = 4
    type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    compute: Literal["bfloat16", "float16", "float32"] = "bfloat16"
