"""One fine-tuning of a robot policy: from what, under which plan, and where to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.intervention.plan import Plan
from posttrain.record import MetricsLog
from posttrain.tuning.settings import Lora
from posttrain.tuning.world import World
from posttrain.vla.demonstrations import Demonstrations
from posttrain.vla.observation import Observations, Tokens
from posttrain.vla.settings import ReturnSettings, RlSettings
from posttrain.vla.starts import Start

if TYPE_CHECKING:
    import torch

    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What fine-tuning starts from: pi_0 and D, and what the diagnosis measured of them."""

    rows: Sequence[Start]
    """Where RL's episodes begin."""
    heldout: Sequence[Start]
    """Where the policy is evaluated on the way."""
    demonstrations: Demonstrations
    """D; replay takes the episodes that are cloned."""
    watched: Demonstrations
    """Episodes of D that were not cloned: the loss on them is a gauge."""
    decided: tuple[Observations, Tokens]
    """Decisions of pi_0: what it saw and the tokens that it chose."""
    prior: float
    alpha: float
    scale: tuple[float, float]
    j_dataset: float = float("nan")
    policy_returns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Of pi_0 under RL's decoding, by unit."""
    dataset_returns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Of the demonstrations, by unit; unscorable ones are left out."""
    success: float = 1.0
    """The return from which an episode is a success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fine-tuning, as every algorithm gets it.

    `load` reads a policy's folder; `base` gives the weights that a reset may interpolate towards;
    `fleet` makes the environments; `temperature` is that of the rollouts; `folder` holds
    checkpoints, of which a killed run resumes from the last whole one; `metrics` gets a row a
    logged step, `curve` one an evaluation.
    """

    pi0: Path
    settings: RlSettings
    plan: Plan
    experience: Experience
    load: Callable[[Path], Policy]
    base: Callable[[], Mapping[str, torch.Tensor]]
    fleet: Callable[[], Fleet]
    returns: ReturnSettings
    execute: int
    temperature: float
    lora: Lora | None
    seed: int
    folder: Path
    metrics: MetricsLog
    curve: MetricsLog
    world: World

    @property
    def last(self) -> int:
        """The last step to take."""
        return self.settings.steps

    @property
    def events(self) -> MetricsLog:
        """What a monitor saw and did, beside the metrics."""
        return MetricsLog(self.metrics.path.with_name("events.jsonl"))
