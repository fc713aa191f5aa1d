"""Demonstrations that an expert makes: whose starts, how disturbed, how kept."""

import gymnasium
import numpy as np
import pytest

from posttrain.vla.demonstrations import DemonstrationsError
from posttrain.vla.environments.make import make_env
from posttrain.vla.environments.protocol import WorldError
from posttrain.vla.maker import BLOCK, SEEDS, make
from posttrain.vla.settings import DataSettings, EnvironmentSettings
from posttrain.vla.starts import TRAINING


def made(environment=None, *, episodes=60, heldout=20, seed=0, **options):
    data = DataSettings(episodes=episodes, heldout=heldout, seed=seed, options=options)
    return make(environment or EnvironmentSettings(), data)


def rate(found):
    return np.mean([e.success for e in found.episodes])


def test_rows_are_what_the_expert_saw_and_did():
    found = made(EnvironmentSettings(state=True, options={"state": True}))
    assert rate(found) == 1
    assert len(found.episodes) == 80
    world = make_env(EnvironmentSettings(options={"state": True}))
    for episode in found.episodes[::13]:
        shown, told = world.reset(seed=episode.seed)
        assert (episode.instruction, episode.task) == (shown["instruction"], told["task"])
        assert episode.origin == "stored"
        seen = found.observations(episode.rows, [episode.instruction] * episode.length)
        for k, row in enumerate(episode.rows):
            np.testing.assert_array_equal(seen.images["image"][k], shown["image"])
            np.testing.assert_array_equal(seen.states[k], shown["state"])
            shown, reward, ended, _, _ = world.step(found.actions[row])
            assert found.rewards[row] == reward
        assert ended
    assert sum(e.length for e in found.episodes) == len(found)


def test_heldout_episodes_come_last_and_no_start_is_shared():
    zero, one = made(), made(seed=1)
    seeds = [e.seed for e in zero.episodes]
    assert seeds[:60] == list(range(BLOCK, BLOCK + 60))
    assert seeds[60:] == list(range(2 * BLOCK, 2 * BLOCK + 20))
    assert not set(seeds) & {e.seed for e in one.episodes}
    assert BLOCK * (2 * SEEDS + 1) < TRAINING
    with pytest.raises(DemonstrationsError, match=r"data\.seed: wanted is 0 to"):
        made(seed=SEEDS)


def test_slots_change_nothing():
    few, many = (made(EnvironmentSettings(envs=n), noise=0.4, idle=0.2) for n in (2, 16))
    np.testing.assert_array_equal(few.actions, many.actions)
    assert few.episodes == many.episodes
    other = made(noise=0.4, idle=0.2, seed=1)
    assert [e.length for e in other.episodes] != [e.length for e in few.episodes]


def test_noise_makes_failures_and_only_in_the_weak_share():
    clean, weak, mixed = made(), made(noise=0.6), made(noise=0.6, weak_share=0.5)
    assert rate(weak) < rate(mixed) < rate(clean) == 1
    assert {e.success for e in weak.episodes} == {True, False}


def test_a_slow_demonstrator_arrives_later_and_no_worse_where_time_is_left():
    patient = EnvironmentSettings(max_steps=60)
    quick, slow = made(patient), made(patient, idle=0.5)
    assert rate(slow) == rate(quick) == 1
    length = [np.mean([e.length for e in d.episodes]) for d in (quick, slow)]
    assert length[1] > 1.5 * length[0]


def test_a_box_is_disturbed_within_its_bounds():
    found = made(EnvironmentSettings(options={"actions": "continuous"}), noise=0.5)
    assert found.actions.dtype == np.float32
    assert found.actions.shape[1] == 2
    assert np.abs(found.actions).max() <= 1
    assert len(np.unique(found.actions)) > 50


def test_only_successes_are_kept_if_so_wished_and_hopeless_experts_given_up():
    found = made(noise=0.6, only_success=True)
    assert rate(found) == 1
    assert len(found.episodes) == 80
    assert len({e.seed for e in found.episodes}) == 80
    assert found.about["made"]["only_success"]
    slow = EnvironmentSettings(max_steps=1, options={"max_steps": 1})
    with pytest.raises(DemonstrationsError, match="attempts gave 0 successes, of 2 wanted"):
        made(slow, episodes=2, idle=1.0, only_success=True)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"nois": 0.1}, r"data\.options\.nois: .*got 0\.1"),
        ({"noise": 2}, "noise must lie in"),
        ({"noise": 0.6, "idle": 0.6}, "together must not exceed 1"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, word):
    with pytest.raises(DemonstrationsError, match=word):
        made(**options)


def helpless(options):
    """The built-in world with nobody to show what to do."""

    class Helpless(gymnasium.Wrapper):
        max_steps = 6

        @property
        def unwrapped(self):
            return self

    return Helpless(make_env(EnvironmentSettings(options=options)))


def test_an_environment_without_an_expert_is_refused():
    with pytest.raises(WorldError, match=r"has no expert_action\(\)"):
        made(EnvironmentSettings(id=f"{__name__}:helpless"))
