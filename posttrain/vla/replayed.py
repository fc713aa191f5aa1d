"""D's actions made once more in the simulator: does the same happen, and does it succeed?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from posttrain import progress
from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode
from posttrain.vla.observation import Floats, Images, Observations

if TYPE_CHECKING:
    from posttrain.vla.environments.fleet import Fleet

LEVELS: Final = 32
"""A pixel differs if a channel is off by more than this, of 255: renderers differ by less."""
SHARE: Final = 0.01
"""Pictures differ if more than this share of their pixels does."""
SLACK: Final = 1e-2
"""By how much a number of the state may be off, relative to its size where that is beyond 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of one episode."""

    success: bool = False
    steps: int = 0
    rewards: float = 0.0
    reason: str | None = None
    """Why it does not count: it went another way than D says, or could not be begun."""


@dataclass(slots=True)
class _Course:
    """An episode that is being replayed."""

    place: int
    episode: Episode
    steps: int = 0
    rewards: float = 0.0
    success: bool = False
    over: bool = False
    reason: str | None = field(default=None)

    @property
    def running(self) -> bool:
        """Whether D has another action for it."""
        return not self.over and self.reason is None and self.steps < self.episode.length

    @property
    def row(self) -> int:
        """D's row of the step that comes next, or of the last one."""
        return self.episode.begin + min(self.steps, self.episode.length - 1)

    def end(self) -> Replayed:
        """What became of it."""
        return Replayed(
            success=self.success, steps=self.steps, rewards=self.rewards, reason=self.reason
        )


def replay(demonstrations: Demonstrations, fleet: Fleet) -> list[Replayed]:
    """Make every episode's actions again from its seed, and compare what is seen.

    Args:
        demonstrations: D.
        fleet: the environment that D comes from.

    Returns:
        One an episode, in their order. One without a seed has a reason.
    """
    found: dict[int, Replayed] = {}
    courses = []
    for place, episode in enumerate(demonstrations.episodes):
        if episode.seed is None:
            reason = "its start's seed is not known, so it cannot be replayed"
            found[place] = Replayed(steps=episode.length, reason=reason)
        else:
            courses.append(_Course(place, episode))
    _check_sight(demonstrations, fleet)
    width = min(fleet.size, len(courses))
    with progress.bar("D replays", len(courses), speak=bool(courses)) as bar:
        for first in range(0, len(courses), max(width, 1)):
            group = courses[first : first + width]
            _play(demonstrations, fleet, [*group, *_fill(group, width)])
            found |= {course.place: course.end() for course in group}
            bar.update(first + len(group))
    return [found[place] for place in range(len(demonstrations.episodes))]


def _check_sight(demonstrations: Demonstrations, fleet: Fleet) -> None:
    shared = [name for name in fleet.cameras if name in demonstrations.pictures.shapes]
    if not shared:
        raise DemonstrationsError(
            f"data.returns: a replay is compared by its pictures, and D's cameras "
            f"{', '.join(demonstrations.pictures.shapes)} are none of the environment's "
            f"{', '.join(fleet.cameras)}; data.columns names cameras"
        )


def _fill(group: Sequence[_Course], width: int) -> Iterator[_Course]:
    """Doubles for the slots that the last group leaves empty, since all slots step together."""
    for _ in range(width - len(group)):
        yield _Course(group[-1].place, group[-1].episode)


def _play(demonstrations: Demonstrations, fleet: Fleet, group: Sequence[_Course]) -> None:
    slots = range(len(group))
    fleet.begin(slots, [course.episode.seed or 0 for course in group])
    while any(course.running for course in group):
        looking = [slot for slot in slots if group[slot].running]
        _compare(demonstrations, fleet.observe(looking), [group[slot] for slot in looking])
        acting = [slot for slot in slots if not group[slot].over]
        actions = demonstrations.actions[[group[slot].row for slot in acting]]
        for slot, step in zip(acting, fleet.step(acting, actions), strict=True):
            _count(group[slot], step)


def _count(course: _Course, step: Any) -> None:
    course.over = bool(step.terminated or step.truncated)
    if course.reason is not None or course.steps >= course.episode.length:
        return
    course.steps += 1
    course.rewards += float(step.reward)
    course.success = course.success or bool(step.success)
    if course.over and course.steps < course.episode.length:
        course.reason = "its replay ended before D's actions were used up"


def _compare(
    demonstrations: Demonstrations, seen: Observations, courses: Sequence[_Course]
) -> None:
    """Mark the episodes that see, feel or are told something else than D says."""
    texts = [course.episode.instruction for course in courses]
    wanted = demonstrations.observations([course.row for course in courses], texts)
    for at, course in enumerate(courses):
        if seen.instructions[at] != texts[at]:
            course.reason = "the environment gives another instruction at its seed than D has"
            continue
        for name, frames in wanted.images.items():
            if name in seen.images and not _alike(frames[at], seen.images[name][at]):
                course.reason = f"its replay shows camera {name} something else than D"
        if not _felt(wanted.states, seen.states, at):
            course.reason = "its replay has another state than D"


def _felt(wanted: Floats | None, seen: Floats | None, at: int) -> bool:
    if wanted is None or seen is None:
        return True
    return wanted[at].shape == seen[at].shape and np.allclose(
        wanted[at], seen[at], rtol=SLACK, atol=SLACK
    )


def _alike(a: Images, b: Images) -> bool:
    if a.shape != b.shape:
        return False
    off = np.abs(a.astype(np.int16) - b.astype(np.int16)).max(axis=-1) > LEVELS
    return bool(off.mean() <= SHARE)
