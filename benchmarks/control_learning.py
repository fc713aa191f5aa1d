"""How well do the control algorithms learn? Curves over seeds, and the same without a true reward.

    python benchmarks/control_learning.py            # run what is missing, print the tables
    python benchmarks/control_learning.py --write    # and put tables and figure into docs/

Five seeds of a setting are one population. Every curve is a file in `--out`, so that a killed run
goes on; delete one to run it again. One thread, about 17 CPU-minutes in all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import control_learning_page as page

from control import algorithms
from control.acting import act_of
from control.agent import Agent
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
from control.experience import rows_of, seeds_of
from control.makers.online import OnlineSettings, learn
from control.makers.waypoint import make_waypoint
from control.rollout import play, players
from control.settings import DataSettings, EnvSettings
from control.storage import Share, Storage, indices

SEEDS = tuple(range(100, 105))
STARTS = range(1_000, 1_010)
"""Of the episodes on which a policy is measured, the same for all."""
RATE = 1e-3
WIDTH = (64, 64)
SAC = SacSettings(actor_lr=RATE, critic_lr=RATE, temperature_lr=RATE)
TD3 = Td3Settings(actor_lr=RATE, critic_lr=RATE)
ONLINE: dict[str, SacSettings | Td3Settings] = {"SAC": SAC, "TD3": TD3}
TASKS = {"Pendulum-v1": (8_000, 1_000), "InvertedDoublePendulum-v5": (12_000, 2_000)}
"""Environment to steps and steps between two measurements."""
MAZE = EnvSettings(
    id="PointMaze_UMaze-v3", maze="umaze", frame_skip=10, horizon=80, score="success"
)
FAR = {"gamma": 0.95, "tau": 0.01}
SAC_FAR = SacSettings(actor_lr=RATE, critic_lr=RATE, temperature_lr=RATE, temperature=0.1, **FAR)
OFFLINE: dict[str, AlgorithmSettings] = {
    "BC": BcSettings(actor_lr=RATE),
    "TD3+BC": Td3BcSettings(alpha=10.0, td3=Td3Settings(actor_lr=RATE, critic_lr=RATE, **FAR)),
    "IQL": IqlSettings(lr=RATE, expectile=0.9, beta=10.0, **FAR),
    "CQL": CqlSettings(alpha=1.0, actions=4, sac=SAC_FAR),
    "Cal-QL": CqlSettings(alpha=1.0, actions=4, sac=SAC_FAR, calibrate=True),
}
UPDATES, EVERY = 3_000, 500


@dataclass(frozen=True)
class Curve:
    """J of every seed, measurement by measurement."""

    steps: list[int]
    returns: list[list[float]]
    """`[measurements][seeds]`."""
    seconds: float
    """CPU time of all seeds together, measuring included."""


class Shuffled(gymnasium.Wrapper):
    """Pay at every step what was paid at some earlier one: the same rewards, without meaning."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.paid: list[float] = []
        self.dice = np.random.default_rng(0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Step, and pay something else."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.paid.append(float(reward))
        reward = self.paid[self.dice.integers(len(self.paid))]
        return observation, reward, terminated, truncated, info


def networks(policy: str) -> NetworkSettings:
    return NetworkSettings(policy=policy, actor=WIDTH, critic=WIDTH, critic_norm=True)


def policy_of(algorithm: AlgorithmSettings) -> str:
    return "deterministic" if algorithm.kind in {"td3", "td3_bc"} else "gaussian"


def measured(agent: Agent, env: EnvSettings, envs: Sequence) -> list[float]:
    """Mean return, or success, of each member's policy without noise."""
    members = np.repeat(np.arange(agent.members), len(STARTS))
    found = play(act_of(agent, members), env, list(STARTS) * agent.members, envs=envs)
    returns = np.array(
        [episode.success if env.score == "success" else episode.ret for episode in found]
    )
    return [float(x) for x in returns.reshape(agent.members, -1).mean(1)]


def online(task: str, algorithm: SacSettings | Td3Settings, seeds: Sequence[int]) -> Curve:
    """Learn from the environment alone."""
    env = EnvSettings(id=task)
    settings = OnlineSettings(
        env=env, algorithm=algorithm, networks=networks(policy_of(algorithm)), batch=64
    )
    steps, every = TASKS[task.removeprefix("Shuffled-")]
    true = EnvSettings(id=task.removeprefix("Shuffled-"))
    found: dict[int, list[float]] = {}
    begun = time.process_time()
    with players(true, len(STARTS) * len(seeds)) as envs:
        for state in learn(settings, seeds, steps):
            if state.step % every == 0:
                found[state.step] = measured(state.agent, true, envs)
    return Curve(list(found), list(found.values()), time.process_time() - begun)


def offline(algorithm: AlgorithmSettings, *, shuffled: bool) -> Curve:
    """Learn from random walks in a maze, what rows tell of rewards in its place or anywhere."""
    dataset = make_waypoint(MAZE, seed=0, decisions=10_000, style="walk", noise_probability=0.5)
    sizes = dataset.observations.shape[1], dataset.actions.shape[1]
    agent = algorithms.build(algorithm, networks(policy_of(algorithm)), *sizes, len(SEEDS))
    agent.draw_([seeds_of(s, "weights")[0] for s in SEEDS])
    views = [agent.member(m) for m in range(len(SEEDS))]
    learner = algorithms.start(algorithm, agent, views, [seeds_of(s, "noise")[0] for s in SEEDS])
    rows = rows_of(dataset, agent, DataSettings(source=dataset.name), algorithm)
    if shuffled:
        told = slice(sum(sizes), sum(sizes) + 3)  # reward, mask, return-to-go
        rows[:, told] = rows[np.random.default_rng(0).permutation(len(rows)), told]
    storage = Storage(*sizes, data=rows, members=len(SEEDS))
    shares = [Share(1.0, seeds_of(s, "rows")[0], np.random.default_rng(0)) for s in SEEDS]
    everyone = [True] * len(SEEDS)
    found: dict[int, list[float]] = {}
    begun = time.process_time()
    with players(MAZE, len(STARTS) * len(SEEDS)) as envs:
        for update in range(UPDATES):
            index = indices(
                storage, shares, updates=[update] * len(SEEDS), batch=128, active=everyone
            )
            turn = (update + 1) % algorithms.delay_of(algorithm) == 0
            learner.update(storage.gather(index), critic=everyone, actor=everyone if turn else None)
            if (update + 1) % EVERY == 0:
                found[update + 1] = measured(agent, MAZE, envs)
    return Curve(list(found), list(found.values()), time.process_time() - begun)


def runs() -> Iterator[tuple[str, Callable[[], Curve]]]:
    """Names of the curves and what makes them."""
    for task in TASKS:
        for name, algorithm in ONLINE.items():
            yield f"{task} {name}", partial(online, task, algorithm, SEEDS)
    yield "Pendulum-v1 SAC alone", partial(online, "Pendulum-v1", SAC, SEEDS[:1])
    for name, algorithm in ONLINE.items():
        yield (
            f"Pendulum-v1 {name} shuffled",
            partial(online, "Shuffled-Pendulum-v1", algorithm, SEEDS),
        )
    for shuffled in (False, True):
        for name, offline_algorithm in OFFLINE.items():
            key = f"offline {name}{' shuffled' if shuffled else ''}"
            yield key, partial(offline, offline_algorithm, shuffled=shuffled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="tables and figure into docs/")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--only", default="", help="curves whose names contain this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    gymnasium.register(
        "Shuffled-Pendulum-v1",
        entry_point=lambda: Shuffled(gymnasium.make("Pendulum-v1")),
        max_episode_steps=200,
    )
    curves: dict[str, Curve] = {}
    for name, run in runs():
        path = arguments.out / f"{name}.json"
        if not path.exists() and arguments.only in name:
            curve = run()
            path.write_text(json.dumps(asdict(curve)))
            print(f"{name}: {np.round(curve.returns[-1], 1).tolist()}, {curve.seconds:.0f} CPU-s")
        if path.exists():
            curves[name] = Curve(**json.loads(path.read_text()))
    if arguments.write:
        page.write(curves)


if __name__ == "__main__":
    main()
