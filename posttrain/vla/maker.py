"""Demonstrations that an environment's own expert makes, disturbed as one likes.

Episode i of the cloned ones begins at seed BLOCK * (2 * seed + 1) + i, and held-out ones have the
block behind: no two values of `data.seed` share a start, and starts that RL trains or measures on,
which `posttrain.vla.starts` names, lie above all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from posttrain import progress
from posttrain.tuning.requirement import require
from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode, Held
from posttrain.vla.observation import Decisions, Observations, join
from posttrain.vla.played import Played
from posttrain.vla.rollout import Choose, run
from posttrain.vla.starts import TRAINING

if TYPE_CHECKING:
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.settings import DataSettings, EnvironmentSettings

BLOCK = 1_000_000
"""Seeds between the first cloned and the first held-out episode."""
SEEDS = TRAINING // (2 * BLOCK) - 1
"""How many values of `data.seed` have blocks of their own."""
PATIENCE = 20
"""Attempts for each success that is kept, before an expert is given up."""
FPS = 10.0
CHOICES = 12
"""What these streams of random numbers are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbances:
    """How demonstrations fall short of their expert: `data.options` of what is `made`.

    In a share `weak_share` of the episodes, every action is with probability `noise` a random one,
    and with probability `idle` one that only loses time, so that the demonstrator is slow. The
    others are clean. `only_success` keeps successes only, however many attempts that takes.
    """

    noise: float = 0.0
    idle: float = 0.0
    weak_share: float = 1.0
    only_success: bool = False

    def __post_init__(self) -> None:
        for name in ("noise", "idle", "weak_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must lie in [0, 1], got {value!r}")
        require(self.noise + self.idle <= 1, "noise and idle together must not exceed 1")


def make(settings: EnvironmentSettings, data: DataSettings) -> Demonstrations:
    """Make D: `data.episodes` to clone, then `data.heldout` held-out ones.

    Args:
        settings: the environment, whose `expert_action()` demonstrates.
        data: how many, from which seed, and how disturbed.

    Raises:
        DemonstrationsError: an option that there is not, or an expert that hardly ever succeeds.
        WorldError: the environment cannot be used, or has no expert.
    """
    from posttrain.vla.environments.make import make_fleet

    disturbances = read_options(data.options)
    if not 0 <= data.seed < SEEDS:
        raise DemonstrationsError(f"data.seed: wanted is 0 to {SEEDS - 1}, got {data.seed}")
    first = BLOCK * (2 * data.seed + 1)
    fleet = make_fleet(settings)
    try:
        with progress.bar("demonstrations", data.episodes + data.heldout) as bar:
            collector = _Collector(fleet, data.seed, disturbances, bar.update)
            cloned = collector.collect(data.episodes, first)
            heldout = collector.collect(data.heldout, first + BLOCK)
    finally:
        fleet.close()
    return demonstrations_of([*cloned, *heldout], settings.id, asdict(disturbances))


def read_options(options: Mapping[str, Any]) -> Disturbances:
    """Disturbances from `data.options`.

    Raises:
        DemonstrationsError: an option that there is not, or one with a wrong value.
    """
    try:
        return TypeAdapter(Disturbances).validate_python(dict(options), extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["data.options", *map(str, first["loc"])])
        raise DemonstrationsError(f"{where}: {first['msg']}, got {first['input']!r}") from error


def demonstrations_of(
    played: Sequence[Played], name: str, about: Mapping[str, Any] | None = None
) -> Demonstrations:
    """D of episodes whose frames were kept, one row a step; the last frame of each is left out.

    Args:
        played: the episodes, one decision a step.
        name: of D.
        about: for the report.
    """
    episodes, begin = [], 0
    for one in played:
        episodes.append(
            Episode(
                begin=begin,
                length=one.steps,
                instruction=one.instruction,
                task=one.task,
                seed=one.seed,
                success=one.success,
                origin="stored",
            )
        )
        begin += one.steps
    seen = join([one.seen for one in played])
    return Demonstrations(
        name=name,
        episodes=tuple(episodes),
        actions=np.concatenate([one.actions for one in played]),
        pictures=Held(seen.images),
        states=seen.states,
        rewards=np.concatenate([one.gains for one in played]),
        fps=FPS,
        about={"made": dict(about or {})},
    )


def demonstrator(fleet: Fleet, streams: Sequence[np.random.Generator], how: Disturbances) -> Choose:
    """The expert of a fleet's environments, disturbed.

    Args:
        fleet: whose environments have an expert.
        streams: of random numbers, one a place; what an episode does depends on its own alone.
        how: it is disturbed.
    """
    weak = [stream.random() < how.weak_share for stream in streams]

    def choose(slots: Sequence[int], places: Sequence[int], seen: Observations) -> Decisions:
        actions = fleet.expert_actions(slots).copy()
        drawn = [streams[place].random() if weak[place] else 1.0 for place in places]
        idle = [i for i, u in enumerate(drawn) if how.noise <= u < how.noise + how.idle]
        if idle:
            actions[idle] = fleet.idle_actions([slots[i] for i in idle])
        for i, u in enumerate(drawn):
            if u < how.noise:
                actions[i] = _random(fleet.action_space, streams[places[i]])
        return Decisions(tokens=np.zeros((len(seen), 0), np.int64), actions=actions[:, None])

    return choose


def _random(space: Any, stream: np.random.Generator) -> Any:
    if hasattr(space, "n"):
        return stream.integers(int(space.n))
    return stream.uniform(space.low, space.high).astype(space.dtype)


@dataclass(slots=True, eq=False)
class _Collector:
    fleet: Fleet
    seed: int
    how: Disturbances
    tick: Callable[[int], None]
    done: int = 0

    def collect(self, count: int, first: int) -> list[Played]:
        """So many episodes, from the seeds that begin with `first`."""
        kept: list[Played] = []
        tried = 0
        while len(kept) < count:
            wanted = count - len(kept)
            seeds = range(first + tried, first + tried + wanted)
            kept += self._some(seeds)
            tried += wanted
            if tried >= PATIENCE * count and len(kept) < count:
                raise DemonstrationsError(
                    f"data.options.only_success: {tried} attempts gave {len(kept)} successes, of "
                    f"{count} wanted; disturb the expert less"
                )
        return kept

    def _some(self, seeds: Sequence[int]) -> list[Played]:
        streams = [np.random.default_rng((self.seed, CHOICES, start)) for start in seeds]
        before, only = self.done, self.how.only_success
        choose = demonstrator(self.fleet, streams, self.how)

        def tick(done: int) -> None:
            if not only:
                self.tick(before + done)

        found = run(choose, self.fleet, seeds, keep="frames", tick=tick)
        kept = [one for one in found if one.success or not only]
        self.done += len(kept)
        if only:
            self.tick(self.done)
        return kept
