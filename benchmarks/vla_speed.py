"""What playing and training a robot policy cost beside their bare parts: docs/vla_speed.md.

    OMP_NUM_THREADS=1 python benchmarks/vla_speed.py --write
    python benchmarks/vla_speed.py --gpu      # a model of SmolVLM-256M's size, by wall time

Bare are: the same seeds and actions in a plain loop over one environment; the model's forward
passes of the same batches on tensors that lie ready; and loops written by hand, which end with the
trainers' weights.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llm_speed import Turns
from side_by_side import clock, machine, publish, ratio, rounds, spread, table
from vla_arms import EXTRAS, LOGGED, Stage, furthest

from posttrain.tuning import training
from posttrain.vla.environments.fleet import Fleet
from posttrain.vla.environments.make import make_env, make_fleet
from posttrain.vla.environments.near import Near
from posttrain.vla.observation import Decisions, Observations
from posttrain.vla.policy import Policy
from posttrain.vla.rollout import play
from posttrain.vla.settings import EnvironmentSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "vla_speed.md"
SEEDS = 512
SAME = 1e-2
"""Weights may differ by so much after all rounds: AdamW divides the last bits of small gradients
by themselves."""
CLONED = (32, 128)
WIDTH = 96
"""Of the recipes' policy."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--episodes", type=int, nargs="+", default=[64, 256], help="of an RL step")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--parts", nargs="+", default=["rollouts", "training"])
    parser.add_argument("--gpu", action="store_true", help="the large model; wants an accelerator")
    parser.add_argument("--small", action="store_true", help="with --gpu: a tiny one, on the CPU")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    keep_memory()
    training.silence()
    if asked.gpu:
        from vla_gpu import measure

        print(measure(small=asked.small))
        return
    torch.set_num_threads(1)
    measured = f"{machine()}; {asked.rounds} rounds"
    with tempfile.TemporaryDirectory() as scratch:
        if "rollouts" in asked.parts:
            lines = [
                rollouts(Stage(Path(scratch) / f"{name}{w}", w, 64, world=where), name, asked)
                for name, where in WORLDS.items()
                for w in ([WIDTH] if where.id in SLOW else asked.widths)
            ]
            text = f"{measured}.\n\n{table(ROLLOUTS, lines)}"
            publish("rollouts", text, write=asked.write, page=PAGE)
        if "training" in asked.parts:
            width = WIDTH
            rows = [
                updates(Stage(Path(scratch) / f"t{episodes}", width, episodes), name, asked)
                for episodes in asked.episodes
                for name in EXTRAS
            ]
            first = Stage(Path(scratch) / "s", width, 64)
            rows += [cloning(first, batch, asked) for batch in CLONED]
            text = f"{measured} of {LOGGED} steps; width {width}.\n\n{table(TRAINING, rows)}"
            publish("training", text, write=asked.write, page=PAGE)


BUILT_IN = EnvironmentSettings(envs=64)
ONE_BY_ONE = "built in, one by one"
"""The built-in world stepped as a simulator of one's own is: a Python call for each step."""
WORLDS = {
    "built in": BUILT_IN,
    ONE_BY_ONE: BUILT_IN,
    "BabyAI": EnvironmentSettings(
        id="BabyAI-GoToLocalS5N2-v0",
        options={"tile": 8, "actions": ["left", "right", "forward"], "num_dists": 1},
        max_steps=6,
        envs=64,
    ),
    "FetchReach": EnvironmentSettings(
        id="posttrain/FetchReach-v0",
        options={"side": 48, "axes": 2, "balls": 2, "colours": 2},
        max_steps=6,
        envs=32,
    ),
}
"""As in the recipes `vla/grid`, `vla/babyai` and `vla/fetch_reach`."""
SLOW = {WORLDS[name].id: 64 for name in ("BabyAI", "FetchReach")}
"""Episodes of those whose simulator takes long."""
KEPT = {
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "100000000",
}
"""For glibc: memory is kept once it was asked for."""


def keep_memory() -> None:
    """Start anew with memory that is kept.

    Else the allocator decides from round to round whether tensors of a pass are given back to the
    system and cleared again: a tenth of a pass, in any of the arms.
    """
    if not KEPT.items() <= os.environ.items():
        again = [sys.executable, *sys.argv]
        os.execve(sys.executable, again, {**os.environ, **KEPT})  # noqa: S606 - itself, anew


ROLLOUTS = (
    "world", "width", "episodes", "decisions/s", "ours, ms", "bare environment, ms",
    "bare forward, ms", "inputs, ms", "ours is, %", "without making inputs, %",
)  # fmt: skip
TRAINING = ("loss", "rows a step", "trainer, rows/s", "trainer / by hand", "furthest weights")


