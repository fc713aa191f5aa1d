"""What an exporter says of a field of a plan: an option, an approximation, or that it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Algorithm: TypeAlias = Literal["grpo", "rloo", "ppo", "sac"]
Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Put:
    """Set an option of the framework; `field` of the plan asked for it, or none in particular."""

    option: str
    value: Value
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """An approximation of a field: what was taken, and what is lost."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Cannot:
    """A field that the framework cannot honour, and what to do instead."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Warn:
    """A trap of the framework that this plan runs into."""

    text: str


Said: TypeAlias = Put | Note | Cannot | Warn


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What besides the plan an exporter must know.

    `steps` are those of RL; `algorithm` is the framework's RL algorithm; `responses` is the number
    of responses in one RL step, by which some frameworks count.
    """

    steps: int
    algorithm: Algorithm
    responses: int
