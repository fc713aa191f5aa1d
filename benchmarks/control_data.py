"""How long does it take to read a million transitions? CPU seconds of one thread, best of three."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from control.datasets import read_hdf5, read_minari, write_hdf5, write_minari
from control.datasets.legacy import qlearning_dataset

ROWS, EPISODE = 1_000_000, 1_000


def columns(rng: np.random.Generator) -> dict[str, np.ndarray]:
    observations = np.empty((ROWS, 17), np.float32)
    for start in range(0, ROWS, EPISODE):
        steps = rng.uniform(-0.1, 0.1, (EPISODE, 17)).cumsum(0)
        observations[start : start + EPISODE] = rng.normal(size=17) * 3 + steps
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (ROWS, 6)).astype(np.float32),
        "rewards": rng.normal(size=ROWS).astype(np.float32),
        "terminals": np.zeros(ROWS, bool),
        "timeouts": np.arange(ROWS) % EPISODE == EPISODE - 1,
    }


def measure(what: str, action: Callable[[], Any], times: int = 3) -> Any:
    best, result = float("inf"), None
    for _ in range(times):
        start = time.process_time()
        result = action()
        best = min(best, time.process_time() - start)
    print(f"{what:36s} {best:6.2f} s")
    return result


def main() -> None:
    given = columns(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
        for compression in (None, "gzip"):
            path = folder / f"{compression}.hdf5"
            with h5py.File(path, "w") as file:
                for column, values in given.items():
                    file.create_dataset(column, data=values, compression=compression)
            dataset = measure(f"read_hdf5, {compression or 'plain'}", lambda p=path: read_hdf5(p))
        measure("qlearning_dataset", lambda: qlearning_dataset(given))
        measure("mc_returns", lambda: dataset.mc_returns(0.99))
        measure("write_hdf5", lambda: write_hdf5(dataset, folder / "own.hdf5"))
        measure("read_hdf5, of write_hdf5", lambda: read_hdf5(folder / "own.hdf5"))
        facts = dict.fromkeys(("author", "author_email", "description", "algorithm", "code"), "-")
        whole = replace(dataset, last_rewards=None)
        measure("write_minari", lambda: write_minari(whole, "local/x-v0", env=None, **facts), 1)
        measure("read_minari", lambda: read_minari("local/x-v0"))


if __name__ == "__main__":
    main()
