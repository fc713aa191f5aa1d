"""How much of the fine-tuned policy is best? A sweep of mixtures with pi_0 (LITI).

Linear interpolation towards initialisation, of WARP (arXiv 2406.16768, section 3.3): what RL gains
and what it forgets grow at different paces along the line between both weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import progress
from posttrain.intervention.reset import interpolate_
from posttrain.llm.data import Row
from posttrain.llm.measure import one_a_unit
from posttrain.llm.reward import Judge
from posttrain.llm.sampling import Generator, rollouts
from posttrain.llm.settings import Decoding
from posttrain.outcome import unit_means
from posttrain.regime.statistics import clustered_mean
from posttrain.tuning.measured import never
from posttrain.tuning.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

LEAST = 10
"""Held-out units that a choice needs at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A sweep's result: each share's return with its interval, and the best share."""

    share: float
    tried: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"share": self.share, "tried": list(self.tried)}


def units_to_choose_by(heldout: Sequence[Row], measured: frozenset[str]) -> list[Row]:
    """Held-out prompts on which neither the diagnosis nor the outcome is measured.

    Raises:
        ValueError: too few are left.
    """
    free = [row for row in one_a_unit(heldout) if row.unit not in measured]
    if len(free) < LEAST:
        raise ValueError(
            f"rl.interpolate: a share is chosen on held-out prompts that the diagnosis did not "
            f"use, and {len(free)} are left; wanted {LEAST}. Raise data.heldout above "
            "diagnose.units"
        )
    return free


def sweep(
    policy: Any,
    pi0: Mapping[str, torch.Tensor],
    shares: Sequence[float],
    *,
    generator: Callable[[Any], Generator],
    rows: Sequence[Row],
    judge: Judge,
    decoding: Decoding,
    samples: int,
    batch: int,
    seed: int,
    alpha: float,
    scale: tuple[float, float],
    folder: Path,
    world: World,
) -> Chosen:
    """Try `share` * policy + (1 - share) * pi_0 for each share, and leave the best in `policy`.

    All shares answer the same prompts with the same seeds. Of equals the largest share is chosen.

    Args:
        policy: the fine-tuned model; changed in place.
        pi0: weights of pi_0, by their names in the model.
        shares: to try, in [0, 1].
        generator: makes a generator of a model.
        rows: prompts to choose by, apart from those of the outcome.
        judge: the reward.
        decoding: the sampler of RL.
        samples: completions a prompt.
        batch: prompts at a time.
        seed: of the draws.
        alpha: level of the intervals.
        scale: lowest and highest return.
        folder: finished batches are kept here.
        world: the processes.
    """
    tuned = {name: value.detach().clone() for name, value in policy.state_dict().items()}
    tried: list[dict[str, Any]] = []
    for share in shares:
        _mix(policy, tuned, pi0, share)
        with progress.bar(f"{share:g} of the policy", len(rows), speak=world.main) as bar:
            found = rollouts(
                rows,
                generator(policy),
                judge,
                decoding,
                samples=samples,
                batch=batch,
                seed=seed,
                folder=folder / f"{share:g}",
                enough=never,
                tick=bar.update,
                world=world,
                split="heldout",
                kind="rollout",
            )
        means = unit_means(found)
        estimate = clustered_mean(list(means.values()), list(means), level=1 - alpha, bounds=scale)
        tried.append(
            {"share": share, "return": estimate.mean, "interval": [estimate.low, estimate.high]}
        )
    best = max(tried, key=lambda row: (row["return"], row["share"]))
    _mix(policy, tuned, pi0, float(best["share"]))
    return Chosen(share=float(best["share"]), tried=tuple(tried))


def _mix(
    policy: Any,
    tuned: Mapping[str, torch.Tensor],
    pi0: Mapping[str, torch.Tensor],
    share: float,
) -> None:
    policy.load_state_dict(tuned)
    if share < 1:
        interpolate_({"": policy}, pi0, keep=share)
