"""The built-in world: its seeds, its expert, its floor and what it refuses."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
import gymnasium

from posttrain.vla.environments.color_grid import COLOURS, ID, ColorGrid
from posttrain.vla.environments.protocol import WorldError


def episode(env, seed, choose):
    seen, told = env.reset(seed=seed)
    shown = [seen]
    while True:
        seen, reward, ended, cut, info = env.step(choose())
        shown.append(seen)
        if ended or cut:
            return shown, reward, ended, cut, info, told


def test_a_seed_decides_the_episode_whatever_was_played_before():
    used, fresh = ColorGrid(), ColorGrid()
    for seed in range(20):
        used.reset(seed=seed)
    for seed in (5, 3, 1_000_007):
        one, other = (env.reset(seed=seed) for env in (used, fresh))
        np.testing.assert_array_equal(one[0]["image"], other[0]["image"])
        assert one[0]["instruction"] == other[0]["instruction"]
        assert one[1] == other[1]
    firsts = {ColorGrid().reset(seed=seed)[0]["image"].tobytes() for seed in range(50)}
    assert len(firsts) > 40


@pytest.mark.parametrize("options", [{}, {"actions": "continuous"}, {"size": 5, "blocks": 4}])
def test_the_expert_always_arrives_by_a_shortest_way(options):
    env = ColorGrid(**{"max_steps": 12, **options})
    for seed in range(200):
        env.reset(seed=seed)
        wanted = env.distances[env.agent]
        shown, reward, ended, cut, info, told = episode(env, seed, env.expert_action)
        assert (reward, ended, cut, info["is_success"]) == (1.0, True, False, True)
        assert len(shown) - 1 == wanted
        assert shown[0]["instruction"] == f"go to the {told['task']} block"


def test_a_random_policy_has_the_floor_that_is_documented():
    env, rng = ColorGrid(), np.random.default_rng(0)
    won = [episode(env, s, lambda: rng.integers(4))[4]["is_success"] for s in range(4000)]
    assert 0.26 < np.mean(won) < 0.32


def test_the_wrong_block_ends_in_failure_and_the_limit_truncates():
    env = ColorGrid()
    env.reset(seed=0)
    wrong = next(cell for cell, name in env.standing.items() if name != env.target)
    rows = [(wrong[0] + d, wrong[1] + r) for d, r in ((-1, 0), (0, 1), (1, 0), (0, -1))]
    i, env.agent = next(
        (i, c) for i, c in enumerate(rows) if c not in env.standing and 0 <= min(c) <= max(c) <= 2
    )
    _, reward, ended, cut, info = env.step((i + 2) % 4)
    assert (reward, ended, cut, info) == (0.0, True, False, {"is_success": False})
    _, _, ended, cut, _, _ = episode(ColorGrid(actions="continuous"), 0, lambda: np.zeros(2))
    assert (ended, cut) == (False, True)


def test_idling_costs_steps_and_never_ends_an_episode_in_failure():
    for actions in ("discrete", "continuous"):
        env = ColorGrid(actions=actions)
        for seed in range(100):
            _, _, ended, cut, info, _ = episode(env, seed, env.idle_action)
            assert (ended, cut, info["is_success"]) == (False, True, False)


def test_every_cell_is_one_square_of_pixels_and_says_what_stands_there():
    env = ColorGrid(state=True)
    seen, _ = env.reset(seed=1)
    cells = seen["image"].reshape(3, 8, 3, 8, 3).swapaxes(1, 2)
    for cell, name in env.standing.items():
        assert (cells[cell][2:6, 2:6] == COLOURS[name]).all()
    assert (cells[env.agent][3:5, 3:5] > 200).all()
    np.testing.assert_array_equal(seen["state"], np.array(env.agent, np.float32) / 2)
    assert env.render().shape == (192, 192, 3)
    assert env.observation_space.contains(seen)


def test_gymnasium_knows_it_by_its_name():
    made = gymnasium.make(ID, state=True)
    assert isinstance(made.unwrapped, ColorGrid)
    made.close()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 1}, "size"),
        ({"blocks": 5}, "blocks: wanted is 1 to 4, got 5"),
        ({"colours": 7}, "colours"),
        ({"actions": "keys"}, "'discrete' or 'continuous', got 'keys'"),
        ({"max_steps": 0}, "max_steps"),
        ({"cell": 1}, "cell"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_by_name(options, word):
    with pytest.raises(WorldError, match=word):
        ColorGrid(**options)
