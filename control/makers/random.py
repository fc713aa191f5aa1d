"""What does an environment give to somebody who knows nothing: uniform random actions?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from control.datasets.dataset import Dataset
from control.makers.gather import gather, local_dataset, local_name
from control.rollout import Act, Floats, Ints, Streams, players
from control.settings import EnvSettings

__all__ = ["make_random"]


def make_random(
    settings: EnvSettings,
    *,
    seed: int,
    episodes: int | None = None,
    decisions: int | None = None,
    name: str | None = None,
    envs: int = 4,
) -> Dataset:
    """Record a policy that draws every action uniformly from [-1, 1].

    Args:
        settings: Any environment.
        seed: Decides everything, bit for bit.
        episodes: How many, or
        decisions: how many decisions at least (whole episodes).
        name: Such as "local/hopper-random"; made from the environment's id if None.
        envs: How many environments take turns; changes nothing but speed.

    Raises:
        EnvError: As `make` and `gather`.
    """
    name = local_name(settings, "random", name)
    with players(settings, envs) as made:
        size = made[0].actions

        def behaviour(seeds: Sequence[int]) -> Act:
            streams = Streams(seeds)

            def act(_: Floats, slots: Ints) -> npt.ArrayLike:
                return 2.0 * streams.uniform(slots, size) - 1.0

            return act

        whole = gather(
            behaviour, settings, envs=made, seed=seed, episodes=episodes, decisions=decisions
        )
        return local_dataset(
            whole,
            settings,
            name=name,
            envs=made,
            about={
                "maker": "random",
                "seed": seed,
                "episodes": episodes,
                "decisions": decisions,
            },
        )
