import numpy as np

from control.makers.random import make_random
from control.settings import EnvSettings


def test_random_actions_are_uniform_and_made_again_by_the_seed():
    settings = EnvSettings(id="Hopper-v5")
    data = make_random(settings, seed=2, decisions=400)
    assert data.name == "local/hopper-v5-random"
    assert data.about["maker"] == "random"
    assert len(data) >= 400
    assert abs(data.actions.mean()) < 0.05
    assert abs(data.actions.std() - 1 / np.sqrt(3)) < 0.03
    again = make_random(settings, seed=2, decisions=400, envs=1)
    assert again.observations.tobytes() == data.observations.tobytes()
    assert again.actions.tobytes() == data.actions.tobytes()
    assert (make_random(settings, seed=3, episodes=1).actions[0] != data.actions[0]).all()


def test_a_random_hopper_earns_what_d4rls_table_says_of_v4():
    """18 on v4, which D4RL normalises to 1.2 and not to 0: its minimum is from an older file."""
    data = make_random(EnvSettings(id="Hopper-v4"), seed=0, episodes=100)
    assert abs(data.returns().mean() - 18.1) < 4
    assert data.terminals[data.stops - 1].all()
