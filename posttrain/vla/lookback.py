"""What a diagnosis of a robot policy says beside its verdict, in files of the record.

`tasks.json` has the verdict task by task, `signal.json` the share of groups that will teach
nothing, `parity.json` whether RL's environment agrees with the evaluation that was diagnosed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain import progress, record
from posttrain.outcome import unit_means
from posttrain.regime import Flag
from posttrain.regime.signal import silent_share
from posttrain.regime.statistics import clustered_mean
from posttrain.regime.tasks import by_task as diagnose_tasks
from posttrain.vla.played import records
from posttrain.vla.rollout import play
from posttrain.vla.scripted import Random
from posttrain.vla.work import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from posttrain.record import MetricsLog
    from posttrain.regime.scores import Scores
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.starts import Start

CHANCE = 6
"""What these streams of draws are for."""


def flags_of_data(work: Run) -> tuple[Flag, ...]:
    """What was found when D was scored."""
    found = record.read_json(work.record.data / "account.json")
    return tuple(Flag(kind, text) for kind, text in found["flags"])


def chance(work: Run, fleet: Fleet, starts: Sequence[Start]) -> None:
    """Measure random actions from the starts where pi_0 is measured: what success is worth."""
    some = starts[: work.recipe.diagnose.floor]
    if not some:
        return
    played = play(
        Random(fleet.action_space),
        fleet,
        [start.seed for start in some],
        draws=lambda place: np.random.default_rng((work.recipe.seed, CHANCE, some[place].seed)),
        temperature=1.0,
    )
    rows = records(
        played,
        work.recipe.environment.returns,
        max_steps=fleet.max_steps,
        split="heldout",
        decoding="rollout",
    )
    won = sum(bool(row["success"]) for row in rows)
    scale, alpha = work.recipe.diagnose.scale, work.recipe.diagnose.alpha
    mean = clustered_mean([row["return"] for row in rows], level=1 - alpha, bounds=scale)
    found = {
        "return": mean.mean,
        "success": won / len(rows),
        "episodes": len(rows),
        "interval": [mean.low, mean.high],
    }
    record.write_json(work.record.floor_file, found)
    progress.say(
        f"Random actions return {mean.mean:.3f}, and succeed in {won} of {len(rows)} episodes."
    )


def by_task(work: Run, scores: Scores) -> None:
    """The verdict of every task, partially pooled, where there are several."""
    settings = work.recipe.diagnose
    held = scores.where(split="heldout")
    policy = held.where(source="policy").where(decoding=settings.decides)
    dataset = held.where(source="dataset")
    if policy.task is None or dataset.task is None:
        return
    shared = {*policy.task.tolist()} & {*dataset.task.tolist()}
    if len(shared) < 2:
        return
    found = diagnose_tasks(
        policy, dataset, margin=settings.margin, alpha=settings.alpha, scale=settings.scale
    )
    record.write_json(work.record.path / "tasks.json", found.to_dict(), nan_as_null=True)


def silence(work: Run, scores: Scores) -> None:
    """Say how many of RL's groups will have no two different returns at first."""
    rl = work.recipe.rl
    if rl is None or rl.algorithm == "sft":
        return
    group = int(rl.trainer.get("num_generations", 8))
    held = scores.where(source="policy", split="heldout").where(decoding="rollout")
    found = silent_share(held, group)
    record.write_json(work.record.path / "signal.json", asdict(found), nan_as_null=True)
    progress.say(
        f"Of groups of {group} episodes, {found.share:.0%} ({found.low:.0%} to {found.high:.0%}) "
        "are expected to have equal returns, and teach nothing."
    )


def parity(work: Run, curve: MetricsLog) -> None:
    """Compare RL's first evaluation of pi_0 with the diagnosis', start by start.

    The same policy at the same starts: a difference is one of environment or decoding.
    """
    rows, scores = curve.read(), work.record.scores()
    if not rows or scores is None:
        return
    first = rows[0]
    rl = dict(zip(first["unit"], first["return"], strict=True))
    held = scores.where(source="policy", split="heldout").where(decoding="rollout")
    sft = unit_means(held.rows())
    shared = [unit for unit in sft if unit in rl]
    if len(shared) < 2 or first["step"] != 0:
        return
    low, high = work.recipe.diagnose.scale
    change = clustered_mean(
        [rl[unit] - sft[unit] for unit in shared],
        level=1 - work.recipe.diagnose.alpha,
        bounds=(low - high, high - low),
    )
    record.write_json(work.record.path / "parity.json", _parity(sft, rl, shared, change))


def _parity(
    sft: dict[str, float], rl: dict[str, float], shared: list[str], change: Any
) -> dict[str, Any]:
    agrees = bool(change.low <= 0 <= change.high)
    before, after = (float(np.mean([side[u] for u in shared])) for side in (sft, rl))
    told = (
        f"Before its first step RL measured pi_0 at {after:.3f} on {len(shared)} starts, the "
        f"diagnosis at {before:.3f}: "
    )
    told += (
        "they agree."
        if agrees
        else "they differ by more than chance, so look for a difference of environment or decoding."
    )
    if not agrees:
        progress.say(told)
    return {
        "pi0": before,
        "rl": after,
        "difference": change.mean,
        "interval": [change.low, change.high],
        "units": len(shared),
        "ok": agrees,
        "text": told,
    }
