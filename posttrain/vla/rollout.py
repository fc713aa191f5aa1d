"""Episodes of a policy in its environments, as many at a time as there are slots.

A slot whose episode is over takes the next one, so that a policy decides on full batches. Each
episode draws from a stream of random numbers of its own: what it does hardly depends on which
others are played beside it, but for the last bits of a model's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Actor, Decisions, Observations, Tokens, gather
from posttrain.vla.played import Played, records

if TYPE_CHECKING:
    from posttrain.vla.environments.fleet import Fleet, Stepped

__all__ = ["Choose", "Keep", "Played", "play", "records", "run"]

Keep = Literal["none", "decisions", "frames"]
AHEAD = 8
"""Decisions whose random numbers are drawn at once."""
Choose = Callable[[Sequence[int], Sequence[int], Observations], Decisions]
"""Decides for some slots, which play the episodes at some places and see this."""


def play(
    actor: Actor,
    fleet: Fleet,
    seeds: Sequence[int],
    *,
    draws: Callable[[int], np.random.Generator],
    temperature: float,
    execute: int = 0,
    keep: Keep = "none",
    tick: Callable[[int], None] | None = None,
) -> list[Played]:
    """Play one episode from each seed.

    Args:
        actor: the policy.
        fleet: its environments.
        seeds: where episodes begin; the same seed may come several times.
        draws: a new stream of random numbers for the episode at a place among `seeds`, which is
            read ahead.
        temperature: of the sampling; 0 is greedy.
        execute: actions of a chunk that are carried out before the policy looks again; 0: all.
        keep: what an episode holds besides its outcome.
        tick: is told how many episodes are over.

    Returns:
        The episodes, in the order of `seeds`.
    """
    streams: dict[int, Iterator[npt.NDArray[np.float64]]] = {}

    def choose(_: Sequence[int], places: Sequence[int], seen: Observations) -> Decisions:
        if not temperature:
            return actor.decide(seen, np.zeros((len(seen), actor.tokens)), temperature=0.0)
        for place in places:
            if place not in streams:
                streams[place] = _drawn(draws(place), actor.tokens)
        drawn = np.array([next(streams[place]) for place in places])
        return actor.decide(seen, drawn, temperature=temperature)

    return run(choose, fleet, seeds, execute=execute, keep=keep, tick=tick)


def _drawn(stream: np.random.Generator, tokens: int) -> Iterator[npt.NDArray[np.float64]]:
    """Uniform numbers, `[tokens]` for each decision, some decisions at a time."""
    while True:
        yield from stream.random((AHEAD, tokens))


def run(
    choose: Choose,
    fleet: Fleet,
    seeds: Sequence[int],
    *,
    execute: int = 0,
    keep: Keep = "none",
    tick: Callable[[int], None] | None = None,
) -> list[Played]:
    """Play one episode from each seed, deciding by a function that also knows slots and places.

    Args:
        choose: decides for all slots that play.
        fleet: its environments.
        seeds: where episodes begin.
        execute: actions of a chunk that are carried out; 0: all.
        keep: what an episode holds besides its outcome.
        tick: is told how many episodes are over.
    """
    done: dict[int, Played] = {}
    playing: dict[int, _Episode] = {}
    waiting = 0
    while len(done) < len(seeds):
        waiting += _fill(playing, fleet, seeds, waiting)
        before = len(done)
        done |= _round(choose, fleet, playing, execute=execute, keep=keep)
        if tick is not None and len(done) > before:
            tick(len(done))
    return [done[place] for place in range(len(seeds))]


@dataclass(slots=True, eq=False)
class _Episode:
    """An episode that is not over."""

    place: int
    seed: int
    task: str
    steps: int = 0
    rewards: float = 0.0
    seen: list[tuple[Observations, int]] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    frames: list[tuple[Observations, int]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    instruction: str = ""


def _fill(playing: dict[int, _Episode], fleet: Fleet, seeds: Sequence[int], waiting: int) -> int:
    """Give slots that are free the next episodes; say how many began."""
    free = [slot for slot in range(fleet.size) if slot not in playing]
    slots = free[: len(seeds) - waiting]
    if not slots:
        return 0
    some = [int(seed) for seed in seeds[waiting : waiting + len(slots)]]
    tasks = fleet.begin(slots, some)
    for i, slot in enumerate(slots):
        playing[slot] = _Episode(waiting + i, some[i], tasks[i])
    return len(slots)


def _round(
    choose: Choose, fleet: Fleet, playing: dict[int, _Episode], *, execute: int, keep: Keep
) -> dict[int, Played]:
    """One decision in every slot, carried out; the episodes that it ended, by place."""
    slots = sorted(playing)
    seen = fleet.observe(slots)
    decided = choose(slots, [playing[slot].place for slot in slots], seen)
    chunk = decided.actions.shape[1]
    if execute > chunk:
        raise ValueError(f"execute: a decision holds {chunk} actions, {execute} were asked for")
    _note([playing[slot] for slot in slots], seen, decided, keep=keep)
    ended: dict[int, Played] = {}
    live = list(range(len(slots)))
    for k in range(execute or chunk):
        if keep == "frames":
            _film(playing, fleet, slots, live)
        found = fleet.step([slots[i] for i in live], decided.actions[live, k])
        over: list[tuple[int, Stepped]] = []
        for i, step in zip(live, found, strict=True):
            episode = playing[slots[i]]
            episode.steps += 1
            episode.rewards += step.reward
            if keep == "frames":
                episode.actions.append(decided.actions[i, k])
                episode.gains.append(step.reward)
            if step.terminated or step.truncated:
                over.append((i, step))
        if keep == "frames":
            _film(playing, fleet, slots, [i for i, _ in over])
        for i, step in over:
            episode = playing.pop(slots[i])
            ended[episode.place] = _played(episode, step)
        live = [i for i in live if slots[i] in playing]
        if not live:
            break
    return ended


def _note(
    episodes: Sequence[_Episode], seen: Observations, decided: Decisions, *, keep: Keep
) -> None:
    for i, episode in enumerate(episodes):
        episode.instruction = seen.instructions[i]
        if keep != "none":
            episode.seen.append((seen, i))
            episode.tokens.append(decided.tokens[i])


def _film(
    playing: Mapping[int, _Episode], fleet: Fleet, slots: Sequence[int], live: Sequence[int]
) -> None:
    if not live:
        return
    shown = fleet.observe([slots[i] for i in live])
    for row, i in enumerate(live):
        playing[slots[i]].frames.append((shown, row))


def _played(episode: _Episode, last: Stepped) -> Played:
    kept: dict[str, Any] = {}
    if episode.seen:
        kept |= {"seen": gather(episode.seen), "tokens": np.array(episode.tokens)}
    if episode.frames:
        kept |= {
            "frames": gather(episode.frames).images,
            "actions": np.stack(episode.actions),
            "gains": np.array(episode.gains, np.float32),
        }
    return Played(
        seed=episode.seed,
        task=episode.task,
        instruction=episode.instruction,
        success=last.success,
        steps=episode.steps,
        rewards=episode.rewards,
        truncated=last.truncated,
        **kept,
    )
