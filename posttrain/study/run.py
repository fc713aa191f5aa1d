"""A study from start to finish: shared parts, then groups of cells, then the table."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from posttrain.files import write_json, write_text
from posttrain.study.cells import Group, flat, lay_out, needed, refuse_strangers, shard
from posttrain.study.kind import Kind, starts_from
from posttrain.study.live import Watch, watching
from posttrain.study.read import read_study
from posttrain.study.settings import SHARED, Study, StudyError, load_study
from posttrain.study.show import to_markdown
from posttrain.study.table import Table, tabulate
from posttrain.study.work import Outcome, lost, work

__all__ = ["load_study", "run_study", "write_table"]

BACKENDS: Final = {"loky": None, "threading": None, "dask": "distributed", "ray": "ray"}
"""Backends of joblib, and the package that each needs."""


@dataclass(frozen=True, slots=True)
class Call:
    """A group on its way to a worker, with what `work` needs."""

    kind: Kind
    group: Group
    root: Path
    quiet: bool


def run_study(
    study: Study,
    *,
    jobs: int = 1,
    part: str = "0/1",
    backend: str = "loky",
    kinds: Mapping[str, Kind] | None = None,
) -> list[Outcome]:
    """Run the cells that are not finished yet.

    Args:
        study: What to run.
        jobs: Processes at once; -1 takes one for each CPU, or all that a cluster has.
        part: `i/n` runs the i-th of n parts, i from 0.
        backend: loky, threading, dask or ray.
        kinds: Kinds of recipes by name; those of the package if None.

    Returns:
        What became of each cell of this part, shared ones first.

    Raises:
        StudyError: something is wrong with the study, the part or the backend.
        RecordError: a cell's folder was made by another recipe.
    """
    index, count = parse_part(part)
    check_backend(backend, jobs)
    grid = lay_out(study, kinds)
    groups = shard(grid.groups, index, count)
    shared = needed(grid, groups, first=index / count)
    refuse_strangers(flat((*shared, *groups)))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes inherit it before torch is loaded
    quiet = backend in {"loky", "ray"}  # threads share one standard output

    def calls(units: Sequence[Group]) -> list[Call]:
        return [Call(grid.kind, group, study.folder, quiet) for group in units]

    with watching(study, flat(shared), flat(groups)) as watch, _workers(backend, jobs):
        found = _collect(calls(shared), watch)
        ready, stuck = _split(groups, {o.name for o in found if o.state == "failed"})
        watch.tell(stuck)
        return [*found, *stuck, *_collect(calls(ready), watch)]


def _collect(calls: Sequence[Call], watch: Watch) -> list[Outcome]:
    """Outcomes as they come.

    A process that dies takes its pool with it. The units that were under way are tried again one
    by one, so that only the culprit's cells fail.
    """
    with _interrupts() as seen:
        return _collected(calls, watch, seen)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Remember Ctrl-C: a pool that it broke must not be taken for one with a dead worker."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, _: Any) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _collected(calls: Sequence[Call], watch: Watch, interrupted: list[int]) -> list[Outcome]:
    found: list[Outcome] = []
    rest, suspects = list(calls), list[Call]()
    while rest:
        sent: list[Call] = []
        try:
            for outcomes in _stream(rest, sent):
                found += outcomes
                watch.tell(outcomes)
            rest = []
        except BrokenProcessPool:
            if interrupted:
                raise KeyboardInterrupt from None
            told = {outcome.name for outcome in found}
            rest = [call for call in rest if call.group.cells[0].name not in told]
            names = {call.group.name for call in sent}
            suspects += [call for call in rest if call.group.name in names] or rest
            rest = [call for call in rest if call not in suspects]
    for call in suspects:
        try:
            (outcomes,) = _stream([call], [], alone=True)
        except BrokenProcessPool:
            outcomes = [lost(cell) for cell in call.group.cells]
        found += outcomes
        watch.tell(outcomes)
    return found


def _stream(calls: Sequence[Call], sent: list[Call], *, alone: bool = False) -> Any:
    """Results in the order in which they come; `sent` collects what went to the workers.

    With `alone`, a process is started even for one call.
    """
    import joblib
    from joblib.parallel import get_active_backend

    def going() -> Iterator[Any]:
        for call in calls:
            sent.append(call)
            yield joblib.delayed(work)(call.kind, call.group, call.root, quiet=call.quiet)

    stream = get_active_backend()[0].supports_return_generator
    parallel = joblib.Parallel(
        n_jobs=2 if alone else None,
        return_as="generator_unordered" if stream else "list",
        batch_size=1,
        pre_dispatch="n_jobs",
    )
    return parallel(going())


def _split(groups: Sequence[Group], failed: set[str]) -> tuple[list[Group], list[Outcome]]:
    """Groups without the cells whose start failed, and what is to be said of those."""
    ready: list[Group] = []
    stuck: list[Outcome] = []
    for group in groups:
        sound = []
        for cell in group.cells:
            start = f"{cell.setting}/{SHARED}/seed-{cell.seed}"
            if start in failed and starts_from(cell.recipe):
                reason = f"{start}, its start, failed"
                stuck.append(Outcome(name=cell.name, state="failed", reason=reason))
            else:
                sound.append(cell)
        if sound:
            ready.append(replace(group, cells=tuple(sound)))
    return ready, stuck


def parse_part(part: str) -> tuple[int, int]:
    """Read `i/n`.

    Raises:
        StudyError: it is not that, or i is not below n.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", part)
    if match is None or int(match[1]) >= int(match[2]):
        raise StudyError(f"--shard: wanted i/n with 0 <= i < n, such as 0/4; got {part!r}")
    return int(match[1]), int(match[2])


def check_backend(backend: str, jobs: int) -> None:
    """Refuse a backend that is unknown or whose package is missing.

    Raises:
        StudyError: with what to install.
    """
    if jobs < 1 and jobs != -1:
        raise StudyError(f"--jobs: wanted a number of processes, or -1 for all; got {jobs}")
    if backend not in BACKENDS:
        raise StudyError(f"--backend: wanted one of {', '.join(BACKENDS)}; got {backend!r}")
    package = BACKENDS[backend]
    if package is not None and importlib.util.find_spec(package) is None:
        raise StudyError(f"--backend {backend}: needs the package: pip install {package}")


@contextmanager
def _workers(backend: str, jobs: int) -> Iterator[None]:
    """Let joblib's calls inside go to this backend."""
    import joblib

    if backend == "dask":
        from distributed import Client  # type: ignore[import-not-found]

        with Client(), joblib.parallel_config(backend, n_jobs=jobs):
            yield
        return
    if backend == "ray":
        from ray.util.joblib import register_ray  # type: ignore[import-not-found]

        register_ray()
    with joblib.parallel_config(backend, n_jobs=jobs):
        yield


def write_table(study: Study) -> Table:
    """Write `table.json`, `table.md` and, with matplotlib, `study.png` from the records."""
    records = read_study(study)
    table = tabulate(study, records)
    write_json(study.folder / "table.json", table.to_dict(), nan_as_null=True)
    write_text(study.folder / "table.md", to_markdown(table))
    if importlib.util.find_spec("matplotlib") is not None:
        from posttrain.study.figure import write_figure

        write_figure(table, records, study.folder / "study.png")
    return table
