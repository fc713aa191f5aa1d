"""One cell of the speed table: what is run, on which rows, and how it is timed.

A runner builds one learner of one library and hands its step to `serve`. It is then told, over
standard input, when to run and for how long, so that the runners of all libraries can take turns.
Only numpy is needed: a runner lives in its library's environment, not in ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OBSERVATION, ACTION = 11, 3
ROWS, EPISODE = 50_000, 1_000
HIDDEN_LAYERS = 2
SAMPLED_ACTIONS = 10
DISCOUNT = 0.99
TYPICAL_RETURN = 30.0
ANSWERS = os.dup(1)
"""Standard output as it was: what a library prints goes elsewhere, see `from_command_line`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one runner is asked to build."""

    algorithm: str
    """bc, td3_bc, iql, cql, cal_ql, sac2, sac10, or an environment id to roll out."""
    width: int
    batch: int
    members: int = 1
    device: str = "cpu"
    source: Path | None = None
    """Folder of the peer's own source files, for peers that are not packages."""

    @property
    def critics(self) -> int:
        """Critics of the ensemble."""
        return 10 if self.algorithm == "sac10" else 2

    @property
    def hidden(self) -> list[int]:
        """Widths of the hidden layers of every network."""
        return [self.width] * HIDDEN_LAYERS


def from_command_line() -> Cell:
    os.dup2(2, 1)  # a library's own prints must not mix with the answers
    parser = argparse.ArgumentParser()
    parser.add_argument("algorithm")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--source", type=Path)
    return Cell(**vars(parser.parse_args()))


def rows(seed: int = 0) -> dict[str, np.ndarray]:
    """Return the same made-up transitions for every library.

    Returns:
        `observations` and `next_observations` [50000, 11], `actions` [50000, 3] inside (-1, 1),
        `rewards`, `terminals` (none), `timeouts` (every thousandth row) and `mc_returns` [50000];
        float32, flags boolean.
    """
    rng = np.random.default_rng(seed)
    ends = np.arange(1, ROWS + 1) % EPISODE == 0
    states = rng.standard_normal((ROWS + 1, OBSERVATION)).astype(np.float32)
    return {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": rng.uniform(-0.99, 0.99, (ROWS, ACTION)).astype(np.float32),
        "rewards": rng.standard_normal(ROWS).astype(np.float32),
        "terminals": np.zeros(ROWS, dtype=bool),
        "timeouts": ends,
        "mc_returns": rng.normal(TYPICAL_RETURN, 5.0, ROWS).astype(np.float32),
    }


def serve(run: Callable[[int], int], *, about: Mapping[str, str], warm_up: int = 10) -> None:
    """Answer each number of CPU-seconds read from standard input with the steps that fitted in.

    Args:
        run: does at least so many steps, sampling included, and returns how many it did.
        about: versions and remarks, sent once the learner is warm.
        warm_up: steps before the first answer.
    """
    answers = os.fdopen(ANSWERS, "w", buffering=1)
    begun = time.process_time()
    done = run(warm_up)
    rate = done / max(time.process_time() - begun, 1e-6)
    print(json.dumps(dict(about)), file=answers)
    for line in sys.stdin:
        budget, done, begun, wall = float(line), 0, time.process_time(), time.perf_counter()
        while (spent := time.process_time() - begun) < budget:
            done += run(max(1, int(rate * min(budget / 5, budget - spent))))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
        figures = {
            "steps": done,
            "cpu_s": spent,
            "wall_s": time.perf_counter() - wall,
            "peak_mb": peak,
        }
        print(json.dumps(figures), file=answers)


def repeat(step: Callable[[], object]) -> Callable[[int], int]:
    """Return a function that does a step so many times."""

    def run(count: int) -> int:
        for _ in range(count):
            step()
        return count

    return run
