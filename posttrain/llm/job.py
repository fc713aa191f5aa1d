"""One fine-tuning, as every algorithm gets it: from what, under which plan, and where to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.intervention.plan import Plan
from posttrain.llm.data import Row
from posttrain.llm.environment import Factory
from posttrain.llm.reward import Judge
from posttrain.llm.settings import Decoding, Lora, RlSettings
from posttrain.record import MetricsLog
from posttrain.tuning.world import World

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What fine-tuning starts from: pi_0 and D, and what the diagnosis measured of them."""

    rows: Sequence[Row]
    heldout: Sequence[Row]
    pi0_rollouts: Sequence[tuple[Row, Sequence[int]]]
    prior: float
    alpha: float
    scale: tuple[float, float]
    j_dataset: float = float("nan")
    policy_returns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Returns of pi_0's rollouts under the RL sampler, by unit, wherever it was measured."""
    dataset_returns: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Returns of the demonstrations, by unit; unscorable ones are left out."""
    seen_tokens: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    """Token ids of pi_0's rollouts on training prompts, by unit."""
    success: float | None = None
    """The return from which an episode is a success; None: the highest of the scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fine-tuning, as every algorithm gets it.

    `load` reads a model folder; `base` gives the weights that a reset may interpolate towards;
    `rollout` is the sampler that the diagnosis used; `folder` holds checkpoints, of which a killed
    run resumes from the last whole one; `metrics` gets a row a logged step, `curve` one an
    evaluation.
    """

    pi0: Path
    settings: RlSettings
    plan: Plan
    experience: Experience
    judge: Judge
    load: Callable[[Path], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
    base: Callable[[], Mapping[str, torch.Tensor]]
    rollout: Decoding
    lora: Lora | None
    seed: int
    folder: Path
    metrics: MetricsLog
    curve: MetricsLog
    world: World
    factory: Factory | None = None
    """Makes the environments of the rollouts, where there are any."""
    until: int | None = None
    """Pause after this step, with a checkpoint to go on from; None: take all steps."""

    @property
    def last(self) -> int:
        """The last step to take now."""
        return self.settings.steps if self.until is None else min(self.until, self.settings.steps)

    @property
    def events(self) -> MetricsLog:
        """What a monitor saw and did, beside the metrics."""
        return MetricsLog(self.metrics.path.with_name("events.jsonl"))
