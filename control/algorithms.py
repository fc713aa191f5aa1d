"""Which algorithm does a recipe name? The one place where settings meet their code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control import bc, cql, iql, sac, td3, td3_bc
from control.algorithm_settings import (
    AlgorithmSettings,
    BcSettings,
    CqlSettings,
    IqlSettings,
    NetworkSettings,
    SacSettings,
    Td3BcSettings,
    Td3Settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from control.agent import Agent
    from control.learner import Learner


def build(
    settings: AlgorithmSettings,
    networks: NetworkSettings,
    observation: int,
    action: int,
    members: int = 1,
) -> Agent:
    """An agent with the networks that the algorithm trains, its weights not drawn yet.

    Raises:
        ValueError: the algorithm cannot train this kind of policy.
    """
    sizes = (networks, observation, action, members)
    match settings:
        case BcSettings():
            return bc.build(*sizes)
        case Td3Settings():
            return td3.build(*sizes)
        case Td3BcSettings():
            return td3_bc.build(*sizes)
        case SacSettings():
            return sac.build(*sizes, temperature=settings.temperature)
        case IqlSettings():
            return iql.build(*sizes)
        case CqlSettings():
            return cql.build(settings, *sizes)


def start(
    settings: AlgorithmSettings, agent: Agent, views: Sequence[Agent], seeds: Sequence[int]
) -> Learner:
    """Begin training: fresh optimizers, and noise from one seed a member."""
    match settings:
        case BcSettings():
            return bc.Bc.start(agent, settings, views, seeds)
        case Td3Settings():
            return td3.Td3.start(agent, settings, views, seeds)
        case Td3BcSettings():
            return td3_bc.Td3Bc.start(agent, settings, views, seeds)
        case SacSettings():
            return sac.Sac.start(agent, settings, views, seeds)
        case IqlSettings():
            return iql.Iql.start(agent, settings, views, seeds)
        case CqlSettings():
            return cql.Cql.start(agent, settings, views, seeds)


def gamma_of(settings: AlgorithmSettings, default: float = 0.99) -> float:
    """The discount that the algorithm learns with; cloning has none."""
    match settings:
        case BcSettings():
            return default
        case Td3BcSettings():
            return settings.td3.gamma
        case CqlSettings():
            return settings.sac.gamma
        case _:
            return settings.gamma


def delay_of(settings: AlgorithmSettings) -> int:
    """Critic updates between two updates of the policy."""
    match settings:
        case Td3BcSettings():
            return settings.td3.policy_delay
        case CqlSettings():
            return settings.sac.policy_delay
        case Td3Settings() | SacSettings():
            return settings.policy_delay
        case _:
            return 1


def exploration_of(settings: AlgorithmSettings) -> float | None:
    """Noise of a deterministic policy while it acts; None leaves it to the policy."""
    match settings:
        case Td3Settings():
            return settings.exploration
        case Td3BcSettings():
            return settings.td3.exploration
        case _:
            return None
