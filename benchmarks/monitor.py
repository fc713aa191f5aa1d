"""How often is the monitor wrong in a whole run, and how soon does it see what is there?

    python benchmarks/monitor.py [--runs 1000]

prints the tables of docs/monitor.md: simulated runs of RL of 200 steps. A prompt is solved with a
chance of its own (Beta), drawn without replacement from 2,000; half of D's answers are right.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from posttrain.regime.monitor import Reading, begin

Floats = NDArray[np.float64]
PROMPTS, STEPS, ALPHA, SAMPLES = 2_000, 200, 0.05, 8
CHANGE = 100
"""The step at which a policy that drops does so."""


def rolled(
    rng: np.random.Generator, runs: int, units: int, j: Callable[[int], float]
) -> Iterator[tuple[Floats, Floats]]:
    """Mean returns of each step's units, and D's on them; [runs, units]."""
    hard = rng.beta(1, 1, PROMPTS)
    data = (rng.permutation(PROMPTS) < PROMPTS // 2).astype(np.float64)
    per_epoch = PROMPTS // units
    for step in range(STEPS):
        if step % per_epoch == 0:
            order = rng.permuted(np.tile(np.arange(PROMPTS), (runs, 1)), axis=1)
        at = step % per_epoch * units
        shown = order[:, at : at + units]
        chance = np.clip(hard[shown] / hard.mean() * j(step), 0, 1)
        yield rng.binomial(SAMPLES, chance) / SAMPLES, data[shown]


def watched(
    rng: np.random.Generator, runs: int, units: int, window: int, j: Callable[[int], float]
) -> Iterator[Reading]:
    """Readings after each step; pi_0 was measured on 400 units of its own."""
    before = rng.binomial(SAMPLES, rng.beta(1, 1, (runs, 400))) / SAMPLES
    watch = begin(steps=STEPS, window=window, alpha=ALPHA, pi0=before, dataset=0.5)
    for returns, data in rolled(rng, runs, units, j):
        watch = watch.update(returns, data)
        yield watch.reading()


def naive(rng: np.random.Generator, runs: int, units: int, window: int) -> float:
    """Runs in which a 95 % t interval over the latest steps ever misses a mean that stays."""
    wrong = np.zeros(runs, dtype=bool)
    latest: list[Floats] = []
    for returns, _ in rolled(rng, runs, units, constant):
        latest = [*latest, returns][-window:]
        found = np.concatenate(latest, axis=1)
        error = found.std(axis=1, ddof=1) / np.sqrt(found.shape[1])
        wrong |= (np.abs(found.mean(axis=1) - 0.5) > 1.96 * error) & (len(latest) == window)
    return float(wrong.mean())


def constant(_: int) -> float:
    return 0.5


def dropping(step: int, *, by: float) -> float:
    return 0.5 - (by if step >= CHANGE else 0.0)


def climbing(step: int, *, to: float) -> float:
    return 0.3 + (to - 0.3) * step / STEPS


def first(seen: list[NDArray[np.bool_]]) -> Floats:
    """The step (from 1) at which each run saw it; NaN where it never did."""
    table = np.array(seen)
    return np.where(table.any(axis=0), table.argmax(axis=0) + 1.0, np.nan)


def calm(runs: int) -> None:
    print(
        "| units a step | window | wrong alarm in a run | width of J at the end | "
        "a t interval at every look |"
    )
    print("| --- | --- | --- | --- | --- |")
    for units in (8, 32, 128):
        for window in (10, 20, 50):
            rng = np.random.default_rng([units, window])
            alarm, width = np.zeros(runs, dtype=bool), 0.0
            for reading in watched(rng, runs, units, window, constant):
                alarm |= reading.dropped | reading.passed | reading.collapsed
                width = float(np.median(reading.j.high - reading.j.low))
            print(
                f"| {units} | {window} | {alarm.mean():.3f} | {width:.3f} | "
                f"{naive(rng, runs, units, window):.3f} |",
                flush=True,
            )


def stormy(runs: int) -> None:
    print("\n| what happens | units a step | seen in | too early in | steps until seen, median |")
    print("| --- | --- | --- | --- | --- |")
    for by in (0.1, 0.2, 0.3):
        for units in (8, 32, 128):
            rng = np.random.default_rng([units, int(100 * by)])
            j = partial(dropping, by=by)
            seen = first([r.dropped for r in watched(rng, runs, units, 20, j)])
            report(f"drops by {by:g} under pi_0 at step {CHANGE}", units, seen, CHANGE)
    for to in (0.6, 0.9):
        passes = (0.5 - 0.3) / (to - 0.3) * STEPS
        for units in (8, 32, 128):
            rng = np.random.default_rng([units, int(100 * to)])
            j = partial(climbing, to=to)
            seen = first([r.passed for r in watched(rng, runs, units, 20, j)])
            report(f"climbs to {to:g}, past D at step {passes:.0f}", units, seen, passes)


def report(what: str, units: int, seen: Floats, since: float) -> None:
    late = seen[np.isfinite(seen)] - since
    median = f"{np.median(late):.0f}" if late.size else "never"
    early = np.mean(np.where(np.isfinite(seen), seen <= since, False))
    share = np.isfinite(seen).mean()
    print(f"| {what} | {units} | {share:.3f} | {early:.3f} | {median} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1_000)
    settings = parser.parse_args()
    calm(settings.runs)
    stormy(settings.runs)


if __name__ == "__main__":
    main()
