"""What a control recipe may say. No torch here: `--help` must not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup

Intervention: TypeAlias = Annotated[Anchor | Replay | Warmup | Reset, Field(discriminator="kind")]
Score: TypeAlias = Literal["return", "success"]
PolicyKind: TypeAlias = Literal["deterministic", "gaussian"]


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
class NetworkSettings:
    """Sizes of the networks, the same before and after the hand-over.

    `critics` is the size of the ensemble; `spread` the standard deviation that stands for a
    deterministic policy's noise wherever a density is needed (KL, likelihood of data).
    """

    policy: PolicyKind = "gaussian"
    actor: tuple[int, ...] = (256, 256)
    critic: tuple[int, ...] = (256, 256)
    critics: int = 2
    actor_norm: bool = False
    critic_norm: bool = False
    spread: float = 0.1

    def __post_init__(self) -> None:
        for name in ("actor", "critic"):
            widths = tuple(getattr(self, name))
            object.__setattr__(self, name, widths)
            if not widths or min(widths) < 1:
                raise ValueError(f"{name} must list layer widths >= 1, got {list(widths)!r}")
        if self.critics < 1:
            raise ValueError(f"critics must be >= 1, got {self.critics!r}")
        if self.spread <= 0:
            raise ValueError(f"spread must be > 0, got {self.spread!r}")


ActorValue: TypeAlias = Literal["first", "min", "mean"]
"""Which of the critics a policy climbs: the first, the smallest, the mean of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BcSettings:
    """Behavioural cloning by maximum likelihood (squared error for a deterministic policy)."""

    actor_lr: float = 3e-4
    kind: Literal["bc"] = "bc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Td3Settings:
    """TD3 (arXiv 1802.09477). `policy_delay` counts critic updates; `exploration` is for acting."""

    gamma: float = 0.99
    tau: float = 0.005
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    policy_delay: int = 2
    target_noise: float = 0.2
    target_clip: float = 0.5
    exploration: float = 0.1
    actor_value: ActorValue = "first"
    kind: Literal["td3"] = "td3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Td3BcSettings:
    """TD3+BC (arXiv 2106.06860): the policy maximises alpha Q / mean |Q| minus its distance to D.

    With `critic_bc` above 0 the critic's target loses that much times the distance at the next
    state, and with `actor_bc` the policy's distance has this weight: ReBRAC (arXiv 2305.09836).
    """

    alpha: float = 2.5
    actor_bc: float = 1.0
    critic_bc: float = 0.0
    td3: Td3Settings = field(default_factory=Td3Settings)
    kind: Literal["td3_bc"] = "td3_bc"


@dataclass(frozen=True, slots=True, kw_only=True)
class SacSettings:
    """SAC (arXiv 1812.05905) on an ensemble of critics.

    Each target takes the smallest of `subset` critics drawn at random (REDQ, arXiv 2101.05982), of
    all where `subset` is None. `target_entropy` None means minus the action's width. `policy_delay`
    counts critic updates; with several updates an environment step, give their number.
    """

    gamma: float = 0.99
    tau: float = 0.005
    actor_lr: float = 1e-4
    critic_lr: float = 3e-4
    temperature_lr: float = 1e-4
    temperature: float = 1.0
    target_entropy: float | None = None
    backup_entropy: bool = False
    subset: int | None = None
    policy_delay: int = 1
    actor_value: ActorValue = "min"
    kind: Literal["sac"] = "sac"


@dataclass(frozen=True, slots=True, kw_only=True)
class IqlSettings:
    """IQL (arXiv 2110.06169): expectile values, and a policy cloned with weights exp(beta A)."""

    gamma: float = 0.99
    tau: float = 0.005
    lr: float = 3e-4
    expectile: float = 0.7
    beta: float = 3.0
    clip: float = 100.0
    kind: Literal["iql"] = "iql"


@dataclass(frozen=True, slots=True, kw_only=True)
class CqlSettings:
    """CQL (arXiv 2006.04779), and with `calibrate` Cal-QL (arXiv 2303.05479), on SAC.

    `alpha` is the weight of the penalty, or the initial one where `gap` is given: then it is learnt
    so that the penalty's difference of values stays near `gap`. `actions` are drawn at each state
    from the uniform distribution, the policy, and the policy at the next state.
    """

    alpha: float = 5.0
    gap: float | None = None
    alpha_lr: float = 3e-4
    actions: int = 10
    importance: bool = True
    max_target: bool = False
    calibrate: bool = False
    sac: SacSettings = field(default_factory=SacSettings)
    kind: Literal["cql"] = "cql"


AlgorithmSettings: TypeAlias = Annotated[
    BcSettings | Td3Settings | Td3BcSettings | SacSettings | IqlSettings | CqlSettings,
    Field(discriminator="kind"),
]


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
