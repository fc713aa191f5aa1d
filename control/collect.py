"""Members at play: each in its own environment, episode after episode, into its own rows.

An episode is decided by its seed and the actions taken. So a killed run needs no environment
state: the open episode is played again from its actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from control.agent import Agent
from control.algorithm_settings import AlgorithmSettings
from control.algorithms import exploration_of, gamma_of
from control.datasets.hdf5 import read_hdf5
from control.datasets.returns import discounted
from control.environments import Flat, replay_actions
from control.experience import rows_of, seeds_of
from control.networks import EDGE, Policy
from control.proposal import Rival
from control.rollout import players
from control.settings import ControlRecipe
from control.storage import UNKNOWN, Storage, pack
from control.streams import Streams


@dataclass(slots=True)
class Seat:
    """A member at play."""

    seed: int
    warm: int
    observation: NDArray[np.float32]
    episode: int = 0
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success: bool = False
    opened: int = 0
    """Rows that the member had added when the episode began."""

    def episode_seed(self) -> int:
        """Of the episode being played."""
        return seeds_of(self.seed, f"episode {self.episode}")[0] % 2**31


@dataclass(slots=True)
class Collector:
    """What every member does between updates."""

    recipe: ControlRecipe
    algorithm: AlgorithmSettings
    agent: Agent
    reference: Agent
    storage: Storage
    streams: Streams
    seats: list[Seat]
    returns: list[list[float]]
    """Undiscounted raw returns of the episodes that ended since they were last taken."""
    rival: Rival | None = None
    envs: Sequence[Flat] = ()

    @classmethod
    def start(
        cls,
        recipe: ControlRecipe,
        algorithm: AlgorithmSettings,
        agent: Agent,
        reference: Agent,
        storage: Storage,
        *,
        seeds: Sequence[int],
        warm: Sequence[int],
        rival: Rival | None = None,
    ) -> Collector:
        """Seat every member; `warm` says for how many steps pi_0 acts instead of it."""
        empty = np.zeros(agent.observation, dtype=np.float32)
        return cls(
            recipe,
            algorithm,
            agent,
            reference,
            storage,
            Streams([seeds_of(s, "acting noise")[0] for s in seeds], recipe.device),
            [Seat(seed, steps, empty) for seed, steps in zip(seeds, warm, strict=True)],
            [[] for _ in seeds],
            rival,
        )

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Open an environment a member, and begin its first episode."""
        with players(self.recipe.env, len(self.seats)) as envs:
            self.envs = envs
            for seat, env in zip(self.seats, envs, strict=True):
                seat.observation, _ = env.reset(seed=seat.episode_seed())
            yield

    def take(self, m: int, episodes: Path) -> None:
        """Put episodes that pi_0 has played before into member m's rows."""
        rows = rows_of(read_hdf5(episodes), self.agent, self.recipe.dataset, self.algorithm)
        for row in rows:
            self.storage.add([m], row.unsqueeze(0))
        self.seats[m].opened = int(self.storage.added[m])

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Let every member act once, and keep what came of it."""
        before = np.stack([seat.observation for seat in self.seats])
        actions = self._act(before, step)
        self._tell_next_actions(actions)
        after = np.empty_like(before)
        rewards, masks = np.empty(len(self.seats)), np.empty(len(self.seats))
        over = []
        for m, (seat, env) in enumerate(zip(self.seats, self.envs, strict=True)):
            after[m], reward, terminated, truncated, info = env.step(actions[m])
            rewards[m], masks[m] = reward, not terminated
            seat.actions.append(actions[m])
            seat.rewards.append(float(reward))
            seat.success = bool(info.get("success", False))
            seat.observation = after[m]
            if terminated or truncated:
                over.append((m, terminated))
        self._add(before, actions, rewards, masks, after)
        for m, terminated in over:
            self._end(m, terminated=terminated)

    def _act(self, observations: NDArray[np.float32], step: int) -> NDArray[np.float32]:
        """Actions `[M, A]` with noise: pi_0's while a member's warm-up lasts."""
        device = self.agent.center.device
        inputs = self.agent.normalize(torch.from_numpy(observations).to(device)).unsqueeze(1)
        noise = self.streams.normal(1, self.agent.action)
        actions = self._drawn(self.agent, inputs, noise)
        warm = [step < seat.warm for seat in self.seats]
        if any(warm):
            keep = torch.tensor(warm, device=device).view(-1, 1, 1)
            theirs = self._noisy(self.reference.actor(inputs)).sample(noise)[0]
            actions = torch.where(keep, theirs, actions)
        return actions[:, 0].clamp(-EDGE, EDGE).cpu().numpy()

    def _drawn(self, agent: Agent, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        policy = self._noisy(agent.actor(inputs))
        if self.rival is None:
            return policy.sample(noise)[0]
        return self.rival.act(agent, policy, inputs, noise, self.streams)

    def _noisy(self, policy: Policy) -> Policy:
        spread = exploration_of(self.algorithm)
        if policy.squashed or spread is None:
            return policy
        return policy._replace(std=torch.full_like(policy.std, spread))

    def _tell_next_actions(self, actions: NDArray[np.float32]) -> None:
        """What is done now is the next action of the row before, inside an episode."""
        going = [m for m, seat in enumerate(self.seats) if seat.actions]
        if going:
            self.storage.set_next_action(going, torch.from_numpy(actions[going]))

    def _add(
        self,
        before: NDArray[np.float32],
        actions: NDArray[np.float32],
        rewards: NDArray[np.float64],
        masks: NDArray[np.float64],
        after: NDArray[np.float32],
    ) -> None:
        data, device = self.recipe.dataset, self.agent.center.device
        count = len(self.seats)
        rows = pack(
            observations=self.agent.normalize(torch.from_numpy(before).to(device)).cpu(),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(rewards * data.reward_scale + data.reward_bias),
            masks=torch.from_numpy(masks),
            returns=torch.full((count,), UNKNOWN),
            next_observations=self.agent.normalize(torch.from_numpy(after).to(device)).cpu(),
            next_actions=torch.full((count, self.agent.action), torch.nan),
        )
        self.storage.add(range(count), rows)

    def _end(self, m: int, *, terminated: bool) -> None:
        """Close member m's episode: its returns are known now, and the next one begins."""
        seat, data = self.seats[m], self.recipe.dataset
        scaled = np.array(seat.rewards) * data.reward_scale + data.reward_bias
        last = np.zeros(len(scaled), dtype=bool)
        last[-1] = True
        gamma = gamma_of(self.algorithm)
        found = discounted(scaled, last & terminated, last, np.zeros(1), gamma)
        if data.failure_reward is not None and not seat.success:
            found[:] = data.failure_reward / (1 - gamma)
        self.storage.set_returns(m, seat.opened, found)
        self.returns[m].append(float(np.sum(seat.rewards)))
        seat.episode += 1
        seat.opened = int(self.storage.added[m])
        seat.actions, seat.rewards, seat.success = [], [], False
        seat.observation, _ = self.envs[m].reset(seed=seat.episode_seed())

    def taken(self) -> list[list[float]]:
        """Returns of the episodes that ended since the last call, for each member."""
        found, self.returns = self.returns, [[] for _ in self.seats]
        return found

    def closed(self, m: int) -> int:
        """Rows of member m that belong to episodes that have ended."""
        return self.seats[m].opened

    def facts(self, m: int) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        seat = self.seats[m]
        return {
            "episode": seat.episode,
            "opened": seat.opened,
            "actions": [[float(x) for x in action] for action in seat.actions],
            "rewards": seat.rewards,
            "success": seat.success,
            "returns": self.returns[m],
        }

    def restore(self, m: int, facts: Mapping[str, Any]) -> None:
        """Play member m's open episode again up to where it was."""
        seat = self.seats[m]
        seat.episode, seat.opened = int(facts["episode"]), int(facts["opened"])
        seat.actions = [np.array(a, dtype=np.float32) for a in facts["actions"]]
        seat.rewards, seat.success = list(facts["rewards"]), bool(facts["success"])
        self.returns[m] = list(facts["returns"])
        shape = (len(seat.actions), self.agent.action)
        played = np.array(facts["actions"], dtype=np.float32).reshape(shape)
        seat.observation = replay_actions(self.envs[m], seat.episode_seed(), played)
