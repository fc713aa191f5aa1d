"""How does a policy learn from its environment alone? Off-policy RL without D and without pi_0.

It makes the data that D4RL calls medium, replay and expert, and it is the plainest use of the
algorithms: every member of a population learns in an environment of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from control import algorithms
from control.agent import Agent
from control.algorithm_settings import NetworkSettings, SacSettings, Td3Settings
from control.algorithms import delay_of, exploration_of
from control.environments import Flat
from control.experience import seeds_of
from control.learner import Learner
from control.networks import EDGE
from control.rollout import Episode, players
from control.settings import EnvSettings
from control.storage import UNKNOWN, Share, Storage, indices, pack
from control.streams import Streams

__all__ = ["Online", "OnlineSettings", "learn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineSettings:
    """Where and how to learn. The first `random` steps act uniformly and learn nothing."""

    env: EnvSettings
    algorithm: SacSettings | Td3Settings
    networks: NetworkSettings
    batch: int = 128
    random: int = 1_000
    reward_scale: float = 1.0
    """For learning only."""


@dataclass(slots=True)
class Online:
    """Members while they learn."""

    settings: OnlineSettings
    agent: Agent
    learner: Learner
    step: int = 0
    """Environment steps of each member so far."""
    episodes: list[list[Episode]] = field(default_factory=list)
    """Each member's, as soon as they have ended; what it does now is not among them."""


@dataclass(slots=True)
class _Seat:
    """A member in its environment."""

    env: Flat
    seed: int
    observations: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    begun: int = 0
    playing: int = 0
    """The seed of the episode."""

    def begin(self) -> None:
        self.playing = seeds_of(self.seed, f"episode {self.begun}")[0] % 2**31
        self.observations = [self.env.reset(seed=self.playing)[0]]
        self.actions, self.rewards = [], []
        self.begun += 1

    def step(self, action: NDArray[np.float32]) -> tuple[bool, Episode | None]:
        """Act; whether the task ended, and the episode if it is over."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(reward)
        if not (terminated or truncated):
            return False, None
        return terminated, Episode(
            seed=self.playing,
            observations=np.stack(self.observations),
            actions=np.stack(self.actions),
            rewards=np.array(self.rewards),
            terminated=terminated,
            truncated=truncated,
            success=info.get("success"),
        )


def learn(settings: OnlineSettings, seeds: Sequence[int], steps: int) -> Iterator[Online]:
    """Learn from scratch, one member a seed, one update an environment step.

    What becomes of a member does not depend on the others.

    Args:
        settings: where and how.
        seeds: of the members.
        steps: environment steps of each.

    Yields:
        The same object after every step.

    Raises:
        EnvError: the environment cannot be made.
    """
    with players(settings.env, len(seeds)) as envs:
        seats = [_Seat(env, seed) for env, seed in zip(envs, seeds, strict=True)]
        for seat in seats:
            seat.begin()
        width, action = len(seats[0].observations[0]), envs[0].actions
        agent = algorithms.build(settings.algorithm, settings.networks, width, action, len(seeds))
        agent.draw_([seeds_of(s, "weights")[0] for s in seeds])
        views = [agent.member(m) for m in range(len(seeds))]
        noise = [seeds_of(s, "learning noise")[0] for s in seeds]
        learner = algorithms.start(settings.algorithm, agent, views, noise)
        storage = Storage(width, action, members=len(seeds), capacity=steps)
        rows = [np.random.default_rng(seeds_of(s, "rows")[0]) for s in seeds]
        shares = [Share(0.0, 0, generator) for generator in rows]
        acting = Streams([seeds_of(s, "acting noise")[0] for s in seeds])
        online = Online(settings, agent, learner, episodes=[[] for _ in seeds])
        for step in range(steps):
            _act(online, storage, acting, seats)
            if step >= settings.random:
                _update(online, storage, shares, step - settings.random)
            online.step = step + 1
            yield online


@torch.no_grad()
def _act(online: Online, storage: Storage, acting: Streams, seats: Sequence[_Seat]) -> None:
    before = torch.from_numpy(np.stack([seat.observations[-1] for seat in seats]))
    actions = _actions(online, acting, before)
    masks, rewards = torch.empty(len(seats)), torch.empty(len(seats))
    after = torch.empty_like(before)
    for m, (seat, action) in enumerate(zip(seats, actions.numpy(), strict=True)):
        terminated, episode = seat.step(action)
        after[m] = torch.from_numpy(seat.observations[-1])
        rewards[m], masks[m] = seat.rewards[-1], not terminated
        if episode is not None:
            online.episodes[m].append(episode)
            seat.begin()
    rows = pack(
        observations=before,
        actions=actions,
        rewards=rewards * online.settings.reward_scale,
        masks=masks,
        returns=torch.full_like(rewards, UNKNOWN),
        next_observations=after,
        next_actions=torch.full_like(actions, torch.nan),
    )
    storage.add(range(len(seats)), rows)


def _actions(online: Online, acting: Streams, observations: torch.Tensor) -> torch.Tensor:
    """What the members do, `[M, A]`."""
    agent, settings = online.agent, online.settings
    if online.step < settings.random:
        return acting.uniform(agent.action) * 2 - 1
    policy = agent.actor(observations.unsqueeze(1))
    spread = exploration_of(settings.algorithm)
    if spread is not None:
        policy = policy._replace(std=torch.tensor(spread))
    return policy.sample(acting.normal(1, agent.action))[0][:, 0].clamp(-EDGE, EDGE)


def _update(online: Online, storage: Storage, shares: Sequence[Share], update: int) -> None:
    every = [True] * len(shares)
    index = indices(
        storage,
        shares,
        updates=[update] * len(shares),
        batch=online.settings.batch,
        active=every,
    )
    turn = (update + 1) % delay_of(online.settings.algorithm) == 0
    online.learner.update(storage.gather(index), critic=every, actor=every if turn else None)
