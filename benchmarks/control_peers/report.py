"""The tables of `docs/speed.md`, from what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from floor import flops

PEERS = ("CORL", "d3rlpy", "TorchRL", "WSRL")
NAMES = {
    "bc": "BC",
    "td3_bc": "TD3+BC",
    "iql": "IQL",
    "cql": "CQL, 10 actions",
    "cal_ql": "Cal-QL, 10 actions",
    "sac2": "SAC, 2 critics",
    "sac10": "SAC, 10 critics",
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PRODUCT = 2 * 1024**3


def tables(found: Mapping[str, Any]) -> str:
    """Return everything between the markers."""
    versions = ", ".join(f"{k} {v}" for k, v in sorted(found["versions"].items()))
    before, after = found["load"]
    lines = [
        f"{found['machine']}; {found['rounds']} rounds; {versions}; load average {before:.1f} "
        f"before and {after:.1f} after; our learners on {found['device']}.",
        *(f"\nAbsent: {reason}." for reason in found["absent"]),
        "",
        *_gradient(found["gradient"]),
        *_population(found["population"]),
        *_memory(found["gradient"]),
        *_environment(found["environment"]),
    ]
    return "\n".join(lines)


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        ValueError: the page lacks its markers.
    """
    old = page.read_text()
    new, count = re.subn(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text}\n{END}", old, flags=re.S)
    if count != 1:
        raise ValueError(f"{page}: wanted one pair of markers {BEGIN} {END}, found {count}")
    page.write_text(new)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios within rounds, and their range."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def _gradient(cells: Mapping[str, Any]) -> list[str]:
    if not cells:
        return []
    lines = [
        "### Gradient steps a CPU-second, one thread, sampling included",
        "",
        "| algorithm | size | ours | " + " | ".join(PEERS) + " | of the floor |",
        "|---|---|---|" + "---|" * (len(PEERS) + 1),
    ]
    ratios = [
        "",
        "Ours over theirs: median of the rounds' ratios (smallest-largest).",
        "",
        "| algorithm | size | " + " | ".join(PEERS) + " |",
        "|---|---|" + "---|" * len(PEERS),
    ]
    for name, cell in cells.items():
        algorithm, width, batch = name.split()
        if "ours" not in cell:
            continue
        ours = cell["ours"]["rates"]
        speeds = [_speed(median(cell[p]["rates"])) if p in cell else "" for p in PEERS]
        reached = median(ours) * flops(algorithm, int(width[:-2]), int(batch[1:]))
        share = reached / (PRODUCT * median(cell["products"]["rates"]))
        title = f"| {NAMES[algorithm]} | {width}, {batch} | "
        lines.append(title + " | ".join([_speed(median(ours)), *speeds, f"{share:.0%}"]) + " |")
        over = [ratio(ours, cell[p]["rates"]) if p in cell else "" for p in PEERS]
        ratios.append(title + " | ".join(over) + " |")
    peak = median(median(c["products"]["rates"]) for c in cells.values()) * PRODUCT / 1e9
    share = f"\nA product of 1024-square matrices ran at {peak:.0f} GFLOP/s in the same rounds."
    return [*lines, *ratios, share, ""]


def _population(cells: Mapping[str, Any]) -> list[str]:
    if not cells:
        return []
    members = list(next(iter(cells.values())))
    head = " | ".join(f"{m} member{'s' if m != '1' else ''}" for m in members)
    lines = [
        "### Populations: steps of all members a CPU-second, 64x2, B64",
        "",
        f"| algorithm | {head} |",
        "|---|" + "---|" * len(members),
    ]
    for algorithm, cell in cells.items():
        alone = cell["1"]["rates"]
        told = [_speed(median(alone))]
        for m in members[1:]:
            rates = cell[m]["rates"]
            told.append(f"{_speed(median(rates))}, x {ratio(rates, alone)}")
        lines.append(f"| {NAMES[algorithm]} | " + " | ".join(told) + " |")
    return [*lines, ""]


def _memory(cells: Mapping[str, Any]) -> list[str]:
    if not cells:
        return []
    lines = [
        "### Peak memory of the process, MB, imports and 50 000 rows included",
        "",
        "| algorithm | size | ours | " + " | ".join(PEERS) + " |",
        "|---|---|---|" + "---|" * len(PEERS),
    ]
    for name, cell in cells.items():
        algorithm, width, batch = name.split()
        told = [f"{cell[p]['peak_mb']:.0f}" if p in cell else "" for p in ("ours", *PEERS)]
        lines.append(f"| {NAMES[algorithm]} | {width}, {batch} | " + " | ".join(told) + " |")
    return [*lines, ""]


def _environment(cells: Mapping[str, Any]) -> list[str]:
    if not cells:
        return []
    columns = ("ours", "CORL", "d3rlpy", "gymnasium")
    lines = [
        "### Environment steps a CPU-second while a policy of 256x2 is evaluated",
        "",
        "| environment | ours, 8 at once | CORL | d3rlpy | no policy: gymnasium alone |",
        "|---|---|---|---|---|",
    ]
    for env, cell in cells.items():
        told = [_speed(median(cell[c]["rates"])) if c in cell else "" for c in columns]
        lines.append(f"| {env} | " + " | ".join(told) + " |")
    return [*lines, ""]


def _speed(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}".replace(",", " ")
