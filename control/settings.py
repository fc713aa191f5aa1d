"""What a control recipe may say. No torch here: `--help` must not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from control.algorithm_settings import (
    AlgorithmSettings,
    NetworkSettings,
    Td3BcSettings,
    Td3Settings,
)
from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup

Intervention: TypeAlias = Annotated[Anchor | Replay | Warmup | Reset, Field(discriminator="kind")]
Score: TypeAlias = Literal["return", "success"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvSettings:
    """An environment: any gymnasium id with Box spaces, or a dictionary of goals beside a Box.

    `kwargs` go to `gymnasium.make`. `horizon` limits an episode's steps. `frame_skip` is the number
    of physics steps a decision (mazes of points only), `maze` one of the project's own maps.
    `score` is what J counts: the undiscounted return, or success.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    frame_skip: int | None = None
    maze: str | None = None
    score: Score = "return"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointMaker:
    """Make D in a maze of points: somebody who knows the map, with a noisy controller.

    `demo` walks to the task's goal, `play` to random ones, `walk` wherever chance leads. `noise` is
    the deviation added to every action, `noise_probability` the chance that a decision is replaced
    by a uniformly random one, and `one_sided` takes the same side of every fork. Stops at
    `episodes` episodes or `decisions` decisions.
    """

    episodes: int | None = None
    decisions: int | None = None
    style: Literal["demo", "play", "walk"] = "demo"
    noise: float = 0.5
    noise_probability: float = 0.0
    one_sided: bool = False
    kind: Literal["waypoint"] = "waypoint"

    def __post_init__(self) -> None:
        _one_of_two(self.episodes, self.decisions)
        if self.noise < 0:
            raise ValueError(f"noise must be >= 0, got {self.noise!r}")
        if not 0 <= self.noise_probability <= 1:
            raise ValueError(f"noise_probability must lie in [0, 1], got {self.noise_probability}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomMaker:
    """Make D with uniformly random actions."""

    episodes: int | None = None
    decisions: int | None = None
    kind: Literal["random"] = "random"

    def __post_init__(self) -> None:
        _one_of_two(self.episodes, self.decisions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMaker:
    """Make D by training SAC and keeping what it did (D4RL's levels)."""

    level: Literal["medium", "medium-replay", "expert"] = "medium-replay"
    steps: int = 8_000
    episodes: int | None = None
    kind: Literal["trained"] = "trained"


MakerSettings: TypeAlias = Annotated[
    WaypointMaker | RandomMaker | TrainedMaker, Field(discriminator="kind")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """D: read from `source` (HDF5 file, Minari id or folder, `local/...`, D4RL name), or made here.

    Rewards are scaled and shifted once, for learning only; J counts raw rewards. `failure_reward`
    is what each step of a sparse task earns before success, scaled and shifted: the returns of
    episodes that never succeed are then those of failing for ever (Cal-QL).
    """

    source: str | None = None
    make: MakerSettings | None = None
    seed: int = 1
    episodes: int | None = None
    only_success: bool = False
    reward_scale: float = 1.0
    reward_bias: float = 0.0
    failure_reward: float | None = None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.make is None):
            raise ValueError("give either source or make")
        if self.episodes is not None and self.episodes < 2:
            raise ValueError(f"episodes must be >= 2, got {self.episodes!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings:
    """Offline training of pi_0 on D; or with `path` a saved agent's folder instead.

    `normalize` centres and scales observations by D's mean and deviation, for good.
    """

    algorithm: AlgorithmSettings = field(default_factory=Td3BcSettings)
    steps: int = 10_000
    batch: int = 256
    normalize: bool = False
    path: str | None = None
    log_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseSettings:
    """How J(pi_0) is measured: `episodes` of it, without noise unless `noise` asks for RL's.

    `scale` is the range of an episode's return or, where `bounded` is false, two reference returns
    (D4RL's random and expert). `alternatives` also measures the rules that the paper found weaker:
    the values that pi_0's critic gives, and the return of a clone of D.
    """

    episodes: int = 100
    margin: float = 0.05
    alpha: float = 0.05
    scale: tuple[float, float] = (0.0, 1.0)
    bounded: bool = True
    noise: bool = False
    alternatives: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise ValueError(f"episodes must be >= 2, got {self.episodes!r}")
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale must read [low, high], got {list(self.scale)!r}")


Proposal: TypeAlias = Literal["none", "pex", "ibrl"]
Regulariser: TypeAlias = Literal["drop", "keep"]
WarmupCritic: TypeAlias = Literal["learns", "waits"]
Supervised: TypeAlias = Literal["bc", "offline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings:
    """Online fine-tuning of pi_0 by off-policy RL.

    `utd` critic updates of `batch` rows follow every environment step, as soon as `start` steps
    have been collected. `critic` hands the pretrained critic over or draws a new one. During a
    plan's warm-up the critic `learns` or `waits` (WSRL), and after it `critic_first` updates train
    the critic alone: for policies that come without one. `diagnosis_episodes` puts the diagnosis'
    own rollouts into the buffer first, where they count as warm-up. `regulariser: keep` goes on
    with the algorithm of pretraining, pessimism or cloning included, instead of `algorithm`;
    cloning, which is no RL, becomes TD3+BC around `algorithm`. `proposal` lets the frozen pi_0
    propose actions beside the policy (PEX, IBRL). `supervised` does no RL: `steps` times `utd`
    further updates on D, by cloning or by the algorithm of pretraining, evaluated just as often.
    """

    algorithm: AlgorithmSettings = field(default_factory=Td3Settings)
    steps: int = 3_000
    batch: int = 256
    utd: int = 1
    start: int = 0
    capacity: int | None = None
    critic: Literal["keep", "fresh"] = "keep"
    critic_first: int = 0
    warmup_critic: WarmupCritic = "learns"
    diagnosis_episodes: bool = False
    regulariser: Regulariser = "drop"
    proposal: Proposal = "none"
    supervised: Supervised | None = None
    eval_every: int = 500
    eval_episodes: int = 20
    log_every: int = 100
    save_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "utd", "eval_every", "eval_episodes", "log_every",
                     "save_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)!r}")
        for name in ("start", "critic_first"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRecipe:
    """One control run: data, pretraining, diagnosis, prescription, fine-tuning, report.

    `interventions: prescribed` runs the diagnosis' first prescription; a list runs that plan.
    `start_from` is the folder of another run of the same setting, whose data, pi_0 and diagnosis
    are taken instead of made. `threads` is the number of CPU threads; 0 leaves it to torch.
    """

    kind: Literal["control"]
    name: str
    env: EnvSettings
    dataset: DataSettings
    networks: NetworkSettings = field(default_factory=NetworkSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    diagnose: DiagnoseSettings = field(default_factory=DiagnoseSettings)
    interventions: Literal["prescribed"] | tuple[Intervention, ...] = "prescribed"
    finetune: FinetuneSettings | None = field(default_factory=FinetuneSettings)
    seed: int = 0
    output: str = "runs"
    start_from: str | None = None
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"name must be a plain folder name, got {self.name!r}")


def _one_of_two(episodes: int | None, decisions: int | None) -> None:
    if (episodes is None) == (decisions is None):
        raise ValueError(f"give either episodes or decisions, got {episodes!r} and {decisions!r}")
