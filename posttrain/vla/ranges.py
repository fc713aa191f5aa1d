"""Between which ends the numbers of an action are cut: D's quantiles, or a checkpoint's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

Numbers = tuple[float, ...]


class ActionsError(ValueError):
    """Actions that cannot be tokens, or tokens that are no actions, and why."""


def ranges(
    numbers: npt.NDArray[np.float64], quantiles: tuple[float, float]
) -> tuple[Numbers, Numbers]:
    """Quantiles of each column; its least and greatest number where the quantiles coincide."""
    low, high = np.quantile(numbers, quantiles, axis=0)
    flat = high <= low
    low, high = np.where(flat, numbers.min(0), low), np.where(flat, numbers.max(0), high)
    return tuple(low.tolist()), tuple(high.tolist())


def read_statistics(name: str, dimensions: int) -> tuple[Numbers, Numbers]:
    """Ranges from a file as OpenVLA's checkpoints bring along (`dataset_statistics.json`).

    Args:
        name: a JSON file of data set -> `action` -> `q01`, `q99` and, optionally, `mask`; with
            `#` and the name of a data set where there are several. Numbers that the mask leaves
            out are in [-1, 1] as they are.
        dimensions: of the action space.

    Raises:
        ActionsError: no such file or data set, or ranges that do not fit.
    """
    file, _, key = name.partition("#")
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        key = key or (next(iter(found)) if len(found) == 1 else "")
        held = found[key]["action"]
        low, high = np.array(held["q01"], dtype=float), np.array(held["q99"], dtype=float)
        mask = np.array(held.get("mask", [True] * len(low)), dtype=bool)
    except KeyError as error:
        raise ActionsError(
            f"model.actions.statistics: {file} has no {error}; it holds {sorted(found)}; name one "
            "as FILE#NAME"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ActionsError(f"model.actions.statistics: cannot read {file!r}: {error}") from error
    if not low.shape == high.shape == mask.shape == (dimensions,):
        raise ActionsError(
            f"model.actions.statistics: q01, q99 and mask must have {dimensions} numbers each, got "
            f"{low.shape}, {high.shape} and {mask.shape}"
        )
    low, high = np.where(mask, low, -1.0), np.where(mask, high, 1.0)
    return tuple(low.tolist()), tuple(high.tolist())
