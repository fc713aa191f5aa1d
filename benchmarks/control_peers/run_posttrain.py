"""This project's learners: one member, or a population of them in one batched learner."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cell as table
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before what may be installed

from control import algorithms, rollout
from control.algorithm_settings import (
    AlgorithmSettings,
    BcSettings,
    CqlSettings,
    IqlSettings,
    NetworkSettings,
    SacSettings,
    Td3BcSettings,
)
from control.settings import EnvSettings
from control.storage import Share, Storage, indices, pack

SETTINGS: dict[str, AlgorithmSettings] = {
    "bc": BcSettings(),
    "td3_bc": Td3BcSettings(),
    "iql": IqlSettings(),
    "cql": CqlSettings(actions=table.SAMPLED_ACTIONS),
    "cal_ql": CqlSettings(actions=table.SAMPLED_ACTIONS, calibrate=True),
    "sac2": SacSettings(),
    "sac10": SacSettings(),
}
DETERMINISTIC = {"bc", "td3_bc"}


def networks(cell: table.Cell) -> NetworkSettings:
    return NetworkSettings(
        policy="deterministic" if cell.algorithm in DETERMINISTIC else "gaussian",
        actor=tuple(cell.hidden),
        critic=tuple(cell.hidden),
        critics=cell.critics,
    )


def filled(cell: table.Cell) -> Storage:
    rows = {name: torch.from_numpy(values) for name, values in table.rows().items()}
    packed = pack(
        observations=rows["observations"],
        actions=rows["actions"],
        rewards=rows["rewards"],
        masks=1 - rows["terminals"].float(),
        returns=rows["mc_returns"],
        next_observations=rows["next_observations"],
        next_actions=rows["actions"].roll(-1, 0),
    )
    sizes = (table.OBSERVATION, table.ACTION)
    return Storage(*sizes, data=packed, members=cell.members, device=cell.device)


def gradient_steps(cell: table.Cell) -> Callable[[int], int]:
    """Return a function that counts the steps of every member."""
    settings, sizes = SETTINGS[cell.algorithm], (table.OBSERVATION, table.ACTION)
    seeds = range(cell.members)
    agent = algorithms.build(settings, networks(cell), *sizes, cell.members)
    agent = agent.to(cell.device).draw_(seeds)
    views = [agent.member(m) for m in seeds]
    learner = algorithms.start(settings, agent, views, seeds)
    storage = filled(cell)
    shares = [Share(1.0, seed, np.random.default_rng(seed)) for seed in seeds]
    every, delay = (True,) * cell.members, algorithms.delay_of(settings)
    step = 0

    def run(count: int) -> int:
        nonlocal step
        updates = -(-count // cell.members)
        for _ in range(updates):
            at = [step] * cell.members
            rows = indices(storage, shares, updates=at, batch=cell.batch, active=every)
            step += 1
            turn = step % delay == 0
            learner.update(storage.gather(rows), critic=every, actor=every if turn else None)
        if cell.device != "cpu":
            torch.cuda.synchronize()
        return updates * cell.members

    return run


def products(cell: table.Cell) -> Callable[[], object]:
    """Return one square product of 1024: the fastest arithmetic that the machine offers here."""
    a, b = torch.randn(2, 1024, 1024, device=cell.device)
    return lambda: torch.mm(a, b)


def bare(cell: table.Cell) -> Callable[[int], int]:
    """Return plain gymnasium with actions drawn beforehand: what no policy can beat."""
    import gymnasium

    env = gymnasium.make(cell.algorithm)
    assert env.action_space.shape, cell.algorithm
    actions = np.random.default_rng(0).uniform(-1, 1, (1024, *env.action_space.shape))
    actions = actions.astype(np.float32)
    env.reset(seed=0)

    def run(count: int) -> int:
        for i in range(count):
            _, _, terminated, truncated, _ = env.step(actions[i % 1024])
            if terminated or truncated:
                env.reset()
        return count

    return run


def environment_steps(cell: table.Cell) -> Callable[[int], int]:
    """Return our evaluation of TD3+BC's policy: eight environments, one call of the policy."""
    settings = EnvSettings(id=cell.algorithm)
    seed = 0
    with rollout.players(settings, 1) as (env,):
        shapes = [space.shape for space in (env.observation_space, env.action_space)]
    sizes = networks(replace(cell, algorithm="td3_bc"))
    agent = algorithms.build(Td3BcSettings(), sizes, *(shape[0] for shape in shapes if shape))
    agent.draw_([0])

    def act(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            states = agent.normalize(torch.from_numpy(observations).unsqueeze(0))
            return agent.actor(states).mode()[0].numpy()

    def run(count: int) -> int:
        nonlocal seed
        done = 0
        with rollout.players(settings) as envs:
            while done < count:
                seeds = range(seed, seed + len(envs))
                seed += len(envs)
                done += sum(len(e) for e in rollout.play(act, settings, seeds, envs=envs))
        return done

    return run


def main() -> None:
    torch.set_num_threads(1)
    cell = table.from_command_line()
    about = {"torch": torch.__version__}
    if cell.algorithm == "products":
        table.serve(table.repeat(products(cell)), about=about)
    elif cell.algorithm in SETTINGS:
        table.serve(gradient_steps(cell), about=about)
    elif cell.width == 0:
        table.serve(bare(cell), about=about, warm_up=100)
    else:
        table.serve(environment_steps(cell), about=about, warm_up=1)


if __name__ == "__main__":
    main()
