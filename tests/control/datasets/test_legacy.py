import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import walk

from control.datasets import DatasetError, from_columns
from control.datasets.legacy import open_d4rl, qlearning_dataset

NAMES = ("observations", "actions", "next_observations", "rewards", "terminals")


def naive(columns, horizon, terminate_on_end):
    """What D4RL 1.1 does, row by row: its counter, what it skips, what it casts."""
    rows = {name: [] for name in NAMES}
    step = 0
    for i in range(len(columns["rewards"]) - 1):
        done = bool(columns["terminals"][i])
        last = columns["timeouts"][i] if "timeouts" in columns else step == horizon - 1
        if last and not terminate_on_end:
            step = 0
            continue
        if done or last:
            step = 0
        rows["observations"].append(columns["observations"][i].astype(np.float32))
        rows["actions"].append(columns["actions"][i].astype(np.float32))
        rows["next_observations"].append(columns["observations"][i + 1].astype(np.float32))
        rows["rewards"].append(columns["rewards"][i].astype(np.float32))
        rows["terminals"].append(done)
        step += 1
    return {name: np.array(values) for name, values in rows.items()}


def equal(one, other):
    return all(
        one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes() for n in NAMES
    )


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=8).filter(lambda x: sum(x) > 3),
    st.sampled_from(["timeout", "terminal", "mixed"]),
    st.booleans(),
    st.sampled_from([None, 1, 2, 3, 5, 50]),
)
@settings(max_examples=300)
def test_the_loader_is_d4rls_to_the_last_bit(lengths, ends, terminate_on_end, horizon):
    columns = walk(np.random.default_rng(0), lengths, ends=ends)
    if horizon is not None:
        del columns["timeouts"]
    got = qlearning_dataset(columns, horizon=horizon, terminate_on_end=terminate_on_end)
    wanted = naive(columns, horizon, terminate_on_end)
    if len(wanted["rewards"]):
        assert equal(got, wanted)
    else:
        assert len(got["rewards"]) == 0


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=30),
    st.integers(1, 12),
    st.booleans(),
    st.randoms(),
)
def test_the_counter_is_d4rls_wherever_terminals_fall(lengths, horizon, terminate_on_end, random):
    columns = walk(np.random.default_rng(1), lengths)
    del columns["timeouts"]
    columns["terminals"] = np.array([random.random() < 0.15 for _ in columns["rewards"]])
    got = qlearning_dataset(columns, horizon=horizon, terminate_on_end=terminate_on_end)
    wanted = naive(columns, horizon, terminate_on_end)
    if len(wanted["rewards"]):
        assert equal(got, wanted)
    else:
        assert len(got["rewards"]) == 0


@pytest.mark.parametrize("ends", ["timeout", "mixed"])
def test_reading_gives_d4rls_transitions_where_they_can_be_used(ends):
    """Equal rows; next observations too, but at terminals, where none is used."""
    columns = walk(np.random.default_rng(2), [6, 4, 9, 3, 5], ends=ends)
    mine = from_columns(columns, name="x")
    theirs = qlearning_dataset(columns)
    if ends == "mixed":  # the last row is terminal: D4RL's loop stops before it
        assert mine.terminals[-1]
        mine_rows = slice(0, len(mine) - 1)
    else:
        mine_rows = slice(0, len(mine))
    assert np.array_equal(mine.observations[mine_rows], theirs["observations"])
    assert np.array_equal(mine.rewards[mine_rows], theirs["rewards"])
    assert np.array_equal(mine.terminals[mine_rows], theirs["terminals"])
    alive = ~theirs["terminals"]
    assert np.array_equal(
        mine.next_observations[mine_rows][alive], theirs["next_observations"][alive]
    )


def test_keeping_time_outs_crosses_into_the_next_episode():
    """Why reading has no such option: the next observation is another episode's."""
    columns = walk(np.random.default_rng(2), [3, 3])
    kept = qlearning_dataset(columns, terminate_on_end=True)
    assert np.array_equal(kept["next_observations"][2], columns["observations"][3])
    assert not kept["terminals"][2]


def fake_d4rl(monkeypatch, *, columns=None, error=None):
    gym, d4rl = ModuleType("gym"), ModuleType("d4rl")
    env = SimpleNamespace(get_dataset=lambda: columns, _max_episode_steps=4)

    def make(name):
        if error is not None:
            raise error
        return env

    gym.make = make
    monkeypatch.setitem(sys.modules, "gym", gym)
    monkeypatch.setitem(sys.modules, "d4rl", d4rl)


def test_a_working_d4rl_is_asked(monkeypatch):
    columns = {**walk(np.random.default_rng(0), [4, 4]), "infos/qpos": np.zeros(8)}
    fake_d4rl(monkeypatch, columns=columns)
    dataset = open_d4rl("hopper-medium-v2")
    assert dataset.name == "hopper-medium-v2"
    assert dataset.returns() == pytest.approx(columns["rewards"].reshape(2, 4).sum(axis=1))


def test_d4rls_horizon_cuts_files_without_time_outs(monkeypatch):
    columns = walk(np.random.default_rng(0), [4, 4])
    del columns["timeouts"]
    fake_d4rl(monkeypatch, columns=columns)
    assert open_d4rl("old-v0").lengths().tolist() == [4, 4]


def test_a_d4rl_that_dies_with_a_bare_exception_is_explained(monkeypatch, tmp_path):
    (tmp_path / "d4rl.py").write_text('raise Exception("You appear to be missing MuJoCo.")\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "d4rl", raising=False)
    with pytest.raises(DatasetError, match=r"missing MuJoCo.*read the \.hdf5 file itself"):
        open_d4rl("hopper-medium-v2")


def test_a_dataset_that_d4rl_does_not_have_is_explained(monkeypatch):
    fake_d4rl(monkeypatch, error=RuntimeError("no environment"))
    with pytest.raises(DatasetError, match="d4rl has no 'nothing-v0'"):
        open_d4rl("nothing-v0")


def test_d4rl_is_not_imported_before_it_is_asked():
    assert "d4rl" not in sys.modules