class Heard:
    """A policy, and what it was asked."""

    def __init__(self, policy: Policy) -> None:
        """Listen to `policy`."""
        self.policy, self.tokens = policy, policy.tokens
        self.seen: list[Observations] = []

    def decide(
        self, seen: Observations, draws: npt.NDArray[np.float64], *, temperature: float
    ) -> Decisions:
        """As the policy does."""
        self.seen.append(seen)
        return self.policy.decide(seen, draws, temperature=temperature)


def rollouts(stage: Stage, name: str, asked: argparse.Namespace) -> tuple[str, ...]:
    """A line of the table of rollouts, of one of the worlds."""
    world, policy = stage.environment, stage.policy()
    env = make_env(world)
    fleet = Fleet(world, Near(world, make_env)) if name == ONE_BY_ONE else make_fleet(world)
    policy.model.eval()
    heard, seeds = Heard(policy), list(range(SLOW.get(world.id, SEEDS)))
    roll: Callable[..., Any] = partial(
        play, fleet=fleet, seeds=seeds, temperature=1.0,
        draws=lambda place: np.random.default_rng((1, place)),
    )  # fmt: skip
    actions = [one.actions for one in roll(heard, keep="frames")]
    ready = [policy.encode(seen) for seen in heard.seen]

    def bare() -> None:
        for seed, taken in zip(seeds, actions, strict=True):
            env.reset(seed=seed)
            for action in taken:
                env.step(action)

    def forward() -> None:
        with torch.no_grad():
            for batch in ready:
                policy.model(**batch, logits_to_keep=1, use_cache=False)

    def inputs() -> None:
        for seen in heard.seen:
            policy.encode(seen)

    arms = {
        "ours": lambda: roll(policy, keep="decisions"), "env": bare, "forward": forward,
        "inputs": inputs,
    }  # fmt: skip
    found = rounds({k: partial(timed, arm) for k, arm in arms.items()}, count=asked.rounds)
    fleet.close()
    count = sum(len(seen) for seen in heard.seen)
    parts = list(zip(found["ours"], found["env"], found["forward"], found["inputs"], strict=True))
    return (
        name,
        str(stage.hidden),
        str(len(seeds)),
        f"{count / spread(found['ours']).median:,.0f}",
        *(f"{1000 * spread(found[name]).median:.0f}" for name in arms),
        f"{spread([100 * (1 - (e + f) / o) for o, e, f, _ in parts]):.1f}",
        f"{spread([100 * (1 - (e + f + i) / o) for o, e, f, i in parts]):.1f}",
    )


def timed(work: Callable[[], Any]) -> float:
    """Its seconds."""
    start = clock()
    work()
    return clock() - start


def updates(stage: Stage, name: str, asked: argparse.Namespace) -> tuple[str, ...]:
    """A line of the table of training: steps of RL on episodes that were played before."""
    trainer = stage.trainer(EXTRAS[name])
    step = stage.hand_steps(EXTRAS[name], trainer)
    rows: list[int] = []
    found = race(trainer, lambda number: rows.append(step(number)[0]), asked)
    apart = furthest(trainer.model, step.loop.model)  # type: ignore[attr-defined]
    return line(f"RL, {name}", sum(rows) / len(rows), found, apart)


def cloning(stage: Stage, batch: int, asked: argparse.Namespace) -> tuple[str, ...]:
    """A line of the table of training: SFT by TRL."""
    trainer, step, loop = stage.cloner(batch)
    found = race(trainer, step, asked)
    return line("SFT", batch, found, furthest(trainer.model, loop.model))


def race(
    trainer: Any, step: Callable[[int], Any], asked: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds a step of a trainer and of a loop by hand, in turns."""
    done = 0

    def by_hand() -> float:
        nonlocal done
        start = clock()
        for _ in range(LOGGED):
            step(done)
            done += 1
        return (clock() - start) / LOGGED

    turns = Turns(trainer, LOGGED)
    found = rounds({"trainer": turns, "hand": by_hand}, count=asked.rounds)
    turns.end()
    return found


def line(name: str, rows: float, found: dict[str, list[float]], apart: float) -> tuple[str, ...]:
    """Rates; two that have not trained the same are not compared."""
    if apart > SAME:
        raise SystemExit(f"{name}: the two loops' weights differ by {apart:.2g}")
    made = (
        name,
        f"{rows:.0f}",
        f"{rows / spread(found['trainer']).median:,.0f}",
        f"{ratio(found['hand'], found['trainer']):.3f}",
        f"{apart:.0e}",
    )
    print(*made, sep="  ", flush=True)
    return made


if __name__ == "__main__":
    main()
