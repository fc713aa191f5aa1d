"""The recipe of an SFT-then-RL run of a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup

Intervention: TypeAlias = Annotated[Anchor | Replay | Warmup | Reset, Field(discriminator="kind")]


def _require(condition: bool, sentence: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise ValueError(sentence)


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
        _require(
            self.quantization is None or self.lora is not None,
            "quantization: quantised weights cannot be trained; set lora as well",
        )
        _require(
            self.quantization is None or not self.path.startswith("tiny"),
            f"quantization: {self.path} is made on the spot in float32; name another path",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """Make part of the demonstrations wrong, to produce a weaker dataset on purpose.

    `no_carry` adds digit by digit and forgets the carry; `flip` swaps a binary label;
    `shuffle` gives a unit any answer that occurs in the data.
    """

    share: float
    how: Literal["no_carry", "flip", "shuffle"]

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, f"share must lie in [0, 1], got {self.share!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Where prompts and demonstrations come from.

    `path` is `reasoning_gym:TASK`, `shapes` (pictures), `vault` (tools), `asset:NAME`, a .jsonl or
    .parquet file, or whatever `datasets.load_dataset` takes (a Hub name, a folder). `options` goes
    to the task's maker or to `load_dataset`. `columns` maps our names (prompt, completion, answer,
    unit, images) to the file's.
    `heldout` units are set aside by a hash of the prompt, the same in every run, and are never
    trained on.
    With several `demonstrators`, each answers every prompt, and each is careless on its own.
    `rejected` makes a wrong answer to every prompt, for DPO; files have theirs in the columns
    `chosen` and `rejected`.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    size: int | None = None
    heldout: int = 500
    heldout_path: str | None = None
    seed: int = 1
    demonstrators: int = 1
    corruption: Corruption | None = None
    rejected: Literal["no_carry", "flip", "shuffle"] | None = None

    def __post_init__(self) -> None:
        _require(self.heldout >= 2, f"heldout must be >= 2 units, got {self.heldout!r}")
        _require(self.demonstrators >= 1, f"demonstrators must be >= 1, got {self.demonstrators!r}")
        _require(self.size is None or self.size >= 2, f"size must be >= 2, got {self.size!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGymReward:
    """Score with a reasoning-gym task.

    `exact` compares with the stored answer; `solved` asks the task's scorer for a full 1.0;
    `partial` passes its score on, substring credit and all.
    """

    scoring: Literal["exact", "solved", "partial"] = "exact"
    extract: str | None = None
    kind: Literal["reasoning_gym"] = "reasoning_gym"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactReward:
    """1 where the completion equals the row's `answer` column, else 0.

    `extract` is a regular expression whose first group is compared instead of the whole text.
    """

    answer: str = "answer"
    extract: str | None = None
    ignore_case: bool = False
    kind: Literal["exact"] = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexReward:
    """1 where the pattern is found in the completion, else 0."""

    pattern: str
    kind: Literal["regex"] = "regex"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlReward:
    """A reward of `trl.rewards`, by name."""

    name: str
    kind: Literal["trl"] = "trl"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReward:
    """Your own reward, `module:function`, with TRL's signature."""

    path: str
    kind: Literal["function"] = "function"

    def __post_init__(self) -> None:
        _require(
            self.path.count(":") == 1 and all(self.path.split(":")),
            f"path must read module:function, got {self.path!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentReward:
    """What the environment's own `get_reward()` says at the end of a rollout."""

    kind: Literal["environment"] = "environment"


RewardSettings: TypeAlias = Annotated[
    ReasoningGymReward | ExactReward | RegexReward | TrlReward | FunctionReward | EnvironmentReward,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How completions are drawn. `temperature: 0` is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, f"temperature must be >= 0, got {self.temperature!r}")
        _require(0 < self.top_p <= 1, f"top_p must lie in (0, 1], got {self.top_p!r}")
        _require(self.top_k >= 0, f"top_k must be >= 0 (0: off), got {self.top_k!r}")
        _require(self.max_new_tokens >= 1, f"max_new_tokens: got {self.max_new_tokens!r}")


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
            _require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)!r}")
        _require(self.seen_units >= 0, f"seen_units must be >= 0, got {self.seen_units!r}")
        _require(
            self.scale[0] < self.scale[1], f"scale must read [low, high], got {list(self.scale)!r}"
        )


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
        _require(len(set(self.adapt)) == len(self.adapt), f"adapt names one twice: {self.adapt!r}")
        _require(self.window >= 1, f"window must be >= 1 steps, got {self.window!r}")
        _require(0 < self.alpha < 0.5, f"alpha must lie in (0, 0.5), got {self.alpha!r}")
        _require(self.factor > 1, f"factor must be > 1, got {self.factor!r}")


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
        _require(self.units >= 2, f"units must be >= 2, got {self.units!r}")
        _require(self.samples >= 1, f"samples must be >= 1, got {self.samples!r}")
        _require(self.steps >= 1, f"steps must be >= 1, got {self.steps!r}")
        _require(self.eta >= 2, f"eta must be >= 2, got {self.eta!r}")
        _require(self.seeds >= 1, f"seeds must be >= 1, got {self.seeds!r}")


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
    probe_units: int = 32
    replay_rows: int = 16
    interpolate: tuple[float, ...] = ()
    warmup_from: Literal["fresh", "diagnosis"] = "fresh"
    monitor: MonitorSettings | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for share in self.interpolate:
            _require(0 <= share <= 1, f"interpolate: shares lie in [0, 1], got {share!r}")
        for name in ("steps", "eval_every", "eval_units", "eval_samples", "save_every"):
            _require(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)!r}")
        _require(self.probe_units >= 1, f"probe_units must be >= 1, got {self.probe_units!r}")
        _require(self.replay_rows >= 1, f"replay_rows must be >= 1, got {self.replay_rows!r}")
        _require(
            self.warmup_from == "fresh" or self.algorithm in {"grpo", "rloo"},
            f"warmup_from: {self.algorithm} takes no rollouts, so none can be reused",
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
        _require(
            self.path.count(":") == 1 and all(self.path.split(":")),
            f"path must read module:Class, got {self.path!r}",
        )
        limit = self.max_tool_calling_iterations
        _require(
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
        _require(
            bool(self.name) and "/" not in self.name and self.name not in (".", ".."),
            f"name must be a plain folder name, got {self.name!r}",
        )
        _require(
            self.deployment.max_new_tokens == self.rollout.max_new_tokens
            or self.deployment == Decoding(temperature=0.0),
            "deployment.max_new_tokens must equal rollout.max_new_tokens: the length limit is RL's",
        )
        _require(
            self.environment is not None or self.reward.kind != "environment",
            "reward.kind is environment, but there is no environment; set environment.path",
        )
        if self.environment is not None:
            self._check_environment()

    def _check_environment(self) -> None:
        """Refuse what TRL's tool loop has no place for."""
        algorithm = "grpo" if self.rl is None else self.rl.algorithm
        _require(
            algorithm in ("grpo", "sft"),
            f"rl.algorithm is {algorithm}, which cannot act in an environment; wanted grpo, or sft",
        )
        _require(
            self.diagnose.backend == "transformers",
            "diagnose.backend: rollouts in an environment are drawn with transformers, "
            f"got {self.diagnose.backend}",
        )
        _require(
            self.rl is None or not self.rl.interpolate,
            "rl.interpolate: mixtures with pi_0 are not rolled out in an environment; leave it out",
        )
        _require(
            self.rl is None or self.rl.warmup_from == "fresh",
            "rl.warmup_from: rollouts in an environment cannot be taken from the diagnosis, since "
            "their episodes have ended; wanted fresh",
        )
