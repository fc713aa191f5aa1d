"""Speed of the control learners beside their peers: `docs/speed.md` says what is measured.

    python benchmarks/control_speed.py --peers FOLDER --write

Every (library, algorithm) is a process of its own; within a cell they take turns of a fraction of
a second, A B C A B C, so that whatever else the machine does hits all alike, and every ratio is
taken within a round. Time is the CPU time of the process on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "control_peers"))

import report  # noqa: E402 - our folder of runners, known since the line above
from cell import Cell  # noqa: E402

OFFLINE = ("bc", "td3_bc", "iql", "cql", "cal_ql", "sac2", "sac10")
SIZES = ((256, 256), (64, 64))
MEMBERS = (1, 4, 10, 20)
POPULATIONS = ("td3_bc", "iql", "sac2")
ENVIRONMENTS = ("Pendulum-v1", "HalfCheetah-v5")
SECONDS = {"cql": 0.8, "cal_ql": 0.8}
"""CPU-seconds of a turn where a step is long; 0.3 elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A peer, or ourselves: which Python runs which runner."""

    name: str
    runner: str
    python: Path
    source: Path | None = None
    knows: frozenset[str] = frozenset((*OFFLINE, *ENVIRONMENTS))
    largest_only: bool = False

    def missing(self) -> str | None:
        """What is not there, if anything."""
        for path in (self.python, *([self.source] if self.source else [])):
            if not path.exists():
                return f"{self.name}: no {path.name} in {path.parent}"
        return None


OURS = Library(name="ours", runner="run_posttrain.py", python=Path(sys.executable))


def peers(folder: Path) -> list[Library]:
    """Return the peers that `docs/speed.md` tells how to prepare."""
    torch, jax = folder / "venv/bin/python", folder / "venv-jax/bin/python"
    gradient = frozenset(OFFLINE)
    return [
        Library(name="CORL", runner="run_corl.py", python=torch, source=folder / "CORL"),
        Library(name="d3rlpy", runner="run_d3rlpy.py", python=torch),
        Library(name="TorchRL", runner="run_torchrl.py", python=torch, knows=gradient - {"cal_ql"}),
        Library(
            name="WSRL",
            runner="run_wsrl.py",
            python=jax,
            source=folder / "wsrl",
            knows=gradient - {"td3_bc"},
            largest_only=True,
        ),
    ]


@dataclass(slots=True, eq=False)
class Worker:
    """A running cell of one library."""

    name: str
    process: subprocess.Popen[str]
    said: IO[str]
    about: dict[str, str] = field(default_factory=dict)
    turns: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, library: Library, cell: Cell) -> Worker:
        """Start the process; it builds its learner while others do the same."""
        command = [str(library.python), str(HERE / "control_peers" / library.runner)]
        command += [cell.algorithm, "--width", str(cell.width), "--batch", str(cell.batch)]
        command += ["--members", str(cell.members), "--device", cell.device]
        if library.source:
            command += ["--source", str(library.source)]
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read and closed by `stop`
        process = subprocess.Popen(  # noqa: S603
            command,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        return cls(name, process, said)

    def hear(self) -> dict[str, Any] | None:
        """Read one answer; None if the process has died."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def turn(self, seconds: float) -> None:
        """Run for so many CPU-seconds and keep what came out."""
        assert self.process.stdin
        print(seconds, file=self.process.stdin, flush=True)
        answer = self.hear()
        assert answer, f"{self.name} died"
        self.turns.append(answer)

    def stop(self) -> str:
        """End the process and return the last line of what it complained about."""
        self.process.communicate(timeout=60)
        with self.said as complaint:
            complaint.seek(0)
            return (complaint.read().strip().splitlines() or ["no reason given"])[-1]


def together(
    started: Sequence[Worker], rounds: int, seconds: float
) -> tuple[list[Worker], list[str]]:
    """Let all workers take turns.

    Returns:
        The workers that ran, and a line for each that did not.
    """
    alive, dead = [], []
    for worker in started:
        about = worker.hear()
        if about is None:
            dead.append(f"{worker.name}: {worker.stop()}")
            continue
        worker.about = about
        alive.append(worker)
    for i in range(rounds):
        for worker in alive if i % 2 == 0 else reversed(alive):
            worker.turn(seconds)
    for worker in alive:
        worker.stop()
    return alive, dead


