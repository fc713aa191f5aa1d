"""What a recipe may say about networks and algorithms. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

PolicyKind: TypeAlias = Literal["deterministic", "gaussian"]


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
