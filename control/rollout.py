"""What does a policy do in an environment, episode by episode?

Each episode is decided by its own seed, so that what comes out depends neither on how many
environments take turns nor on the order in which they end. A plain list of environments and one
batched call of the policy a step: on few cores, processes for the physics lose.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from control.datasets.dataset import Dataset
from control.environments import EnvError, Flat, make
from control.settings import EnvSettings
from posttrain.regime import Scores

__all__ = ["Act", "Episode", "Streams", "dataset_of", "play", "players", "scores"]

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

Act: TypeAlias = Callable[[Floats, Ints], npt.ArrayLike]
"""A policy: observations `[n, do]` and slots `[n]` to actions `[n, da]`.

A slot is the place of an episode in the list of seeds, whichever environment plays it. Members of
a population find their rows by it, and a stochastic policy its noise (`Streams`): noise drawn from
one generator for the whole batch would depend on which other episodes are still open.
"""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Episode:
    """One episode, whole: `actions[t]` led from `observations[t]` to `observations[t + 1]`."""

    seed: int
    observations: Floats
    """`[T + 1, do]`; the last is the true final one, also after a time-out."""
    actions: Floats
    """What was executed, in [-1, 1], `[T, da]`."""
    rewards: npt.NDArray[np.float64]
    """`[T]`."""
    terminated: bool
    """Whether the task ended, and nothing follows the last observation."""
    truncated: bool
    """Whether the horizon ended the episode, and more would have followed."""
    success: bool | None
    """Whether the environment reported success at any step; None where it has no such notion."""

    @property
    def ret(self) -> float:
        """The undiscounted return."""
        return float(self.rewards.sum())

    def __len__(self) -> int:
        return len(self.rewards)


class Streams:
    """One random stream for each episode, each independent of its environment's.

    Draws of an episode are the same whichever episodes are played beside it.

    >>> two, one = Streams([7, 8]), Streams([8])
    >>> bool((two.normal(np.array([1]), 3) == one.normal(np.array([0]), 3)).all())
    True
    """

    def __init__(self, seeds: Sequence[int], *, salt: int = 1) -> None:
        """Start a stream for each seed; another `salt` gives other, independent streams."""
        self._generators = [np.random.default_rng((salt, seed)) for seed in seeds]

    def normal(self, slots: Ints, size: int) -> npt.NDArray[np.float64]:
        """Standard normal numbers, `[n, size]`: row i from the stream of `slots[i]`."""
        return np.stack([self._generators[slot].standard_normal(size) for slot in slots])

    def uniform(self, slots: Ints, size: int) -> npt.NDArray[np.float64]:
        """Uniform numbers in [0, 1), `[n, size]`: row i from the stream of `slots[i]`."""
        return np.stack([self._generators[slot].random(size) for slot in slots])


@dataclass(slots=True, eq=False)
class _Open:
    """An episode being played."""

    env: Flat
    slot: int
    seed: int
    observations: list[Floats]
    actions: list[Floats] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success: bool | None = None

    @classmethod
    def begin(cls, env: Flat, slot: int, seed: int) -> _Open:
        return cls(env, slot, seed, [env.reset(seed=seed)[0]])

    def step(self, action: Floats) -> Episode | None:
        """Act; give the episode if this ended it."""
        observation, reward, terminated, truncated, info = self.env.advance(action)
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(reward)
        if not (terminated or truncated):
            return None
        return Episode(
            seed=self.seed,
            observations=np.stack(self.observations),
            actions=np.stack(self.actions),
            rewards=np.array(self.rewards, dtype=np.float64),
            terminated=terminated,
            truncated=truncated,
            success=info.get("success"),
        )


@contextlib.contextmanager
def players(settings: EnvSettings, envs: int = 8) -> Iterator[list[Flat]]:
    """Environments for many calls of `play`, closed at the end.

    Raises:
        EnvError: As `make`, or `envs` is not positive.
    """
    if envs < 1:
        raise EnvError(f"envs: wanted at least 1, got {envs}")
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(envs):
            made.append(make(settings))
            stack.callback(made[-1].close)
        yield made


def play(
    act: Act,
    settings: EnvSettings,
    seeds: Iterable[int],
    *,
    envs: int | Sequence[Flat] = 8,
    tick: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Play one episode a seed.

    Args:
        act: The policy.
        settings: The environment.
        seeds: One an episode.
        envs: How many environments take turns, or these (`players`), which are left open.
        tick: Told how many episodes have ended, whenever one has.

    Returns:
        Episodes in the order of `seeds`. They are the same for any `envs` if a row of `act` does
        not depend on the rows beside it; batched matrix products keep that up to rounding.

    Raises:
        EnvError: The environment cannot be made, or actions are of another shape or not finite.
    """
    todo = list(enumerate(seeds))
    if not isinstance(envs, int):
        return _play(act, envs[: len(todo)], todo, tick)
    with players(settings, min(envs, max(len(todo), 1))) as made:
        return _play(act, made, todo, tick)


