"""From a dataset or an episode to the rows that learners see: normalised, scaled, clipped, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from control.algorithms import gamma_of
from control.networks import EDGE
from control.storage import pack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from control.agent import Agent
    from control.algorithm_settings import AlgorithmSettings
    from control.datasets.dataset import Dataset
    from control.settings import DataSettings

STILL = 1e-3
"""Added to the deviation of an observation's coordinate, as TD3+BC does: some never move."""


def seeds_of(seed: int, purpose: str, count: int = 1) -> list[int]:
    """Independent seeds for a purpose of a run: no two streams ever share one.

    >>> seeds_of(0, "weights") != seeds_of(0, "noise") != seeds_of(1, "noise")
    True
    """
    entropy = [seed, *purpose.encode()]
    return [int(s) for s in np.random.SeedSequence(entropy).generate_state(count, np.uint64) >> 1]


def rows_of(
    dataset: Dataset, agent: Agent, data: DataSettings, algorithm: AlgorithmSettings
) -> Tensor:
    """Pack a dataset for an agent.

    Args:
        dataset: raw.
        agent: whose normalisation is used.
        data: scale and bias of rewards.
        algorithm: whose discount the returns-to-go use.

    Returns:
        `[N, width]` as `control.storage.pack` lays them out.
    """
    gamma = gamma_of(algorithm)
    failure = None if data.failure_reward is None else data.failure_reward / (1 - gamma)
    returns = dataset.mc_returns(
        gamma, scale=data.reward_scale, bias=data.reward_bias, failure_value=failure
    )
    following = np.full_like(dataset.actions, np.nan)
    following[:-1] = dataset.actions[1:]
    following[dataset.ends] = np.nan
    return pack(
        observations=_normal(agent, dataset.observations),
        actions=torch.from_numpy(dataset.actions).clamp(-EDGE, EDGE),
        rewards=torch.from_numpy(dataset.rewards * data.reward_scale + data.reward_bias),
        masks=torch.from_numpy(1.0 - dataset.terminals),
        returns=torch.from_numpy(returns),
        next_observations=_normal(agent, dataset.next_observations),
        next_actions=torch.from_numpy(following).clamp(-EDGE, EDGE),
    )


def set_normalization_(agent: Agent, dataset: Dataset) -> None:
    """Centre and scale observations by the dataset's mean and deviation."""
    center = dataset.observations.mean(0, dtype=np.float64)
    scale = dataset.observations.std(0, dtype=np.float64) + STILL
    agent.center.copy_(torch.from_numpy(center))
    agent.scale.copy_(torch.from_numpy(scale))


def _normal(agent: Agent, observations: NDArray[np.float32]) -> Tensor:
    return agent.normalize(torch.from_numpy(observations).to(agent.center.device))
