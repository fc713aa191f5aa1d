"""The negative control of the clumsy setting: RL with the reward upside down must lose.

    python benchmarks/vla_flipped.py runs/studies/vla_regimes

Starts from the pi_0 of the study `studies/vla_regimes` and takes as many steps of plain RL, but is
paid for failing. What
is reported is the true return after it, on the starts where the study measured its arms.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from posttrain import recipe
from posttrain.vla import acting, pipeline
from posttrain.vla.settings import VlaRecipe
from posttrain.vla.starts import return_of


def flipped(*args: object, **kwargs: object) -> float:
    """What an episode would return, taken from 1."""
    return 1.0 - return_of(*args, **kwargs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--setting", default="clumsy")
    parser.add_argument("--arm", default="minimal")
    chosen = parser.parse_args()
    acting.return_of = flipped
    gains = []
    for folder in sorted((chosen.study / chosen.setting / chosen.arm).glob("seed-*")):
        plain = recipe.load(VlaRecipe, folder / "recipe.yaml")
        output, name = folder.parent.parent / "flipped", folder.name
        text = recipe.dump(plain)
        again = recipe.load(VlaRecipe, text, [f"output={output}", f"name={name}"])
        found = json.loads((pipeline.run(again) / "outcome.json").read_text())
        right = json.loads((folder / "outcome.json").read_text())
        gains.append(found["gain"])
        print(
            f"{name}: {found['before']:.3f} -> {found['after']:.3f} flipped, "
            f"{right['after']:.3f} as it is"
        )
    mean, error = np.mean(gains), stats.sem(gains)
    low, high = stats.t.interval(0.95, len(gains) - 1, mean, error)
    print(f"flipped: gain {mean:+.3f} ({low:+.3f} to {high:+.3f}) over {len(gains)} seeds")


if __name__ == "__main__":
    main()