def _play(
    act: Act,
    envs: Sequence[Flat],
    todo: list[tuple[int, int]],
    tick: Callable[[int], None] | None,
) -> list[Episode]:
    waiting = iter(todo)
    ended: dict[int, Episode] = {}
    playing = [_Open.begin(env, *turn) for env, turn in zip(envs, waiting, strict=False)]
    while playing:
        observations = np.array([episode.observations[-1] for episode in playing])
        slots = np.array([episode.slot for episode in playing])
        actions = _executed(act(observations, slots), playing)
        still = []
        for episode, action in zip(playing, actions, strict=True):
            whole = episode.step(action)
            if whole is None:
                still.append(episode)
                continue
            ended[episode.slot] = whole
            if tick is not None:
                tick(len(ended))
            turn = next(waiting, None)
            if turn is not None:
                still.append(_Open.begin(episode.env, *turn))
        playing = still
    return [ended[slot] for slot, _ in todo]


def _executed(actions: npt.ArrayLike, playing: list[_Open]) -> Floats:
    """Check and clip a batch of actions."""
    given = np.asarray(actions, dtype=np.float32)
    wanted = (len(playing), playing[0].env.actions)
    if given.shape != wanted:
        raise EnvError(f"act: wanted actions {wanted}, got {given.shape}")
    finite = np.isfinite(given)
    if not finite.all():
        row = int(finite.all(axis=1).argmin())
        raise EnvError(
            f"act: wanted finite actions, got {given[row].tolist()} at step "
            f"{len(playing[row].actions)} of the episode with seed {playing[row].seed}"
        )
    return given.clip(-1.0, 1.0)


def scores(
    episodes: Sequence[Episode],
    settings: EnvSettings,
    *,
    prefix: str,
    source: Literal["policy", "dataset"] = "policy",
) -> Scores:
    """Lay episodes out as the rows that a diagnosis reads.

    Args:
        episodes: At least one.
        settings: Says whether J counts the return or success.
        prefix: A unit is `prefix/seed`, so that two policies pair on the same start.
        source: Whose episodes these are.

    Raises:
        EnvError: J is to count success, and the environment has no such notion.
    """
    successes = _successes(episodes)
    if settings.score == "success":
        if successes is None:
            raise EnvError(f"score: {settings.id} has no notion of success; count the return")
        values = [float(success) for success in successes]
    else:
        values = [episode.ret for episode in episodes]
    return Scores(
        np.array(values),
        unit=np.array([f"{prefix}/{episode.seed}" for episode in episodes], dtype=object),
        source=np.full(len(episodes), source, dtype=object),
        steps=np.array([len(episode) for episode in episodes]),
        success=successes,
        truncated=np.array([not episode.terminated for episode in episodes]),
    )


def dataset_of(
    episodes: Sequence[Episode], *, name: str, about: Mapping[str, Any] | None = None
) -> Dataset:
    """Lay episodes end to end as an offline dataset.

    A step at which the task ends and the horizon is reached is terminal: nothing followed.

    Args:
        episodes: At least one.
        name: Such as "local/fork-noisy".
        about: Where they come from; values that JSON can hold.
    """
    return Dataset(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        next_observations=np.concatenate([episode.observations[1:] for episode in episodes]),
        terminals=np.concatenate([_last(episode, episode.terminated) for episode in episodes]),
        ends=np.concatenate([_last(episode, True) for episode in episodes]),
        name=name,
        success=_successes(episodes),
        about=dict(about or {}),
    )


def _last(episode: Episode, value: bool) -> npt.NDArray[np.bool_]:  # noqa: FBT001
    flags = np.zeros(len(episode), dtype=bool)
    flags[-1] = value
    return flags


def _successes(episodes: Sequence[Episode]) -> npt.NDArray[np.bool_] | None:
    """Success of each, None unless all say."""
    known = [episode.success for episode in episodes if episode.success is not None]
    return np.array(known, dtype=bool) if len(known) == len(episodes) else None
