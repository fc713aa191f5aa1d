"""J(D): what every demonstration returned, how that is known, and what a reader must know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.regime import Flag
from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode, Origin
from posttrain.vla.starts import return_of, unit_of_episode

if TYPE_CHECKING:
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.replayed import Replayed
    from posttrain.vla.settings import DataSettings, EnvironmentSettings

FILTERED = 50
"""So many stored successes and no failure look like data that was filtered by success."""
NEEDED = "environment.returns.kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One episode's fate, or why it is not known."""

    success: bool | None
    steps: int
    rewards: float | None
    origin: Origin
    reason: str | None = None
    """Why it has no return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemonstrationScores:
    """The returns of D."""

    records: list[dict[str, Any]]
    """One an episode, as `posttrain.regime.Scores.from_rows` takes them."""
    account: str
    """How they are known, in one sentence."""
    flags: tuple[Flag, ...]


def scores_of(
    demonstrations: Demonstrations,
    data: DataSettings,
    environment: EnvironmentSettings,
    *,
    heldout: int,
) -> DemonstrationScores:
    """Give every episode of D its return.

    Args:
        demonstrations: D, its held-out episodes last.
        data: `returns` says how success is known.
        environment: which return, and where actions are replayed.
        heldout: how many episodes are held out.

    Raises:
        DemonstrationsError: D does not hold what `data.returns` wants.
    """
    limit = limit_of(environment)
    if data.returns == "replayed":
        judged, limit = _replayed(demonstrations, environment)
    else:
        judged = _JUDGES[data.returns](demonstrations, environment)
    cloned = len(demonstrations.episodes) - heldout
    records = [
        _record(number, episode, fate, environment, limit, heldout=number >= cloned)
        for number, (episode, fate) in enumerate(zip(demonstrations.episodes, judged, strict=True))
    ]
    return DemonstrationScores(
        records=records,
        account=_account(judged, demonstrations.episodes, environment),
        flags=tuple(_flags(judged, data)),
    )


def limit_of(environment: EnvironmentSettings) -> int:
    """The step limit, which only a time penalty asks for; the environment is made for it."""
    if environment.max_steps is not None:
        return environment.max_steps
    if environment.returns.time_penalty == 0:
        return 1
    from posttrain.vla.environments.make import make_fleet

    fleet = make_fleet(replace(environment, envs=1, vector="sync"))
    try:
        return fleet.max_steps
    finally:
        fleet.close()


def _summed(demonstrations: Demonstrations, episode: Episode) -> float | None:
    if demonstrations.rewards is None:
        return None
    rows = slice(episode.begin, episode.begin + episode.length)
    return float(demonstrations.rewards[rows].sum(dtype=np.float64))


def _stored(demonstrations: Demonstrations, environment: EnvironmentSettings) -> list[Judged]:
    found = []
    by_rewards = environment.returns.kind == "rewards"
    for episode in demonstrations.episodes:
        rewards = _summed(demonstrations, episode)
        known = rewards is not None if by_rewards else episode.success is not None
        found.append(
            Judged(
                success=episode.success,
                steps=episode.length,
                rewards=rewards,
                origin=episode.origin if episode.success is not None else "stored",
                reason=None if known else "D does not say whether it succeeded",
            )
        )
    if all(fate.reason is not None for fate in found):
        raise DemonstrationsError(_missing(demonstrations, by_rewards=by_rewards))
    return found


def _missing(demonstrations: Demonstrations, *, by_rewards: bool) -> str:
    wanted, column, kind = ("success", "success", "rewards")
    if by_rewards:
        wanted, column, kind = ("rewards", "reward", "success")
    has = (
        any(episode.success is not None for episode in demonstrations.episodes)
        if by_rewards
        else demonstrations.rewards is not None
    )
    other = f" It holds {kind}: {NEEDED}: {kind} makes that the return." if has else ""
    assumed = "" if by_rewards else ", or assumed takes every episode for a success"
    return (
        f"data.returns: {demonstrations.name} holds no {wanted}; data.columns.{column} names the "
        f"column that does, data.returns: replayed makes D's actions once more in the environment"
        f"{assumed}.{other}"
    )


def _assumed(demonstrations: Demonstrations, environment: EnvironmentSettings) -> list[Judged]:
    if environment.returns.kind == "rewards":
        raise DemonstrationsError(
            f"data.returns: assumed says that episodes succeed, and {NEEDED} is rewards; wanted is "
            "stored or replayed"
        )
    return [
        Judged(
            success=True,
            steps=episode.length,
            rewards=_summed(demonstrations, episode),
            origin="assumed",
        )
        for episode in demonstrations.episodes
    ]


_JUDGES = {"stored": _stored, "assumed": _assumed}


def _replayed(
    demonstrations: Demonstrations, environment: EnvironmentSettings
) -> tuple[list[Judged], int]:
    """Fates in the simulator, and the step limit there."""
    from posttrain.vla.environments.make import make_fleet
    from posttrain.vla.replayed import replay

    fleet: Fleet = make_fleet(environment)
    try:
        found = replay(demonstrations, fleet)
        limit = fleet.max_steps
    finally:
        fleet.close()
    if all(fate.reason is not None for fate in found):
        raise DemonstrationsError(
            f"data.returns: none of {demonstrations.name}'s {len(found)} episodes could be "
            f"replayed: {found[0].reason}"
        )
    return [_of_replay(fate) for fate in found], limit


def _of_replay(fate: Replayed) -> Judged:
    known = fate.reason is None
    return Judged(
        success=fate.success if known else None,
        steps=fate.steps,
        rewards=fate.rewards if known else None,
        origin="replayed",
        reason=fate.reason,
    )


def _record(
    number: int,
    episode: Episode,
    fate: Judged,
    environment: EnvironmentSettings,
    limit: int,
    *,
    heldout: bool,
) -> dict[str, Any]:
    value = None
    if fate.reason is None:
        value = return_of(
            environment.returns,
            success=bool(fate.success),
            steps=fate.steps,
            max_steps=limit,
            rewards=fate.rewards or 0.0,
        )
    return {
        "source": "dataset",
        "unit": unit_of_episode(episode, number),
        "task": episode.task,
        "return": value,
        "success": fate.success,
        "steps": fate.steps,
        "unscorable": fate.reason is not None,
        "text": fate.reason,
        "split": "heldout" if heldout else "seen",
    }


def _account(
    judged: Sequence[Judged], episodes: Sequence[Episode], environment: EnvironmentSettings
) -> str:
    what = "success" if environment.returns.kind == "success" else "rewards"
    known = Counter(fate.origin for fate in judged if fate.reason is None)
    said = {
        "stored": f"from stored {what}",
        "replayed": "from replaying their actions",
        "assumed": "assumed to be successes",
        "unknown": "from a source that D does not name",
    }
    parts = [f"{count} episodes {said[origin]}" for origin, count in sorted(known.items())]
    if not known["assumed"]:
        parts.append("0 assumed")
    reasons = Counter(fate.reason for fate in judged if fate.reason is not None)
    parts += [f"{count} without a return ({why})" for why, count in reasons.most_common(3)]
    if len(reasons) > 3:
        parts.append(f"{sum(reasons.values())} without a return in all")
    pairs = zip(episodes, judged, strict=True)
    differ = sum(
        fate.origin == "replayed" and None not in (episode.success, fate.success)
        and episode.success != fate.success
        for episode, fate in pairs
    )  # fmt: skip
    if differ:
        parts.append(f"{differ} whose stored success was another")
    blind = sum(episode.seed is None for episode in episodes)
    parts.append(
        f"{blind} with unknown starts, which cannot be paired" if blind else "all starts known"
    )
    return f"J(D): {'; '.join(parts)}."


def _flags(judged: Sequence[Judged], data: DataSettings) -> list[Flag]:
    found = []
    known = [fate for fate in judged if fate.reason is None]
    stored = [fate.success for fate in known if fate.origin in {"stored", "replayed"}]
    if data.success_filtered:
        found.append(
            Flag(
                "success_filtered",
                "The recipe says that D was collected by keeping successes: J(D) is that of the "
                "filter, and says little about the behaviour that made the data.",
            )
        )
    elif len(stored) >= FILTERED and all(stored):
        found.append(
            Flag(
                "success_filtered",
                f"All {len(stored)} demonstrations succeed, as after filtering by success: J(D) is "
                "then that of the filter, and says little about the behaviour that made the data.",
            )
        )
    assumed = sum(fate.origin == "assumed" for fate in known)
    if assumed:
        found.append(
            Flag(
                "assumed_returns",
                f"{assumed} of {len(judged)} demonstrations are taken for successes without "
                "evidence: J(D) is an upper bound there, and pi_0 can only look inferior to it.",
            )
        )
    lost = sum(fate.origin == "replayed" and fate.reason is not None for fate in judged)
    if lost:
        found.append(
            Flag(
                "diverged_replays",
                f"{lost} of {len(judged)} demonstrations could not be replayed and are left out of "
                "J(D): those that could may be the easier ones.",
            )
        )
    return found
