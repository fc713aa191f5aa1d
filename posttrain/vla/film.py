"""Films of episodes: what D, pi_0 and the fine-tuned policy do from the same starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from posttrain import record
from posttrain.vla.observation import Images
from posttrain.vla.reel import Reel, last, moving, small, strip
from posttrain.vla.rollout import play
from posttrain.vla.starts import Start, return_of, unit_of, unit_of_episode

if TYPE_CHECKING:
    from pathlib import Path

    from posttrain.vla.demonstrations import Demonstrations
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.observation import Actor
    from posttrain.vla.work import Run

Side = Literal["data", "pi0", "finetuned"]

SIDES: Final[tuple[Side, ...]] = ("data", "pi0", "finetuned")
DRAWS = 5
"""What the streams of draws of films are for; `posttrain.vla.measure` has another."""


def film_policy(
    work: Run, actor: Actor, fleet: Fleet, starts: Sequence[Start], *, side: Side
) -> None:
    """Film a policy from the first starts, or from those that other sides were filmed from.

    Args:
        work: the run, whose recipe says how many films and which decoding decides.
        actor: the policy.
        fleet: its environments.
        starts: where it was measured.
        side: whose films these are.
    """
    recipe = work.recipe
    seeds = _seeds(work, starts, side)
    if not seeds:
        return
    deciding = recipe.rollout if recipe.diagnose.decides == "rollout" else recipe.deployment
    played = play(
        actor,
        fleet,
        seeds,
        draws=lambda place: np.random.default_rng((recipe.seed, DRAWS, seeds[place])),
        temperature=deciding.temperature,
        execute=recipe.model.actions.execute,
        keep="frames",
    )
    reels = [
        Reel(
            unit=unit_of(one.task, one.seed),
            instruction=one.instruction,
            success=one.success,
            value=return_of(
                recipe.environment.returns,
                success=one.success,
                steps=one.steps,
                max_steps=fleet.max_steps,
                rewards=one.rewards,
            ),
            steps=one.steps,
            frames=_in_memory(one.frames),
            length=one.steps + 1,
        )
        for one in played
    ]
    write_films(work.record.films, side, reels)


def film_data(work: Run) -> None:
    """Film the demonstrations from the starts of pi_0's films, or the first held-out ones."""
    found, count = work.heldout, work.recipe.diagnose.film
    filmed = [film["unit"] for film in _index(work.record.films) if film["side"] != "data"]
    first = len(work.demonstrations.episodes) - len(found.episodes)
    units = [unit_of_episode(e, first + i) for i, e in enumerate(found.episodes)]
    chosen = [units.index(unit) for unit in dict.fromkeys(filmed) if unit in units]
    chosen = chosen or list(range(min(count, len(units))))
    if not count or not chosen:
        return
    returns = _returns(work)
    reels = [_demonstration(found, i, units[i], returns.get(units[i])) for i in chosen[:count]]
    write_films(work.record.films, "data", reels)


def _demonstration(
    found: Demonstrations, place: int, unit: str, score: Mapping[str, Any] | None
) -> Reel:
    episode = found.episodes[place]

    def frames(some: Sequence[int]) -> Mapping[str, Images]:
        return found.pictures.read([episode.begin + i for i in some])

    return Reel(
        unit=unit,
        instruction=episode.instruction,
        success=episode.success if score is None else score.get("success", episode.success),
        value=None if score is None else score.get("return"),
        steps=episode.length,
        frames=frames,
        length=episode.length,
    )


def _returns(work: Run) -> dict[str, Mapping[str, Any]]:
    file = work.record.data / "demonstration_scores.jsonl"
    return {row["unit"]: row for row in record.read_jsonl(file)} if file.exists() else {}


def _in_memory(held: Mapping[str, Images]) -> Callable[[Sequence[int]], Mapping[str, Images]]:
    return lambda some: {name: pixels[list(some)] for name, pixels in held.items()}


def _seeds(work: Run, starts: Sequence[Start], side: Side) -> list[int]:
    """The starts that the other policy was filmed from; the first ones where there is none."""
    count = work.recipe.diagnose.film
    films = _index(work.record.films)
    filmed = [f["unit"] for f in films if f["side"] not in ("data", side)]
    known = {start.unit: start.seed for start in starts}
    same = [known[unit] for unit in filmed if unit in known]
    return (same or [start.seed for start in starts])[:count]


def _index(folder: Path) -> list[dict[str, Any]]:
    file = folder / "index.json"
    found: list[dict[str, Any]] = record.read_json(file) if file.exists() else []
    return found


def write_films(folder: Path, side: Side, reels: Sequence[Reel]) -> None:
    """Write a side's films beside the others', in place of those that it had.

    Args:
        folder: gets `{side}_{i}.gif`, `{side}_{i}.png`, `{side}_{i}_last.png` and `index.json`.
        side: whose films they are.
        reels: the episodes.
    """
    rows = [film for film in _index(folder) if film["side"] != side]
    for i, reel in enumerate(reels):
        files = {
            "gif": (f"{side}_{i}.gif", small(reel, moving)),
            "strip": (f"{side}_{i}.png", small(reel, strip)),
            "still": (f"{side}_{i}_last.png", small(reel, last)),
        }
        for name, content in files.values():
            with record.replacing(folder / name) as temporary:
                temporary.write_bytes(content)
        rows.append(
            {
                "side": side,
                "unit": reel.unit,
                "instruction": reel.instruction,
                "success": None if reel.success is None else bool(reel.success),
                "return": reel.value,
                "steps": reel.steps,
                **{key: name for key, (name, _) in files.items()},
            }
        )
    rows.sort(key=lambda film: (SIDES.index(film["side"]), film["gif"]))
    record.write_json(folder / "index.json", rows, nan_as_null=True)