def row(workers: Iterable[Worker], versions: dict[str, str]) -> dict[str, Any]:
    """Steps a CPU-second and peak memory by worker, turn by turn."""
    found = {}
    for worker in workers:
        versions |= worker.about
        found[worker.name] = {
            "rates": [turn["steps"] / turn["cpu_s"] for turn in worker.turns],
            "peak_mb": max(turn["peak_mb"] for turn in worker.turns),
        }
    return found


def measure(
    libraries: Sequence[Library], *, rounds: int, device: str, only: re.Pattern[str]
) -> dict[str, Any]:
    """Run all cells; what is absent or fails is listed under `absent`."""
    absent = [reason for library in libraries if (reason := library.missing())]
    present = [library for library in libraries if not library.missing()]
    versions: dict[str, str] = {}
    found: dict[str, Any] = {"gradient": {}, "population": {}, "environment": {}}

    def keep(kind: str, name: str, started: list[Worker], seconds: float) -> None:
        alive, dead = together(started, rounds, seconds)
        absent.extend(f"{name}: {line}" for line in dead)
        found[kind][name] = row(alive, versions)
        rates = {k: round(statistics.median(v["rates"]), 1) for k, v in found[kind][name].items()}
        print(kind, name, rates, flush=True)

    for width, batch in SIZES:
        for algorithm in OFFLINE:
            name = f"{algorithm} {width}x2 B{batch}"
            if not only.search(name):
                continue
            cell = Cell(algorithm=algorithm, width=width, batch=batch, device=device)
            chosen = [
                library
                for library in present
                if algorithm in library.knows and (width == SIZES[0][0] or not library.largest_only)
            ]
            started = [Worker.start(library.name, library, cell) for library in chosen]
            product = Cell(algorithm="products", width=0, batch=0, device=device)
            started.append(Worker.start("products", OURS, product))
            keep("gradient", name, started, SECONDS.get(algorithm, 0.3))
    for algorithm in POPULATIONS:
        name = f"{algorithm} population"
        if only.search(name):
            cells = [
                Cell(algorithm=algorithm, width=64, batch=64, members=m, device=device)
                for m in MEMBERS
            ]
            started = [Worker.start(str(cell.members), OURS, cell) for cell in cells]
            keep("population", algorithm, started, 0.4)
    for env in ENVIRONMENTS:
        if only.search(env):
            chosen = [library for library in present if env in library.knows]
            cell = Cell(algorithm=env, width=256, batch=1)
            started = [Worker.start(library.name, library, cell) for library in chosen]
            bare = Cell(algorithm=env, width=0, batch=0)
            keep("environment", env, [*started, Worker.start("gymnasium", OURS, bare)], 0.4)
    return found | {"absent": absent, "versions": versions, "rounds": rounds, "device": device}


def machine() -> str:
    """Return the processor's name and how many of them there are."""
    listing = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", listing.read_text()) if listing.exists() else []
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder with the peers, see docs/speed.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="of our own learners")
    parser.add_argument("--only", default="", help="cells whose name matches, such as 'sac|iql'")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/speed.md")
    args = parser.parse_args()
    libraries = [OURS, *(peers(args.peers.absolute()) if args.peers else [])]
    only = re.compile(args.only)
    load = os.getloadavg()[0]
    found = measure(libraries, rounds=args.rounds, device=args.device, only=only)
    found |= {"machine": machine(), "load": (load, os.getloadavg()[0])}
    if not args.peers:
        found["absent"].append("peers: no --peers given, so only our own speed was measured")
    text = report.tables(found)
    print(text)
    if args.write:
        docs = HERE.parent / "docs"
        (docs / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
        report.write_into(docs / "speed.md", text)


if __name__ == "__main__":
    main()
