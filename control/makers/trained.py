"""What do policies of every level do? D4RL's way: train one, and keep what it lived through.

Fu et al. 2020 (arXiv 2004.07219), section 5: "medium" is a policy stopped at about a third of the
way from random actions to the expert, "medium-replay" all that it had done until then, "expert" the
policy at its best. The scale's ends, random and expert, are measured here and kept with the data.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from control.acting import act_of
from control.agent import Agent
from control.algorithm_settings import NetworkSettings, SacSettings
from control.datasets.dataset import Dataset, DatasetWarning
from control.environments import EnvError, Flat
from control.experience import seeds_of
from control.makers.gather import gather, local_dataset
from control.makers.online import Online, OnlineSettings, learn
from control.rollout import Act, Episode, Floats, Ints, Streams, play, players
from control.settings import EnvSettings, TrainedMaker

__all__ = ["make_trained", "quick"]

MEDIUM = 1 / 3
"""Where "medium" lies between random and expert."""
LOOKS = 20
"""How often a policy is measured on its way."""
STARTS = 10
"""Episodes of one measurement."""


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """The policy at one moment."""

    step: int
    worth: float
    """Mean return without noise."""
    actor: dict[str, Tensor]
    episodes: int
    """How many had ended."""


def quick(settings: EnvSettings) -> OnlineSettings:
    """SAC of a size for small tasks: Pendulum, InvertedDoublePendulum, mazes of points."""
    rate = 1e-3
    return OnlineSettings(
        env=settings,
        algorithm=SacSettings(actor_lr=rate, critic_lr=rate, temperature_lr=rate),
        networks=NetworkSettings(actor=(64, 64), critic=(64, 64), critic_norm=True),
        batch=64,
    )


def make_trained(
    settings: EnvSettings,
    maker: TrainedMaker,
    *,
    seed: int,
    name: str | None = None,
    training: OnlineSettings | None = None,
    envs: int = 4,
) -> Dataset:
    """Train SAC in an environment, and record one level of it.

    Times on one thread: Pendulum-v1 in 8 000 steps about 30 s, InvertedDoublePendulum-v5 in 12 000
    about 40 s. Hopper-v5 wants 100 000 and more, and `training` with 256 units a layer and batches
    of 256: a quarter of an hour at least.

    Args:
        settings: Any environment.
        maker: The level, the steps of the whole training, which set the scale's upper end whatever
            the level, and how many episodes are played by "medium" and "expert" (100 if None), or
            kept of "medium-replay", the last so many.
        seed: Decides everything, bit for bit on one machine.
        name: Such as "local/hopper-medium"; made from the environment's id if None.
        training: How to train; `quick` if None.
        envs: How many environments take turns in playing; changes nothing but speed.

    Raises:
        EnvError: Too few steps to learn anything, or for an episode to end.
    """
    training = training or quick(settings)
    with players(settings, envs) as made:
        lowest = _worth(_uniform(made[0].actions, seed), settings, seed, made)
        online, looks = _train(training, seed, maker.steps, made)
        look = _choose(maker, looks, lowest)
        if maker.level == "medium-replay":
            whole = online.episodes[0][: look.episodes][-(maker.episodes or look.episodes) :]
            if not whole:
                raise EnvError(f"steps: no episode had ended by step {look.step}; train for more")
        else:
            online.agent.actor.load_state_dict(look.actor)
            whole = _played(online.agent, settings, seed, maker.episodes or 100, made)
        return local_dataset(
            whole,
            settings,
            name=name or f"local/{(settings.maze or settings.id).lower()}-{maker.level}",
            envs=made,
            about={
                "maker": "trained",
                "seed": seed,
                "level": maker.level,
                "steps": maker.steps,
                "stopped_at": look.step,
                "worth": look.worth,
                "ref_min": lowest,
                "ref_max": max(each.worth for each in looks),
                "measured": [[each.step, each.worth] for each in looks],
                "training": {k: v for k, v in asdict(training).items() if k != "env"},
            },
        )


def _train(
    training: OnlineSettings, seed: int, steps: int, envs: Sequence[Flat]
) -> tuple[Online, list[_Look]]:
    """Train one member, and look at it every now and then."""
    every = max(steps // LOOKS, 1)
    looks: list[_Look] = []
    online: Online | None = None
    for online in learn(training, [seed], steps):
        if online.step % every == 0 and online.step > training.random:
            looks.append(
                _Look(
                    online.step,
                    _worth(act_of(online.agent, [0] * STARTS), training.env, seed, envs),
                    copy.deepcopy(online.agent.actor.state_dict()),
                    len(online.episodes[0]),
                )
            )
    if online is None or not looks:
        raise EnvError(f"steps: wanted more than the {training.random} random ones, got {steps}")
    return online, looks


def _choose(maker: TrainedMaker, looks: Sequence[_Look], lowest: float) -> _Look:
    """The best look for an expert, else the one before it that is nearest to a third of the way."""
    best = max(looks, key=lambda look: look.worth)
    if best.worth <= lowest:
        warnings.warn(
            f"training learnt nothing: the best policy returns {best.worth:.4g}, random actions "
            f"{lowest:.4g}; give it more steps",
            DatasetWarning,
            stacklevel=3,
        )
        return best
    if maker.level == "expert":
        return best
    wanted = lowest + MEDIUM * (best.worth - lowest)
    return min(looks[: looks.index(best) + 1], key=lambda look: abs(look.worth - wanted))


def _worth(act: Act, settings: EnvSettings, seed: int, envs: Sequence[Flat]) -> float:
    starts = [s % 2**31 for s in seeds_of(seed, "measured starts", STARTS)]
    return float(np.mean([episode.ret for episode in play(act, settings, starts, envs=envs)]))


def _uniform(actions: int, seed: int) -> Act:
    streams = Streams(seeds_of(seed, "random actions", STARTS))

    def act(_: Floats, slots: Ints) -> npt.ArrayLike:
        return 2.0 * streams.uniform(slots, actions) - 1.0

    return act


def _played(
    agent: Agent, settings: EnvSettings, seed: int, episodes: int, envs: Sequence[Flat]
) -> list[Episode]:
    """Episodes of the policy as it explored."""

    def behaviour(seeds: Sequence[int]) -> Act:
        return act_of(agent, [0] * len(seeds), noise=Streams(seeds))

    return gather(behaviour, settings, envs=envs, seed=seed, episodes=episodes)
