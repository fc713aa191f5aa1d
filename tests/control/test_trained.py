"""Levels of a trained policy: where they lie, what they keep, that one seed makes them again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from control.algorithm_settings import NetworkSettings
from control.datasets.dataset import Dataset, DatasetWarning
from control.environments import EnvError
from control.makers.online import OnlineSettings
from control.makers.trained import make_trained, quick
from control.settings import EnvSettings, TrainedMaker

TASK = EnvSettings(id="Pendulum-v1", horizon=50)


def training() -> OnlineSettings:
    """As small as it goes: what is learnt in these steps is not much."""
    small = NetworkSettings(actor=(8,), critic=(8,))
    return replace(quick(TASK), networks=small, batch=8, random=100)


def made(level: str, *, seed: int = 0, steps: int = 400, episodes: int | None = 2) -> Dataset:
    maker = TrainedMaker(level=level, steps=steps, episodes=episodes)
    return make_trained(TASK, maker, seed=seed, training=training())


def looks(monkeypatch: pytest.MonkeyPatch, worths: list[float], *, lowest: float) -> None:
    """Let the measurements of random actions and then of the policy come out like this."""
    found = iter([lowest, *worths])
    monkeypatch.setattr("control.makers.trained._worth", lambda *_: next(found))


@pytest.mark.parametrize(("level", "stopped"), [("medium", 220), ("expert", 300)])
def test_medium_lies_nearest_to_a_third_of_the_way_up_to_the_best(
    monkeypatch: pytest.MonkeyPatch, level: str, stopped: int
) -> None:
    rising = [0, 0, 1, 1, 2, 3.1, 6, 7, 8, 10, 3, 0, 0, 0, 0]
    looks(monkeypatch, rising, lowest=0.0)  # after 120, 140, ..., 400 steps
    about = made(level, episodes=3).about
    assert about["stopped_at"] == stopped
    assert about["worth"] == {220: 3.1, 300: 10}[stopped]
    assert (about["ref_min"], about["ref_max"]) == (0.0, 10)
    assert about["measured"][0] == [120, 0]


def test_replay_is_what_was_lived_through_until_then_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rising = [0, 0, 1, 1, 2, 3.1, 6, 7, 8, 10, 3, 0, 0, 0, 0]
    looks(monkeypatch, rising, lowest=0.0)
    dataset = made("medium-replay", episodes=None)
    assert dataset.episodes == 4  # 220 steps: four episodes of 50 had ended
    assert len(dataset) == 200
    looks(monkeypatch, rising, lowest=0.0)
    last = made("medium-replay", episodes=1)
    assert np.array_equal(last.actions, dataset.actions[150:])


@pytest.mark.filterwarnings("ignore:training learnt nothing")
def test_one_seed_makes_the_same_rows_again_and_another_seed_makes_others() -> None:
    first, again = made("medium", steps=200), made("medium", steps=200)
    other = made("medium", seed=1, steps=200)
    assert np.array_equal(first.observations, again.observations)
    assert np.array_equal(first.actions, again.actions)
    assert first.about == again.about
    assert not np.array_equal(first.actions[:10], other.actions[:10])


@pytest.mark.filterwarnings("ignore:training learnt nothing")
def test_a_played_level_says_what_is_needed_to_make_it_again() -> None:
    dataset = made("expert", episodes=3)
    assert dataset.name == "local/pendulum-v1-expert"
    assert dataset.episodes == 3
    about = dataset.about
    assert (about["maker"], about["level"], about["seed"]) == ("trained", "expert", 0)
    assert about["env"]["horizon"] == 50
    assert about["training"]["algorithm"]["kind"] == "sac"
    assert about["training"]["networks"]["actor"] == (8,)


def test_a_policy_that_learnt_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, [-5.0] * 15, lowest=-1.0)
    with pytest.warns(DatasetWarning, match=r"learnt nothing: .* -5, random actions -1"):
        made("medium", episodes=1)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(EnvError, match="steps: wanted more than the 100 random ones, got 90"):
        made("medium", steps=90)


@pytest.mark.slow
def test_levels_of_a_pendulum_return_what_their_names_say() -> None:
    task = EnvSettings(id="Pendulum-v1")
    replay, expert = (
        make_trained(task, TrainedMaker(level=level, steps=6_000, episodes=episodes), seed=3)
        for level, episodes in (("medium-replay", None), ("expert", 20))
    )
    low, high = expert.about["ref_min"], expert.about["ref_max"]
    assert low < -900
    assert high > -250
    assert abs(expert.returns().mean() - high) < 0.15 * (high - low)
    assert low + 0.1 * (high - low) < replay.about["worth"] < low + 0.7 * (high - low)
    assert replay.returns().mean() < expert.returns().mean() - 0.5 * (high - low)
