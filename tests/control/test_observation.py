import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.observation import flatten, keys_for


@pytest.mark.parametrize(
    ("env_id", "keys"),
    [
        ("PointMaze_UMaze-v3", ("observation", "desired_goal")),
        ("FetchReach-v4", ("observation", "desired_goal")),
        ("AntMaze_Large_Diverse_GR-v4", ("achieved_goal", "observation")),
        ("FrankaKitchen-v1", ("observation",)),
        ("", ("observation", "desired_goal")),
    ],
)
def test_keys_follow_the_family(env_id, keys):
    sample = {"observation": [0.0], "achieved_goal": [0.0], "desired_goal": [0.0]}
    assert keys_for(env_id, sample) == keys


def test_a_space_and_a_sample_of_it_have_the_same_keys():
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("PointMaze_UMaze-v3")
    sample, _ = env.reset(seed=0)
    keys = keys_for("PointMaze_UMaze-v3", sample)
    assert keys_for("PointMaze_UMaze-v3", env.observation_space) == keys
    assert flatten(sample, keys).tolist() == pytest.approx(
        [*sample["observation"], *sample["desired_goal"]]
    )


def test_arrays_have_no_keys_and_other_dicts_have_all_sorted():
    assert keys_for("Hopper-v4", np.zeros(11)) == ()
    assert keys_for("Thing-v0", {"b": 1, "a": 2}) == ("a", "b")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_flattening_a_batch_is_flattening_its_rows(a, b, rows):
    rng = np.random.default_rng(a + 10 * b)
    batch = {"x": rng.normal(size=(rows, a)), "y": rng.normal(size=(rows, b))}
    flat = flatten(batch, ("y", "x"))
    assert flat.dtype == np.float32
    for row in range(rows):
        one = flatten({k: v[row] for k, v in batch.items()}, ("y", "x"))
        assert np.array_equal(flat[row], one)


def test_inner_dicts_are_sorted():
    inner = {"observation": np.array([1.0]), "goal": {"b": np.array([3.0]), "a": np.array([2.0])}}
    assert flatten(inner, ("observation", "goal")).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("observation", "keys", "message"),
    [
        (np.zeros(2), ("x",), "wanted a mapping"),
        ({"x": np.zeros(2)}, (), "wanted an array"),
        ({"x": np.zeros(2)}, ("x", "y"), r"\['y'\] are absent"),
    ],
)
def test_what_does_not_fit_is_refused(observation, keys, message):
    with pytest.raises(ValueError, match=message):
        flatten(observation, keys)
