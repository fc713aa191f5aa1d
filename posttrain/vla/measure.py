"""Returns of a policy in its environment: played until the regime is decided, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain import progress
from posttrain.record import read_jsonl, write_jsonl
from posttrain.regime.logs import PLAIN, Reading
from posttrain.regime.scores import Scores, concat
from posttrain.tuning.measured import Records, never, stopping_rule
from posttrain.vla.returns import limit_of
from posttrain.vla.rollout import play, records
from posttrain.vla.starts import Start, seed_of

if TYPE_CHECKING:
    from posttrain.tuning.world import World
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.observation import Actor
    from posttrain.vla.settings import Decoding, EnvironmentSettings, VlaRecipe

DIAGNOSIS = 3
"""What these streams of draws are for; `posttrain.vla.acting` has the others."""


def episodes(
    recipe: VlaRecipe,
    actor: Actor,
    fleet: Fleet,
    starts: Sequence[Start],
    *,
    decoding: Decoding,
    kind: str,
    split: str,
    folder: Path,
    enough: Callable[[Records], bool],
    world: World,
    tick: Callable[[int], None],
) -> Records:
    """Play from `starts`, batch by batch, until there is enough.

    What a batch played is written to `folder` before the next begins, so that a killed run goes
    on behind it. Draws depend on the start and the sample alone.

    Args:
        recipe: of the run.
        actor: the policy.
        fleet: environments of this process.
        starts: where to play, in order.
        decoding: how actions are drawn; greedy plays once a start.
        kind: `rollout` or `deployment`, for the table.
        split: `heldout` or `seen`, for the table.
        folder: one file a batch.
        enough: whether what has been played suffices.
        world: the processes, which share each batch.
        tick: is told how many starts are done.
    """
    samples = 1 if decoding.temperature == 0 else recipe.diagnose.samples
    size, found = recipe.diagnose.batch, []
    for number, first in enumerate(range(0, len(starts), size)):
        batch = starts[first : first + size]
        file = folder / f"{number:05d}.jsonl"
        if not world.broadcast(file.exists()):
            mine = world.share([(s, k) for s in batch for k in range(samples)])
            played = play(
                actor,
                fleet,
                [start.seed for start, _ in mine],
                draws=_streams(recipe.seed, mine),
                temperature=decoding.temperature,
                execute=recipe.model.actions.execute,
                keep="none",
            )
            rows = records(
                played,
                recipe.environment.returns,
                max_steps=fleet.max_steps,
                samples=[k for _, k in mine],
                split=split,
                decoding=kind,
            )
            rows = world.gather(rows)
            if world.main:
                write_jsonl(file, rows)
        world.wait()
        found += read_jsonl(file)
        tick(first + len(batch))
        if enough(found):
            break
    return found


def _streams(seed: int, pairs: Sequence[tuple[Start, int]]) -> Callable[[int], np.random.Generator]:
    return lambda place: np.random.default_rng(
        (seed, DIAGNOSIS, pairs[place][0].seed, pairs[place][1])
    )


def reading(environment: EnvironmentSettings) -> Reading:
    """How somebody else's log is read: with the return that D has."""
    penalty = environment.returns.time_penalty
    if penalty == 0:
        return PLAIN
    return Reading(time_penalty=penalty, max_steps=limit_of(environment))


def side_by_side(
    demonstrations: Sequence[Mapping[str, Any]], played: Records, max_steps: int | None
) -> Scores:
    """Both sides as one table.

    A demonstration that did not succeed within the limit on steps was truncated. Success is left
    out where one side does not know it, as somebody else's log may not; so is truncation where
    the limit is not known.
    """
    told = [dict(row) for row in demonstrations]
    if max_steps is not None:
        told = [
            {"truncated": not row["success"] and int(row["steps"]) >= max_steps, **row}
            for row in told
        ]
    sides = [Scores.from_rows(side) for side in (told, played)]
    for name in ("success", "truncated", "task"):
        if any(getattr(side, name) is None for side in sides):
            sides = [replace(side, **{name: None}) for side in sides]  # type: ignore[arg-type]
    return concat(*sides)


def policy(
    recipe: VlaRecipe,
    actor: Actor,
    fleet: Fleet,
    starts: Sequence[Start],
    *,
    seen: Sequence[Start],
    demonstrations: Sequence[Mapping[str, object]],
    folder: Path,
    world: World,
) -> Records:
    """Play pi_0: under the decoding that decides until the regime is clear, then the other.

    Both are measured from the same starts, and so is RL's on some starts that were cloned.
    """
    stop = stopping_rule(recipe.diagnose, demonstrations)
    first, second = ("rollout", "deployment")
    if recipe.diagnose.decides == "deployment":
        first, second = second, first
    found: Records = []
    plays = (
        (first, "heldout", starts, stop),
        (second, "heldout", starts, never),
        ("rollout", "seen", seen, never),
    )
    for kind, split, where, enough in plays:
        same = where
        if kind == second and split == "heldout":
            drawn = {seed_of(row["unit"]) for row in found}
            same = [start for start in where if start.seed in drawn]
        title = f"pi_0 plays, {'as deployed' if kind == 'deployment' else 'as in RL'}"
        if not same:
            continue
        with progress.bar(title, len(same), speak=world.main) as bar:
            found += episodes(
                recipe,
                actor,
                fleet,
                same,
                decoding=recipe.rollout if kind == "rollout" else recipe.deployment,
                kind=kind,
                split=split,
                folder=folder / f"{kind}_{split}",
                enough=enough,
                world=world,
                tick=bar.update,
            )
    return found
