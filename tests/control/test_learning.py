"""Do the algorithms learn? A known answer, a real task, and a reward that says nothing."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from control.acting import act_of
from control.algorithm_settings import NetworkSettings, PolicyKind, SacSettings, Td3Settings
from control.makers.online import OnlineSettings, learn
from control.rollout import play
from control.settings import EnvSettings

SAC = SacSettings(actor_lr=3e-3, critic_lr=3e-3, temperature_lr=3e-3, temperature=0.1)
TD3 = Td3Settings(actor_lr=3e-3, critic_lr=3e-3)
PENDULUM = SacSettings(actor_lr=1e-3, critic_lr=1e-3, temperature_lr=1e-3)


class Identity(gymnasium.Env[np.ndarray, np.ndarray]):
    """Say the number that you are shown: one step, reward -(a - s)^2, or noise instead of it."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, *, shuffled: bool = False) -> None:
        self.shuffled = shuffled

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.shown, {}

    def step(self, action):
        told = self.np_random.uniform(-1, 1, 1) if self.shuffled else self.shown
        return self.shown, -float(np.square(action - told).sum()), True, False, {}


@pytest.fixture(autouse=True)
def _identity() -> Iterator[None]:
    gymnasium.register("Identity-v0", entry_point=Identity, max_episode_steps=1)
    yield
    del gymnasium.registry["Identity-v0"]


def identity_error(algorithm: SacSettings | Td3Settings, *, shuffled: bool = False) -> float:
    """Mean squared distance between what was shown and what a trained policy says."""
    policy: PolicyKind = "gaussian" if algorithm.kind == "sac" else "deterministic"
    settings = OnlineSettings(
        env=EnvSettings(id="Identity-v0", kwargs={"shuffled": shuffled}),
        algorithm=algorithm,
        networks=NetworkSettings(policy=policy, actor=(32, 32), critic=(32, 32)),
        batch=64,
        random=100,
    )
    *_, online = learn(settings, [0], 500)
    shown = torch.linspace(-1, 1, 41).view(1, -1, 1)
    with torch.no_grad():
        return float((online.agent.actor(shown).mode() - shown).square().mean())


@pytest.mark.parametrize("algorithm", [SAC, TD3], ids=["sac", "td3"])
def test_the_number_shown_is_learnt(algorithm: SacSettings | Td3Settings) -> None:
    assert identity_error(algorithm) < 0.01


@pytest.mark.parametrize("algorithm", [SAC, TD3], ids=["sac", "td3"])
def test_nothing_is_learnt_where_the_reward_belongs_to_another_number(
    algorithm: SacSettings | Td3Settings,
) -> None:
    assert identity_error(algorithm, shuffled=True) > 0.2


def test_sac_swings_a_pendulum_up() -> None:
    settings = OnlineSettings(
        env=EnvSettings(id="Pendulum-v1"),
        algorithm=PENDULUM,
        networks=NetworkSettings(actor=(64, 64), critic=(64, 64), critic_norm=True),
        batch=64,
    )
    *_, online = learn(settings, [2], 4_000)
    episodes = play(act_of(online.agent, [0] * 10), settings.env, range(10), envs=10)
    assert np.mean([episode.ret for episode in episodes]) > -500
    assert np.mean([episode.ret for episode in online.episodes[0][:5]]) < -900  # as it was at first


def test_a_member_learns_beside_others_what_it_learns_alone() -> None:
    settings = OnlineSettings(
        env=EnvSettings(id="Pendulum-v1"),
        algorithm=PENDULUM,
        networks=NetworkSettings(actor=(16, 16), critic=(16, 16), critics=3),
        batch=64,
        random=50,
    )
    *_, together = learn(settings, [7, 8], 250)
    *_, alone = learn(settings, [8], 250)
    assert np.array_equal(together.episodes[1][0].actions, alone.episodes[0][0].actions)
    for name, value in together.agent.member(1).state_dict().items():
        assert torch.equal(value, alone.agent.state_dict()[name]), name
