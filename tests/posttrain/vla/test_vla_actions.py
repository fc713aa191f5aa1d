"""Actions as tokens: what comes back, where bins lie, and OpenVLA's conventions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from posttrain.vla.actions import ActionsError, ActionTokenizer, from_data, of_space
from posttrain.vla.ranges import ranges
from posttrain.vla.settings import ActionSettings

BOX = spaces.Box(-1, 1, (3,))


def test_discrete_actions_are_their_numbers_from_the_start_of_the_space():
    found = from_data(spaces.Discrete(4, start=-1), np.array([0]), ActionSettings(chunk=2))
    actions = np.array([[-1, 2], [0, 1]])
    tokens = found.encode(actions)
    assert tokens.tolist() == [[0, 3], [1, 2]]
    assert found.decode(tokens).tolist() == actions.tolist()
    assert found.per_decision == 2


@given(st.integers(2, 300), st.integers(1, 3), st.sampled_from(["added", "tail"]))
def test_tokens_come_back_and_actions_lie_within_half_a_bin(bins, chunk, vocabulary):
    if vocabulary == "tail" and bins == 2:
        bins = 3
    rng = np.random.default_rng(bins)
    settings = ActionSettings(bins=bins, chunk=chunk, vocabulary=vocabulary)
    found = from_data(BOX, rng.uniform(-0.9, 0.7, (500, 3)), settings)
    tokens = rng.integers(0, bins - (vocabulary == "tail"), (20, chunk * 3))
    assert (found.encode(found.decode(tokens).astype(np.float64)) == tokens).all()
    low, high = np.array(found.low), np.array(found.high)
    actions = rng.uniform(low, high, (50, chunk, 3))
    width = (high - low) / (bins - (vocabulary == "tail"))
    assert (np.abs(found.decode(found.encode(actions)) - actions) <= width / 2 + 1e-6).all()


def test_ranges_are_quantiles_so_that_wild_actions_do_not_widen_them():
    actions = np.linspace(-0.5, 0.5, 1001)[:, None].repeat(3, 1)
    actions[0] = 1.0
    found = from_data(BOX, actions, ActionSettings(quantiles=(0.1, 0.9)))
    assert np.allclose(found.high, 0.4, atol=2e-3)
    assert np.allclose(found.low, -0.4, atol=2e-3)
    assert found.decode(found.encode(np.ones((1, 1, 3)))).max() <= found.high[0]


def test_dimensions_whose_quantiles_meet_are_cut_from_least_to_greatest():
    grip = np.zeros((1000, 1))
    grip[:3] = 1.0
    assert ranges(grip, (0.01, 0.99)) == ((0.0,), (1.0,))


def test_dimensions_that_never_change_stay_what_they_are():
    actions = np.column_stack([np.linspace(-1, 1, 50), np.full(50, 0.3), np.linspace(0, 1, 50)])
    found = from_data(BOX, actions, ActionSettings(bins=4))
    tokens = found.encode(actions[:, None])
    assert (tokens[:, 1] == 0).all()
    assert np.allclose(found.decode(np.full((1, 3), 3))[..., 1], 0.3)


def test_actions_never_leave_the_box():
    found = replace(of_space(BOX, 1, 4), low=(-3.0,) * 3, high=(3.0,) * 3)
    assert found.decode(np.array([[0, 0, 0], [3, 3, 3]])).tolist() == [[[-1.0] * 3], [[1.0] * 3]]


@pytest.fixture
def openvla(tmp_path):
    held = {
        "action": {
            "q01": [-0.02, -0.5, 0.0],
            "q99": [0.04, 0.5, 1.0],
            "mask": [True, True, False],
            "mean": [0, 0, 0],
        }
    }
    file = tmp_path / "dataset_statistics.json"
    file.write_text(json.dumps({"bridge": held}))
    return file


def published(ids, vocabulary, stats):
    """What is published of OpenVLA's decoding, written out: ids of the vocabulary to actions."""
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    unit = centres[np.clip(vocabulary - ids - 1, 0, 254)]
    low, high = np.array(stats["q01"]), np.array(stats["q99"])
    return np.where(stats["mask"], 0.5 * (unit + 1) * (high - low) + low, unit)


