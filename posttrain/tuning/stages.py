"""The stages of a run, one after another: what is finished is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from posttrain import recipe, record
from posttrain.record import Record
from posttrain.start import Taken, take
from posttrain.tuning import training
from posttrain.tuning.world import World


def run_stages(
    settings: Any,
    at: Record,
    world: World,
    stages: Mapping[str, Callable[[], None]],
    taken: Taken,
    *,
    fresh: bool,
    stop_after: str | None,
) -> Path:
    """Run the stages that are not finished yet, and return the record's folder.

    Args:
        settings: the recipe, with `seed`, `start_from` and `threads`.
        at: its record, which no other process may be at work in.
        world: the processes of this run; the first one writes.
        stages: what each stage does, in their order.
        taken: what is taken over where the recipe names `start_from`.
        fresh: delete what an earlier run left.
        stop_after: the last stage to run.

    Raises:
        ValueError: there is no such stage, the folder belongs to another recipe, or is in use.
    """
    if stop_after is not None and stop_after not in stages:
        raise ValueError(f"--stop-after: wanted one of {', '.join(stages)}, got {stop_after!r}")
    training.silence()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    folder = at.path
    alone = record.locked(folder.parent / f".{folder.name}.lock", wait=False)
    with alone if world.main else nullcontext():
        mark = _begin(settings, at, world, taken, fresh=fresh)
        for name, stage in stages.items():
            if not world.broadcast(at.done(name, fingerprint=mark)):
                stage()
                world.wait()
                if world.main:
                    at.mark(name, fingerprint=mark)
                world.wait()
            if name == stop_after:
                break
    return folder


def _begin(settings: Any, at: Record, world: World, taken: Taken, *, fresh: bool) -> str:
    """Claim the record, and take over what another run has made."""
    text = recipe.dump(settings)
    if world.main:
        at.begin(text, seed=settings.seed, fresh=fresh, free=("output",))
    world.wait()
    mark = record.fingerprint(text)
    if world.main and settings.start_from is not None:
        take(at, recipe.read(text), Path(settings.start_from), taken, mark=mark)
    world.wait()
    return mark
