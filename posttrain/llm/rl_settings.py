"""The parts of a recipe that say how pi_0 is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.tuning.requirement import require
from posttrain.tuning.settings import Intervention, MonitorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """A short race of plans from one pi_0, when the diagnosis alone does not decide.

    `arms` are named plans; empty: the prescription, its alternatives, and further SFT. Rounds of
    `steps` RL steps; after each round the better 1/`eta` of the arms go on. Every arm has the
    same `seeds`, and the same batches in each. They are compared on `units` prompts that neither
    the diagnosis nor the outcome uses, `samples` rollouts of each.
    """

    arms: dict[str, tuple[Intervention, ...] | Literal["sft"]] = field(default_factory=dict)
    steps: int = 20
    eta: int = 2
    seeds: int = 2
    units: int = 200
    samples: int = 4

    def __post_init__(self) -> None:
        require(self.units >= 2, f"units must be >= 2, got {self.units!r}")
        require(self.samples >= 1, f"samples must be >= 1, got {self.samples!r}")
        require(self.steps >= 1, f"steps must be >= 1, got {self.steps!r}")
        require(self.eta >= 2, f"eta must be >= 2, got {self.eta!r}")
        require(self.seeds >= 1, f"seeds must be >= 1, got {self.seeds!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RlSettings:
    """RL fine-tuning of pi_0. `trainer` takes the fields of TRL's configuration of `algorithm`.

    The sampler is the recipe's `rollout`, so that J(pi_0) is measured where RL starts.
    Every `eval_every` steps, `eval_units` held-out prompts are rolled out `eval_samples` times.

    `algorithm: sft` is no RL: it clones D further, with as many updates, the rival that every
    plan that keeps D has to beat. `dpo` needs the column `rejected`. `interpolate` are shares of
    the fine-tuned policy in a mixture with pi_0 that are tried at the end (LITI of arXiv
    2406.16768); the best on other prompts than the outcome's is kept.

    `warmup_from: diagnosis` takes the first rollouts, which pi_0 draws, from those that the
    diagnosis has drawn on seen prompts, as far as they go.
    """

    algorithm: Literal["grpo", "rloo", "dpo", "sft"] = "grpo"
    steps: int = 100
    eval_every: int = 20
    eval_units: int = 200
    eval_samples: int = 1
    save_every: int = 20
    probe_units: int = 16
    replay_rows: int = 16
    interpolate: tuple[float, ...] = ()
    warmup_from: Literal["fresh", "diagnosis"] = "fresh"
    monitor: MonitorSettings | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for share in self.interpolate:
            require(0 <= share <= 1, f"interpolate: shares lie in [0, 1], got {share!r}")
        for name in ("steps", "eval_every", "eval_units", "eval_samples", "save_every"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)!r}")
        require(self.probe_units >= 1, f"probe_units must be >= 1, got {self.probe_units!r}")
        require(self.replay_rows >= 1, f"replay_rows must be >= 1, got {self.replay_rows!r}")
        require(
            self.warmup_from == "fresh" or self.algorithm in {"grpo", "rloo"},
            f"warmup_from: {self.algorithm} takes no rollouts, so none can be reused",
        )
