"""BabyAI: its seeds, its bot, its actions."""

import numpy as np
import pytest

pytest.importorskip("minigrid")
from posttrain.vla.environments.make import make_env
from posttrain.vla.environments.protocol import WorldError
from posttrain.vla.maker import make
from posttrain.vla.settings import DataSettings, EnvironmentSettings

SMALL = "minigrid/BabyAI-GoToLocalS5N2-v0"
WALK = ["left", "right", "forward"]


def settings(name=SMALL, *, max_steps=16, **options):
    return EnvironmentSettings(id=name, options=options, max_steps=max_steps, envs=4)


def test_a_seed_decides_the_episode_in_silence(capsys):
    used, fresh = make_env(settings()), make_env(settings())
    for seed in range(30):
        used.reset(seed=seed)
    for seed in (3, 11):
        one, other = used.reset(seed=seed)[0], fresh.reset(seed=seed)[0]
        assert one["instruction"] == other["instruction"]
        np.testing.assert_array_equal(one["image"], other["image"])
        assert one["image"].shape == (40, 40, 3)
        assert used.observation_space.contains(one)
    assert capsys.readouterr().out == ""


def test_the_bot_demonstrates_with_three_actions():
    data = DataSettings(episodes=20, heldout=4)
    found = make(settings(actions=WALK, tile=6), data)
    assert all(e.success for e in found.episodes)
    assert found.actions.max() <= 2
    assert found.pictures.shapes == {"image": (30, 30, 3)}
    assert len({e.instruction for e in found.episodes}) > 5


@pytest.mark.parametrize("name", ["BabyAI-PickupDistDebug-v0", "BabyAI-PutNextLocalS5N3-v0"])
def test_the_bot_goes_on_from_whatever_was_done(name):
    data = DataSettings(episodes=10, heldout=2, options={"noise": 0.3})
    found = make(settings(name, max_steps=100), data)
    assert np.mean([e.success for e in found.episodes]) > 0.3


def test_asking_the_bot_twice_or_not_at_all_changes_nothing():
    world = make_env(settings(actions=WALK))
    for seed in range(20):
        world.reset(seed=seed)
        for action in (0, 1):
            world.step(action)
        for _ in range(12):
            assert world.expert_action() == world.expert_action()
            *_, ended, _, info = world.step(world.expert_action())
            if ended:
                break
        assert info["is_success"]


def test_what_is_missing_is_said():
    with pytest.raises(WorldError, match="no 'fly' among left, right"):
        make_env(settings(actions=["fly"]))
    with pytest.raises(WorldError, match="cannot be made"):
        make_env(settings("BabyAI-NoSuchLevel-v0"))
    world = make_env(settings("BabyAI-PickupDistDebug-v0", actions=WALK, max_steps=50))
    with pytest.raises(WorldError, match="needs 'pickup', which is left out"):
        play_bot(world)
    with pytest.raises(WorldError, match=r"environment\.options: .*tiles"):
        make_env(settings(tiles=4))
    bare = make_env(settings("MiniGrid-Empty-5x5-v0"))
    bare.reset(seed=0)
    with pytest.raises(WorldError, match="has no expert"):
        bare.expert_action()


def play_bot(world):
    for seed in range(5):
        world.reset(seed=seed)
        for _ in range(50):
            *_, ended, cut, _ = world.step(world.expert_action())
            if ended or cut:
                break


def test_a_level_without_a_fixed_limit_asks_for_one():
    from posttrain.vla.environments.make import make_fleet

    with pytest.raises(WorldError, match=r"environment\.max_steps"):
        make_fleet(EnvironmentSettings(id=SMALL, envs=1))