def test_tail_mode_reads_what_openvla_says(openvla):
    settings = ActionSettings(vocabulary="tail", statistics=str(openvla))
    found = from_data(BOX, np.zeros((1, 3)), settings).placed(range(31999, 31743, -1))
    tokens = np.random.default_rng(0).integers(0, 256, (300, 3))
    tokens[0] = 255
    ids = np.array(found.ids)[tokens]
    stats = json.loads(openvla.read_text())["bridge"]["action"]
    wanted = published(ids, 32000, stats)
    assert np.allclose(found.decode(tokens)[:, 0], wanted, atol=1e-6)


def test_tail_mode_says_what_openvla_was_taught(openvla):
    """digitize over 256 edges from -1 to 1, and the vocabulary's size less that."""
    settings = ActionSettings(vocabulary="tail", statistics=str(openvla))
    found = from_data(BOX, np.zeros((1, 3)), settings).placed(range(31999, 31743, -1))
    gripper = np.linspace(-1, 1, 999)
    actions = np.zeros((999, 1, 3))
    actions[:, 0, 2] = gripper
    ids = np.array(found.ids)[found.encode(actions)][:, 2]
    assert (ids == 32000 - np.digitize(gripper, np.linspace(-1, 1, 256))).all()


def test_statistics_of_several_data_sets_need_a_name(openvla):
    both = json.loads(openvla.read_text())
    openvla.write_text(json.dumps({**both, "fractal": both["bridge"]}))
    settings = ActionSettings(vocabulary="tail", statistics=str(openvla))
    with pytest.raises(ActionsError, match=r"bridge.*fractal.*FILE#NAME"):
        from_data(BOX, np.zeros((1, 3)), settings)
    named = replace(settings, statistics=f"{openvla}#fractal")
    assert from_data(BOX, np.zeros((1, 3)), named).low[0] == -0.02


def test_statistics_of_another_robot_are_refused(openvla):
    settings = ActionSettings(statistics=str(openvla))
    with pytest.raises(ActionsError, match="2 numbers"):
        from_data(spaces.Box(-1, 1, (2,)), np.zeros((1, 2)), settings)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.Dict({"arm": BOX}),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-np.inf, np.inf, (2,)),
    ],
)
def test_other_spaces_are_refused(space):
    with pytest.raises(ActionsError, match="must be Discrete, or a Box with one axis and bounds"):
        of_space(space, 1, 4)


@pytest.mark.parametrize(
    ("actions", "why"),
    [
        (np.zeros((2, 3)), r"\[n, 1, 3\]"),
        (np.full((2, 1, 3), np.nan), "finite"),
    ],
)
def test_other_actions_are_refused(actions, why):
    with pytest.raises(ActionsError, match=why):
        of_space(BOX, 1, 4).encode(actions)


@pytest.mark.parametrize("action", [4, -1, 0.5])
def test_numbers_that_are_no_discrete_action_are_refused(action):
    with pytest.raises(ActionsError, match="whole number from 0 to 3"):
        of_space(spaces.Discrete(4), 1, 2).encode(np.array([[action]]))


def test_tokens_out_of_range_are_refused():
    with pytest.raises(ActionsError, match=r"\[0, 4\)"):
        of_space(BOX, 1, 4).decode(np.array([[0, 1, 4]]))


def test_saved_and_read_again(tmp_path):
    found = from_data(
        BOX, np.random.default_rng(0).uniform(-1, 1, (9, 3)), ActionSettings(bins=8, chunk=2)
    ).placed(range(40, 48))
    found.save(tmp_path)
    assert ActionTokenizer.load(tmp_path) == found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"wide": 1}, "wide"),
        ({"size": "8"}, "numbers"),
        ({"ids": [1, 1, 2]}, "different"),
        ({"high": [-2.0, 1.0, 1.0]}, "low <= high"),
        ({"kind": "text"}, "discrete or box"),
        ({"lower": [0.0]}, "each dimension"),
    ],
)
def test_files_that_are_wrong_are_refused(tmp_path, change, why):
    of_space(BOX, 1, 3).save(tmp_path)
    file = tmp_path / "actions.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ActionsError, match=why):
        ActionTokenizer.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ActionsError, match=r"actions\.json"):
        ActionTokenizer.load(tmp_path)


def test_a_policy_of_another_space_does_not_fit():
    found = of_space(BOX, 1, 4)
    found.fits(BOX)
    with pytest.raises(ActionsError, match="not those of"):
        found.fits(spaces.Discrete(4))
    with pytest.raises(ActionsError, match="not those of"):
        of_space(spaces.Discrete(3), 1, 4).fits(spaces.Discrete(4))
