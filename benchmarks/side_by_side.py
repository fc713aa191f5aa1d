"""Arms that are timed in turns, A B C then C B A, and compared within a round.

Time is the CPU time of this process where the work is done on the CPU, and wall time between two
waits for the device where there is one. A machine that is busy with other things slows all arms
of a round, and the ratios stay.
"""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "llm_speed.md"


def clock() -> float:
    """Seconds, of the CPU or of the device."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        return time.perf_counter()
    return time.process_time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median of the rounds, with an interval for it."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def spread(values: Sequence[float]) -> Spread:
    """The median and the order statistics that hold it with about 95 % (all, below 6 values)."""
    found = sorted(values)
    n, tail, outside = len(found), 0, 0.5 ** len(found)
    cumulative = outside
    while cumulative <= 0.025 and tail < n // 2:
        tail += 1
        outside *= (n - tail + 1) / tail
        cumulative += outside
    first = max(0, tail - 1)
    return Spread(median=statistics.median(found), low=found[first], high=found[n - 1 - first])


def rounds(
    arms: Mapping[str, Callable[[], float]], *, count: int, warm: int = 1
) -> dict[str, list[float]]:
    """Run every arm `count` times, in turns; each returns its own figure (a rate, or a time)."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warm, count):
        names = list(arms) if number % 2 else list(arms)[::-1]
        for name in names:
            value = arms[name]()
            if number >= 0:
                found[name].append(value)
    return found


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Round by round."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def machine() -> str:
    """What the figures were measured on."""
    if torch.accelerator.is_available():
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "an accelerator"
    else:
        where = f"{_cpu()}, {torch.get_num_threads()} thread"
    import transformers
    import trl

    return (
        f"{where}; torch {torch.__version__}, transformers {transformers.__version__}, "
        f"trl {trl.__version__}"
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return named.group(1) if named else platform.processor()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(name: str, text: str, *, write: bool, page: Path = PAGE) -> None:
    """Print, and put between `page`'s `name` marks if asked to."""
    print(text)
    if not write:
        return
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text()
    if begin not in whole:
        raise SystemExit(f"{page}: no mark {begin!r}")
    before, rest = whole.split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
