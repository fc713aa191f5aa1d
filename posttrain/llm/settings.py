"""The recipe of an SFT-then-RL run of a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.llm.data_settings import (
    Corruption,
    DataSettings,
    EnvironmentReward,
    ExactReward,
    FunctionReward,
    ReasoningGymReward,
    RegexReward,
    RewardSettings,
    TrlReward,
)
from posttrain.llm.rl_settings import ProbeSettings, RlSettings
from posttrain.tuning.requirement import require
from posttrain.tuning.settings import Intervention, Lora, MonitorSettings, Quantization

__all__ = [
    "Corruption",
    "DataSettings",
    "Decoding",
    "DiagnoseSettings",
    "EnvironmentReward",
    "EnvironmentSettings",
    "ExactReward",
    "FunctionReward",
    "Intervention",
    "LlmRecipe",
    "Lora",
    "ModelSettings",
    "MonitorSettings",
    "ProbeSettings",
    "Quantization",
    "ReasoningGymReward",
    "RegexReward",
    "RewardSettings",
    "RlSettings",
    "SftSettings",
    "TrlReward",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model SFT starts from, or which checkpoint is pi_0 when `sft` is null.

    `path` is `tiny` (a small Llama made on the spot), `tiny_vlm` (a small LLaVA), `asset:NAME`, a
    local folder or a Hub name. A vision-language model is recognised by its configuration.
    A folder that holds an adapter is merged into the base that it names. With `quantization`, pi_0
    is the quantised base with SFT's adapter merged and quantised again: what is diagnosed is what
    RL starts from.
    """

    path: str = "tiny"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    hidden: int = 128
    layers: int = 2
    lora: Lora | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        require(
            self.quantization is None or self.lora is not None,
            "quantization: quantised weights cannot be trained; set lora as well",
        )
        require(
            self.quantization is None or not self.path.startswith("tiny"),
            f"quantization: {self.path} is made on the spot in float32; name another path",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How completions are drawn. `temperature: 0` is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"temperature must be >= 0, got {self.temperature!r}")
        require(0 < self.top_p <= 1, f"top_p must lie in (0, 1], got {self.top_p!r}")
        require(self.top_k >= 0, f"top_k must be >= 0 (0: off), got {self.top_k!r}")
        require(self.max_new_tokens >= 1, f"max_new_tokens: got {self.max_new_tokens!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    """Cloning of D. `trainer` takes the fields of TRL's SFTConfig.

    `rows` clones only the first so many demonstrations; `only_correct` those that the reward
    scores at its maximum (rejection sampling): D itself stays whole. `check_rows` held-out
    demonstrations tell, ten times on the way, whether SFT has converged.
    """

    rows: int | None = None
    only_correct: bool = False
    check_rows: int = 200
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseSettings:
    """How pi_0 is measured.

    `samples` completions for each unit, `batch` units at a time, until the regime is decided or
    `units` are spent. `minimum` units are always drawn, for the report's figures. `scores` reuses
    a table of rollouts instead of drawing any.
    """

    margin: float = 0.05
    alpha: float = 0.05
    scale: tuple[float, float] = (0.0, 1.0)
    samples: int = 4
    units: int = 400
    minimum: int = 100
    batch: int = 50
    seen_units: int = 100
    scores: str | None = None
    backend: Literal["transformers", "vllm"] = "transformers"

    def __post_init__(self) -> None:
        for name in ("samples", "units", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)!r}")
        require(self.seen_units >= 0, f"seen_units must be >= 0, got {self.seen_units!r}")
        require(
            self.scale[0] < self.scale[1], f"scale must read [low, high], got {list(self.scale)!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """Where the policy acts: a class with `reset` whose public methods are its tools.

    `path` reads `module:Class`, made with `options`. After `max_tool_calling_iterations` rounds of
    tool calls a rollout ends; None sets no other limit than `rollout.max_new_tokens`, which
    counts what tools answer, too.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)
    max_tool_calling_iterations: int | None = None

    def __post_init__(self) -> None:
        require(
            self.path.count(":") == 1 and all(self.path.split(":")),
            f"path must read module:Class, got {self.path!r}",
        )
        limit = self.max_tool_calling_iterations
        require(
            limit is None or limit >= 1, f"max_tool_calling_iterations must be >= 1, got {limit!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmRecipe:
    """One run: SFT, diagnosis, prescription, RL, report.

    `interventions: prescribed` runs the diagnosis' first prescription; a list runs that plan.
    `environment` is where rollouts of several turns take place; null: one answer to each prompt.
    `start_from` is the folder of another run of the same setting, whose data, pi_0 and scores are
    taken over. `threads` is the number of CPU threads of a process; 0 leaves it to torch.
    """

    kind: Literal["llm"]
    name: str
    data: DataSettings
    reward: RewardSettings
    environment: EnvironmentSettings | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    sft: SftSettings | None = field(default_factory=SftSettings)
    rollout: Decoding = field(default_factory=Decoding)
    deployment: Decoding = field(default_factory=lambda: Decoding(temperature=0.0))
    diagnose: DiagnoseSettings = field(default_factory=DiagnoseSettings)
    interventions: Literal["prescribed"] | tuple[Intervention, ...] = "prescribed"
    rl: RlSettings | None = field(default_factory=RlSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    start_from: str | None = None
    seed: int = 0
    output: str = "runs"
    threads: int = 0

    def __post_init__(self) -> None:
        require(
            bool(self.name) and "/" not in self.name and self.name not in (".", ".."),
            f"name must be a plain folder name, got {self.name!r}",
        )
        require(
            self.deployment.max_new_tokens == self.rollout.max_new_tokens
            or self.deployment == Decoding(temperature=0.0),
            "deployment.max_new_tokens must equal rollout.max_new_tokens: the length limit is RL's",
        )
        require(
            self.environment is not None or self.reward.kind != "environment",
            "reward.kind is environment, but there is no environment; set environment.path",
        )
        if self.environment is not None:
            self._check_environment()

    def _check_environment(self) -> None:
        """Refuse what TRL's tool loop has no place for."""
        algorithm = "grpo" if self.rl is None else self.rl.algorithm
        require(
            algorithm in ("grpo", "sft"),
            f"rl.algorithm is {algorithm}, which cannot act in an environment; wanted grpo, or sft",
        )
        require(
            self.diagnose.backend == "transformers",
            "diagnose.backend: rollouts in an environment are drawn with transformers, "
            f"got {self.diagnose.backend}",
        )
        require(
            self.rl is None or not self.rl.interpolate,
            "rl.interpolate: mixtures with pi_0 are not rolled out in an environment; leave it out",
        )
        require(
            self.rl is None or self.rl.warmup_from == "fresh",
            "rl.warmup_from: rollouts in an environment cannot be taken from the diagnosis, since "
            "their episodes have ended; wanted fresh",
        )
