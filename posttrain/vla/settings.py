"""The recipe of an SFT-then-RL run of a vision-language-action policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.tuning.requirement import require
from posttrain.tuning.settings import Intervention, Lora, MonitorSettings, Quantization

__all__ = [
    "ActionSettings",
    "DataSettings",
    "Decoding",
    "DiagnoseSettings",
    "EnvironmentSettings",
    "FlowSettings",
    "Intervention",
    "Lora",
    "ModelSettings",
    "MonitorSettings",
    "Quantization",
    "ReturnSettings",
    "RlSettings",
    "SftSettings",
    "VlaRecipe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnSettings:
    """What RL maximises.

    `success`: 1 for an episode that reached its goal, 0 otherwise, less `time_penalty` times the
    share of the step limit that it took: success * (1 - time_penalty * steps / max_steps).
    `rewards`: the sum of the environment's rewards, which `diagnose.scale` must bound.
    """

    kind: Literal["success", "rewards"] = "success"
    time_penalty: float = 0.0

    def __post_init__(self) -> None:
        require(
            0 <= self.time_penalty < 1, f"time_penalty must lie in [0, 1), got {self.time_penalty}"
        )
        require(
            self.kind == "success" or self.time_penalty == 0,
            "time_penalty: only the return 'success' takes one; rewards say themselves what time "
            "costs",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """Where the policy acts.

    `id` is a gymnasium id, a built-in world (`posttrain/ColorGrid-v0`), or `module:factory`, a
    function of `options` that makes one environment. An episode is decided by its seed. `envs`
    environments are stepped together, in this process (`sync`) or one process each (`async`).
    `python` is another interpreter, in whose own environment the simulator is installed; then all
    of them run in one process of that interpreter.
    """

    id: str = "posttrain/ColorGrid-v0"
    options: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    cameras: tuple[str, ...] = ()
    """Which images the policy sees, in this order; empty: all."""
    state: bool = False
    """Whether the policy reads proprioception, as words of its prompt."""
    returns: ReturnSettings = field(default_factory=ReturnSettings)
    envs: int = 16
    vector: Literal["sync", "async"] = "sync"
    python: str | None = None

    def __post_init__(self) -> None:
        require(self.envs >= 1, f"envs must be >= 1, got {self.envs!r}")
        require(self.max_steps is None or self.max_steps >= 1, f"max_steps: got {self.max_steps!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """The demonstrations D, and where their returns come from.

    `path` is `made` (the environment's own expert, `episodes` of them, disturbed as `options` say),
    a folder or Hub name of a LeRobot dataset (v3.0, or v2.1 read), `minari:ID`, or a folder or Hub
    name of rows in the HF datasets format. `heldout` episodes are not cloned: they tell whether SFT
    has converged, and their starts are where pi_0 is compared with D.

    `returns`: `stored` reads success or rewards that D holds, `replayed` makes D's actions once
    more in the environment, `assumed` takes every episode for a success; the report says which.
    `only_success` clones only successes: D itself stays whole.
    """

    path: str = "made"
    revision: str | None = None
    episodes: int = 500
    heldout: int = 100
    seed: int = 0
    returns: Literal["stored", "replayed", "assumed"] = "stored"
    success_filtered: bool = False
    """Say so where D was collected by keeping successes only: it is flagged."""
    options: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    """Where D names things otherwise: `success`, `reward`, `action`, `state`, or a camera."""

    def __post_init__(self) -> None:
        require(self.episodes >= 1, f"episodes must be >= 1, got {self.episodes!r}")
        require(self.heldout >= 2, f"heldout must be >= 2, got {self.heldout!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSettings:
    """How actions become tokens.

    Each number of a Box is cut into `bins` between the `quantiles` that D's actions have in it; a
    Discrete action is one token. `chunk` actions are one decision, of which the first `execute` are
    carried out before the policy looks again (0: all of them). `vocabulary`: tokens are `added`, or
    are the last ones of the vocabulary (`tail`), as OpenVLA's checkpoints have them. `statistics`
    is a JSON file of ranges to use in place of D's, as OpenVLA's checkpoints bring along.
    """

    bins: int = 256
    quantiles: tuple[float, float] = (0.01, 0.99)
    chunk: int = 1
    execute: int = 0
    vocabulary: Literal["added", "tail"] = "added"
    statistics: str | None = None

    def __post_init__(self) -> None:
        require(self.bins >= 2, f"bins must be >= 2, got {self.bins!r}")
        low, high = self.quantiles
        require(0 <= low < high <= 1, f"quantiles must read [low, high] in [0, 1], got {low, high}")
        require(self.chunk >= 1, f"chunk must be >= 1, got {self.chunk!r}")
        require(
            0 <= self.execute <= self.chunk,
            f"execute must lie in [0, chunk = {self.chunk}], got {self.execute!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How a flow-matching policy makes an action: `steps` steps lead to it from noise.

    Each adds noise of its own, `noise * sqrt(t / steps)` deviations of D's actions at a time t from
    1 down to 1 / steps: without it a policy gradient has no likelihood to follow.
    """

    steps: int = 5
    noise: float = 0.5

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps must be >= 1, got {self.steps!r}")
        require(0 < self.noise <= 1, f"noise must lie in (0, 1], got {self.noise!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which vision-language model is cloned, or which checkpoint is pi_0 when `sft` is null.

    `path` is `tiny` (a small LLaVA made on the spot), `tiny_pi0` (a small flow-matching policy), a
    local folder or a Hub name. `prompt` is what the model is asked; `{instruction}` and `{state}`
    stand for the observation's.
    """

    path: str = "tiny"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    hidden: int = 64
    layers: int = 2
    prompt: str = "{instruction}"
    actions: ActionSettings = field(default_factory=ActionSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    """Of a flow only: `tiny_pi0`, or a PI0, which takes of `actions` chunk and execute."""
    lora: Lora | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        require("{instruction}" in self.prompt, f"prompt: has no {{instruction}}: {self.prompt!r}")
        require(
            self.quantization is None or self.lora is not None,
            "quantization: quantised weights cannot be trained; set lora as well",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How actions are drawn. `temperature: 0` is greedy."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"temperature must be >= 0, got {self.temperature!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    """Cloning of D. `trainer` takes the fields of TRL's SFTConfig.

    `episodes` clones only the first so many; `only_success` only those that reached the goal.
    `check_rows` held-out frames tell, ten times on the way, whether SFT has converged.
    """

    episodes: int | None = None
    only_success: bool = False
    check_rows: int = 500
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseSettings:
    """How pi_0 is measured.

    One episode from each start, and `samples` of them when sampled. Starts are those of D's
    held-out episodes where D knows their seeds, so that both sides meet there, and new ones beyond.
    `batch` starts at a time, until the regime is decided or `starts` are spent; `minimum` starts
    are always played. `scores` reuses a table of episodes in place of playing any: an evaluation
    log of another tool will do.
    """

    margin: float = 0.05
    alpha: float = 0.05
    scale: tuple[float, float] = (0.0, 1.0)
    samples: int = 1
    starts: int = 500
    minimum: int = 100
    batch: int = 100
    seen_starts: int = 0
    """Starts of cloned episodes from which pi_0 is played too; a gate needs those of all."""
    decides: Literal["rollout", "deployment"] = "rollout"
    """Whose J(pi_0) decides; the other stands beside it."""
    scores: str | None = None
    floor: int = 100
    """Episodes of chance, which tell what success is worth here; 0: none."""
    film: int = 3
    """Episodes of each side that are kept with their frames, for the report."""

    def __post_init__(self) -> None:
        for name in ("samples", "starts", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)!r}")
        require(self.floor >= 0, f"floor must be >= 0, got {self.floor!r}")
        require(self.film >= 0, f"film must be >= 0, got {self.film!r}")
        require(
            self.scale[0] < self.scale[1], f"scale must read [low, high], got {list(self.scale)!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RlSettings:
    """RL fine-tuning of pi_0. `trainer` takes the fields of TRL's GRPOConfig.

    A row of TRL's batch is a start of the environment, of which a group plays `num_generations`
    episodes; each decision of an episode is then a row of its own, with the episode's advantage.
    `starts` training starts are drawn in turn. `algorithm: sft` clones D further with as many
    updates and no RL (bc_only), the rival that every plan that keeps D has to beat.
    """

    algorithm: Literal["grpo", "sft"] = "grpo"
    steps: int = 100
    starts: int = 1000
    eval_every: int = 20
    eval_starts: int = 200
    save_every: int = 20
    probe_rows: int = 64
    replay_rows: int = 64
    monitor: MonitorSettings | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "steps", "starts", "eval_every", "eval_starts", "save_every", "probe_rows",
            "replay_rows",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VlaRecipe:
    """One run: demonstrations, SFT, diagnosis, prescription, RL, report.

    `interventions: prescribed` runs the diagnosis' first prescription; a list runs that plan.
    `start_from` is the folder of another run of the same setting, whose data, pi_0 and scores are
    taken over. `threads` is the number of CPU threads of a process; 0 leaves it to torch.
    """

    kind: Literal["vla"]
    name: str
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    sft: SftSettings | None = field(default_factory=SftSettings)
    rollout: Decoding = field(default_factory=Decoding)
    deployment: Decoding = field(default_factory=lambda: Decoding(temperature=0.0))
    diagnose: DiagnoseSettings = field(default_factory=DiagnoseSettings)
    interventions: Literal["prescribed"] | tuple[Intervention, ...] = "prescribed"
    rl: RlSettings | None = field(default_factory=RlSettings)
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
            self.rollout.temperature > 0, "rollout.temperature: RL needs samples, got 0 (greedy)"
        )
