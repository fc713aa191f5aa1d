"""Do the intervals of a decomposition cover the truth, and how far off are the raw numbers?

    python benchmarks/decomposition.py [--draws 1000]

prints the table of docs/decomposition.md.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.regime.decomposition import decompose, split

Floats = NDArray[np.float64]
Sample = tuple[NDArray[Any], list[list[str]] | None]
Design = Callable[[Floats, np.random.Generator], Sample]

TIME = np.linspace(0, 1, 26)
CURVES = {
    "constant 0.5": np.full(26, 0.5),
    "constant 0.05": np.full(26, 0.05),
    "dip and recover": 0.5 - 0.4 * np.exp(-(((TIME - 0.2) / 0.08) ** 2)) + 0.2 * TIME,
    "rise": 0.2 + 0.7 * TIME,
    "one bad evaluation": np.where(np.arange(26) == 9, 0.2, 0.6),
}
DATASET = 0.45
PARTS = ("stability", "plasticity", "plasticity_over_prior")


def independent(theta: Floats, rng: np.random.Generator) -> Sample:
    """20 binary episodes an evaluation, fresh ones each time."""
    return rng.binomial(1, theta[:, None], (theta.size, 20)), None


def paired(theta: Floats, rng: np.random.Generator) -> Sample:
    """50 prompts, the same ones each time, 2 binary samples of each."""
    difficulty = rng.beta(1, 1, 50) - 0.5
    spread = 2 * np.minimum(theta, 1 - theta)[:, None]
    chance = np.repeat(theta[:, None] + spread * difficulty, 2, axis=1)
    names = [str(i // 2) for i in range(100)]
    return rng.binomial(1, chance), [names] * theta.size


def gaussian(theta: Floats, rng: np.random.Generator) -> Sample:
    """10 Gaussian returns an evaluation, standard deviation 0.2, a seed each."""
    return theta[:, None] + 0.2 * rng.standard_normal((theta.size, 10)), None


DESIGNS = {"20 binary": independent, "50 prompts x 2": paired, "10 Gaussian": gaussian}


def draw(seed: int, theta: Floats, design: Design, resamples: int) -> list[list[float]]:
    """Decompose one simulated curve: errors, coverage, widths."""
    rng = np.random.default_rng(seed)
    curve, units = design(theta, rng)
    found = decompose(curve, units=units, prior_dataset=DATASET, rng=rng, resamples=resamples)
    truth, corrected = split(theta, DATASET), found.corrected
    assert corrected is not None
    row = []
    for name in PARTS:
        true, (low, high) = getattr(truth, name), getattr(corrected, name)
        inside = low - 1e-12 <= true <= high + 1e-12
        point = getattr(corrected.parts, name)
        row.append([getattr(found, name) - true, point - true, inside, high - low])
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    settings = parser.parse_args()
    print("| curve | an evaluation is | part | measured | corrected | covered | width |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor(2) as pool:
        for curve, theta in CURVES.items():
            for design, sample in DESIGNS.items():
                work = partial(draw, theta=theta, design=sample, resamples=settings.resamples)
                rows = np.array([*pool.map(work, range(settings.draws), chunksize=25)])
                for name, part in zip(PARTS, rows.mean(axis=0), strict=True):
                    raw, corrected, covered, width = part
                    print(
                        f"| {curve} | {design} | {name.replace('_', ' ')} | {raw:+.2f} "
                        f"| {corrected:+.2f} | {covered:.3f} | {width:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
