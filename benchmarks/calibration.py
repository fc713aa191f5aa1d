"""How often is a verdict wrong, and what does it cost? Simulated, for docs/calibration.md.

    python benchmarks/calibration.py            # print the tables, about 6 minutes on one core
    python benchmarks/calibration.py --write    # and put them into docs/calibration.md

A verdict is most easily wrong where the true gap lies on the margin, so that is where every
distribution is put: at +margin "superior" is wrong, at -margin "inferior", at both "comparable".
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from distributions import (
    HELD_OUT,
    MARGIN,
    RETURNS,
    Array,
    Returns,
    Rng,
    all_right,
    bernoulli,
    clustered,
    gaussian,
    shifted,
)
from scipy.special import betaincinv, ndtri, stdtrit

from posttrain.regime.betting import fractions
from posttrain.regime.gap import gap_interval, welch_interval
from posttrain.regime.sample import Pairing, sample
from posttrain.regime.verdict import Interval, Regime, decide

Bound: TypeAlias = Callable[[Pairing], Interval]
ALPHA, SEED = 0.05, 20261123
PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
RUNS = {10: 4000, 20: 4000, 50: 4000, 200: 4000, 1000: 4000}
"""Units of a fixed sample: how many such samples are simulated."""
SEQUENTIAL_RUNS, SEQUENTIAL_UNITS, BATCH = 2000, 1000, 8
WRONG = {MARGIN: ("superior", "comparable"), -MARGIN: ("inferior", "comparable")}


def default_interval(pairing: Pairing) -> Interval:
    """What `diagnose` uses."""
    return gap_interval(pairing, alpha=ALPHA)


def fixed_verdicts(
    policy: Array,
    dataset: Array,
    *,
    paired: bool,
    interval: Bound = default_interval,
) -> Array:
    """Verdicts of the fixed test, one a row; equal samples are tested once."""
    seen: dict[bytes, Regime] = {}
    verdicts = []
    for x, y in zip(policy, dataset, strict=True):
        key = np.sort(x - y) if paired else np.concatenate([np.sort(x), np.sort(y)])
        if key.tobytes() not in seen:
            sides = (sample(x, side="policy", scale=None), sample(y, side="dataset", scale=None))
            pairing = Pairing(*sides, paired=paired, left_out=0)
            seen[key.tobytes()] = decide(interval(pairing), MARGIN)
        verdicts.append(seen[key.tobytes()])
    return np.array(verdicts)


def sequential_verdicts(
    differences: Array, *, batch: int, alpha: float = ALPHA, margin: float = MARGIN
) -> tuple[Array, Array]:
    """Verdict and units at the stop of each row of differences [runs, units], a look a batch.

    `Sequential.update` for many runs at once: an end passes ±margin when the capital of the bet
    against ±margin passes 1 / alpha.
    """
    runs, units = differences.shape
    z, bets = (differences + 1) / 2, fractions(margin)
    above, below = (1 + margin) / 2, (1 - margin) / 2
    wealth = np.zeros((4, runs, bets.size))
    refuted = np.zeros((4, runs), dtype=bool)
    verdict, stop = np.full(runs, "undecided", dtype=object), np.full(runs, units)
    live = np.arange(runs)
    for end in range(batch, units + 1, batch):
        for one in range(end - batch, end):
            now = z[live, one]
            returns = (now / above, now / below, (1 - now) / (1 - above), (1 - now) / (1 - below))
            for k, ratio in enumerate(returns):
                wealth[k, live] += np.log1p(np.multiply.outer(ratio - 1, bets))
        refuted[:, live] |= np.exp(wealth[:, live]).mean(-1) >= 1 / alpha
        low_above, low_below, high_above, high_below = refuted[:, live]
        for name, hit in (
            ("superior", low_above),
            ("inferior", high_below),
            ("comparable", low_below & high_above),
        ):
            fresh = live[hit & (verdict[live] == "undecided")]
            verdict[fresh], stop[fresh] = name, end
        live = live[verdict[live] == "undecided"]
        if not live.size:
            break
    return verdict.astype(str), stop


def share(hits: int, runs: int) -> str:
    """Percentage with its exact 95 % interval."""
    low = betaincinv(hits, runs - hits + 1, 0.025) if hits else 0.0
    high = betaincinv(hits + 1, runs - hits, 0.975) if hits < runs else 1.0
    return f"{100 * hits / runs:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def worst(verdicts: dict[float, Array], runs: int) -> str:
    """The most frequent of the wrong verdicts."""
    counts = [np.sum(found == name) for gap, found in verdicts.items() for name in WRONG[gap]]
    return share(int(max(counts)), runs)


def fixed_cell(
    rng: Rng, returns: Returns, units: int, runs: int, interval: Bound = default_interval
) -> str:
    verdicts = {
        gap: fixed_verdicts(
            *returns.draw(rng, gap, (runs, units)), paired=returns.paired, interval=interval
        )
        for gap in returns.gaps
    }
    return worst(verdicts, runs)


def sequential_cell(rng: Rng, returns: Returns) -> str:
    verdicts, shape = {}, (SEQUENTIAL_RUNS, SEQUENTIAL_UNITS)
    for gap in returns.gaps:
        policy, dataset = returns.draw(rng, gap, shape)
        verdicts[gap], _ = sequential_verdicts(policy - dataset, batch=BATCH)
    return worst(verdicts, SEQUENTIAL_RUNS)


def table(head: list[str]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]


def row(*cells: object) -> str:
    line = "| " + " | ".join(str(cell) for cell in cells) + " |"
    print(line, flush=True)
    return line


def wrong_table(rng: Rng, distributions: tuple[Returns, ...] = RETURNS) -> list[str]:
    """Shares of wrong verdicts in percent, the worst of the three verdicts in each cell."""
    lines = table(["returns", *(f"n = {n}" for n in RUNS), f"look every {BATCH}"])
    for returns in distributions:
        cells = [
            fixed_cell(rng, returns, n, runs // 8 if returns.slow and n >= 200 else runs)
            for n, runs in RUNS.items()
        ]
        cells.append(sequential_cell(rng, returns) if returns.paired else "")
        lines.append(row(returns.name, *cells))
    return lines


def control_table(rng: Rng) -> list[str]:
    """What the same simulation shows of tests that must fail it."""
    lines = table(["test", "returns", "wrong verdicts, %"])
    student = Returns(
        "all demonstrations right, Bernoulli pi_0, n = 50", all_right(), gaps=(-MARGIN,)
    )
    plain = fixed_cell(rng, student, 50, RUNS[50], interval=student_interval)
    lines.append(row("plain t on the differences", student.name, plain))
    cell = naive_cell(rng, 50, RUNS[50])
    lines.append(
        row("Welch on episodes as if they were units", "clustered, 8 a unit, n = 50", cell)
    )
    peeking = f"the fixed test, a look every {BATCH} units"
    lines.append(row(peeking, "gaussian, up to 1,000", peeking_cell(rng, 1000, 400)))
    return lines


def student_interval(pairing: Pairing) -> Interval:
    d = pairing.policy.values - pairing.dataset.values
    half = stdtrit(d.size - 1, 1 - ALPHA) * d.std(ddof=1) / np.sqrt(d.size)
    return Interval(d.mean() - half, d.mean() + half)


def naive_cell(rng: Rng, units: int, runs: int, episodes: int = 8) -> str:
    """Clustered episodes of both sides, taken for independent."""
    found = {}
    for gap in WRONG:
        sides = []
        for mean in (0.5 + gap / 2, 0.5 - gap / 2):
            easy = rng.beta(mean, 1 - mean, (runs, units))
            sides.append((rng.random((runs, units, episodes)) < easy[..., None]).reshape(runs, -1))
        found[gap] = np.array(
            [
                decide(welch_interval(x * 1.0, y * 1.0, alpha=ALPHA), MARGIN)
                for x, y in zip(*sides, strict=True)
            ]
        )
    return worst(found, runs)


def peeking_cell(rng: Rng, units: int, runs: int) -> str:
    draw = shifted(gaussian, 0.5)
    found = {}
    for gap in WRONG:
        policy, dataset = draw(rng, gap, (runs, units))
        found[gap] = peeking_verdicts(policy - dataset, batch=BATCH)
    return worst(found, runs)


def peeking_verdicts(differences: Array, *, batch: int) -> Array:
    """First verdict of a t interval that is read after every batch, one a row."""
    runs, units = differences.shape
    looks = np.arange(2 * batch, units + 1, batch)
    mean = np.cumsum(differences, axis=1)[:, looks - 1] / looks
    square = np.cumsum(differences**2, axis=1)[:, looks - 1] / looks
    half = stdtrit(looks - 1, 1 - ALPHA) * np.sqrt((square - mean**2) / (looks - 1))
    verdicts = np.full(runs, "undecided", dtype=object)
    for low, high in zip((mean - half).T, (mean + half).T, strict=True):
        now = [decide(Interval(*ends), MARGIN) for ends in zip(low, high, strict=True)]
        verdicts = np.where(verdicts == "undecided", now, verdicts)
    return verdicts.astype(str)


COSTED = (
    (Returns("D right and wrong by halves, pi_0 independent of it", bernoulli(0.5)), 1),
    (Returns("clustered, 8 episodes a unit, D alike", clustered(0.5)), 1),
    (Returns("all demonstrations right, one episode a unit", all_right()), -1),
    (Returns("all demonstrations right, 8 episodes a unit", all_right(1.0, 8)), -1),
    (Returns("gaussian, sd 0.1", shifted(gaussian, 0.5)), 1),
)


def cost_table(rng: Rng, runs: int = 400, most: int = 12_000) -> list[str]:
    """Units until the sequential verdict, against a fixed sample planned for twice the margin."""
    lines = table(
        ["returns", "true gap", "mean", "9 of 10 within", "fixed plan", "ratio", "wrong, %"]
    )
    for returns, sign in COSTED:
        x, y = returns.draw(rng, sign * 2 * MARGIN, (1000, 200))
        plan = (ndtri(1 - ALPHA) + ndtri(0.9)) ** 2 * np.var(x - y) / MARGIN**2
        for gap in (0.0, 0.1, 0.15, 0.3, 0.45):
            x, y = returns.draw(rng, sign * gap, (runs, most))
            verdicts, stop = sequential_verdicts(x - y, batch=1)
            true = "comparable" if gap < MARGIN else "superior" if sign > 0 else "inferior"
            wrong = share(int(np.sum((verdicts != true) & (verdicts != "undecided"))), runs)
            lines.append(
                row(
                    returns.name,
                    f"{sign * gap:+.2f}" if gap else "0",
                    f"{stop.mean():,.0f}",
                    f"{np.quantile(stop, 0.9):,.0f}",
                    f"{plan:,.0f}",
                    f"**{stop.mean() / plan:.2f}**",
                    wrong,
                )
            )
    return lines


def write(name: str, lines: list[str]) -> None:
    """Replace what stands between the markers of this table."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page, found = pattern.subn(lambda _: begin + "\n".join(lines) + "\n" + end, page)
    if found != 1:
        raise SystemExit(f"{PAGE.name} needs the markers {begin.strip()} and {end} once")
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    parser.add_argument("--only", choices=TABLES, action="append", help="this table")
    arguments = parser.parse_args()
    for name in arguments.only or TABLES:
        began = time.perf_counter()
        lines = TABLES[name](np.random.default_rng([SEED, list(TABLES).index(name)]))
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if arguments.write:
            write(name, lines)


TABLES: dict[str, Callable[[Rng], list[str]]] = {
    "wrong verdicts": wrong_table,
    "controls": control_table,
    "cost": cost_table,
    "held out": partial(wrong_table, distributions=HELD_OUT),
}

if __name__ == "__main__":
    main()
