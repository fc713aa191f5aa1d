import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import episodes_of, same, save, walk

from control.datasets import (
    DatasetError,
    DiscontinuityWarning,
    from_columns,
    read_hdf5,
    write_hdf5,
)
from control.datasets.legacy import qlearning_dataset


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_time_out_rows_are_lived_but_no_transitions(tmp_path, rng):
    columns = walk(rng, [5, 3])
    dataset = read_hdf5(save(tmp_path / "x.hdf5", columns))
    assert len(dataset) == 6
    assert dataset.lengths().tolist() == [5, 3]
    assert dataset.returns() == pytest.approx(
        [columns["rewards"][:5].sum(), columns["rewards"][5:].sum()], abs=1e-6
    )
    assert dataset.ends.tolist() == [False, False, False, True, False, True]
    assert not dataset.terminals.any()
    inside = ~dataset.ends
    inside[-1] = False
    assert np.array_equal(dataset.next_observations[inside], dataset.observations[1:][inside[:-1]])


def test_terminal_rows_are_kept_with_nothing_to_bootstrap(tmp_path, rng):
    dataset = read_hdf5(save(tmp_path / "x.hdf5", walk(rng, [5, 3], ends="terminal")))
    assert len(dataset) == 8
    assert dataset.terminals.tolist() == dataset.ends.tolist()
    assert dataset.last_rewards is None


def test_recorded_next_observations_keep_every_row(tmp_path, rng):
    columns = walk(rng, [5, 3])
    columns["next_observations"] = columns["observations"] + 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiscontinuityWarning)
        dataset = read_hdf5(save(tmp_path / "x.hdf5", columns))
    assert len(dataset) == 8
    assert np.array_equal(dataset.next_observations, columns["next_observations"])
    assert dataset.ends.tolist() == columns["timeouts"].tolist()


def test_columns_of_one_are_flattened(tmp_path, rng):
    columns = walk(rng, [4, 4], ends="mixed")
    flat = read_hdf5(save(tmp_path / "a.hdf5", columns), name="x")
    tall = {k: v[:, None] if v.ndim == 1 else v for k, v in columns.items()}
    assert same(read_hdf5(save(tmp_path / "b.hdf5", tall), name="x"), flat)


def test_old_files_are_cut_every_horizon_counted_from_each_start(tmp_path, rng):
    columns = walk(rng, [4, 4, 2, 4, 3], ends="timeout")
    columns["terminals"][[9]] = True  # the third episode, of 2 steps, ended by itself
    del columns["timeouts"]
    path = save(tmp_path / "old.hdf5", columns)
    dataset = read_hdf5(path, horizon=4)
    assert dataset.lengths().tolist() == [4, 4, 2, 4, 3]
    assert dataset.incomplete.tolist() == [False] * 4 + [True]
    with pytest.raises(DatasetError, match=r"timeouts: .*horizon=1000"):
        read_hdf5(path)


def test_a_file_that_breaks_off_leaves_an_incomplete_episode(tmp_path, rng):
    columns = walk(rng, [4, 5])
    columns["timeouts"][-1] = False
    dataset = read_hdf5(save(tmp_path / "x.hdf5", columns))
    assert dataset.incomplete.tolist() == [False, True]
    assert len(dataset.scores().scorable) == 1


def test_a_behaviour_policys_weights_are_described_not_read(tmp_path, rng):
    path = save(tmp_path / "x.hdf5", walk(rng, [4, 4]))
    with h5py.File(path, "a") as file:
        file["metadata/algorithm"] = "SAC"
        file["metadata/iteration"] = np.int64(7)
        file["metadata/policy/fc0/weight"] = np.zeros((2, 3), np.float32)
        file["infos/qpos"] = np.zeros((8, 2))
        file["metadata/pickle"] = np.void(b"\x80\x04 whatever")
    about = read_hdf5(path).about
    assert about["metadata"]["metadata/algorithm"] == "SAC"
    assert about["metadata"]["metadata/iteration"] == 7
    assert about["metadata"]["metadata/policy/fc0/weight"] == "float32 [2, 3]"
    assert about["metadata"]["infos/qpos"] == "float64 [8, 2]"
    assert "whatever" not in str(about)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_what_is_written_is_read_bit_for_bit(
    tmp_path_factory, lengths, success, incomplete, tails, seed
):
    rng = np.random.default_rng(seed)
    n = len(lengths)
    dataset = episodes_of(
        [rng.normal(size=length) for length in lengths],
        terminal=np.flatnonzero(rng.random(sum(lengths)) < 0.2),
        success=rng.random(n) < 0.5 if success else None,
        incomplete=rng.random(n) < 0.5 if incomplete else None,
        last_rewards=np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n)) if tails else None,
    )
    path = tmp_path_factory.mktemp("x") / "x.hdf5"
    write_hdf5(dataset, path)
    again = read_hdf5(path)
    assert same(again, dataset)
    write_hdf5(again, path)
    assert same(read_hdf5(path), dataset)


def test_d4rls_loader_reads_what_is_written(tmp_path, rng):
    columns = walk(rng, [6, 4, 5], ends="mixed")
    columns["next_observations"] = np.concatenate([columns["observations"][1:], np.zeros((1, 3))])
    columns["next_observations"][9] = columns["observations"][9]  # a time-out: nobody knows
    path = tmp_path / "x.hdf5"
    write_hdf5(from_columns(columns, name="x"), path)
    with h5py.File(path) as file:
        flat = {name: file[name][()] for name in ("observations", "actions", "rewards")}
        flat |= {name: file[name][()] for name in ("terminals", "timeouts")}
    theirs = qlearning_dataset(flat)
    wanted = qlearning_dataset(columns)
    for name, values in wanted.items():
        assert np.array_equal(theirs[name], values), name


def test_a_torn_write_leaves_the_old_file(tmp_path, rng, monkeypatch):
    path = tmp_path / "x.hdf5"
    first = from_columns(walk(rng, [4]), name="first")
    write_hdf5(first, path)
    second = from_columns(walk(rng, [4]), name="second")
    object.__setattr__(second, "about", {"not JSON": object()})
    with pytest.raises(TypeError):
        write_hdf5(second, path)
    assert same(read_hdf5(path), first)
    assert [p.name for p in tmp_path.iterdir()] == ["x.hdf5"]


def test_jumps_inside_an_episode_are_warned_of(tmp_path, rng):
    columns = walk(rng, [200, 200, 200])
    columns["timeouts"][199] = False  # the first reset is not where the file says
    with pytest.warns(DiscontinuityWarning, match="after rows 199"):
        dataset = read_hdf5(save(tmp_path / "x.hdf5", columns))
    assert dataset.about["jumps"]["count"] == 1


def test_recorded_next_observations_show_every_jump(tmp_path, rng):
    columns = walk(rng, [20, 20])
    columns["next_observations"] = np.concatenate([columns["observations"][1:], np.zeros((1, 3))])
    columns["next_observations"][7] += 0.01  # far less than a typical step
    with pytest.warns(DiscontinuityWarning, match="after rows 7"):
        read_hdf5(save(tmp_path / "x.hdf5", columns))


def test_smooth_episodes_are_not_warned_of(tmp_path, rng):
    columns = walk(rng, [200, 3, 150, 70])
    assert "jumps" not in read_hdf5(save(tmp_path / "x.hdf5", columns)).about


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "rewards: no such entry"),
        ({"rewards": np.zeros(3)}, r"rewards: wanted \[8\] or \[8, 1\], got \[3\]"),
        ({"actions": np.zeros(8)}, r"actions: wanted \[8, d\], got \[8\]"),
        ({"rewards": np.full(8, np.nan)}, "rewards: NaN or infinity in row 0"),
        ({"observations": np.full((8, 3), np.inf)}, "observations: NaN or infinity in row 0"),
        ({"observations": np.array([b"pickle"] * 8, dtype=object)}, "wanted plain numbers"),
        ({"actions": np.array([b"ab"] * 8)}, "wanted plain numbers"),
    ],
)
def test_bad_files_are_refused_by_entry(tmp_path, rng, change, message):
    columns = {k: v for k, v in {**walk(rng, [4, 4]), **change}.items() if v is not None}
    with pytest.raises(DatasetError, match=message):
        read_hdf5(save(tmp_path / "x.hdf5", columns))


def test_what_is_no_hdf5_file_is_refused(tmp_path):
    page = tmp_path / "x.hdf5"
    page.write_text("<html>404</html>")
    with pytest.raises(DatasetError, match="not an HDF5 file"):
        read_hdf5(page)
    with pytest.raises(DatasetError, match="no such file"):
        read_hdf5(tmp_path / "y.hdf5")


def test_a_file_cut_short_is_refused(tmp_path, rng):
    path = save(tmp_path / "x.hdf5", walk(rng, [400, 400]))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DatasetError, match="cannot be read"):
        read_hdf5(path)


def test_only_time_out_rows_are_no_dataset(tmp_path, rng):
    with pytest.raises(DatasetError, match="no transitions"):
        read_hdf5(save(tmp_path / "x.hdf5", walk(rng, [1, 1])))


def test_episodes_of_one_cut_step_are_counted(tmp_path, rng):
    dataset = read_hdf5(save(tmp_path / "x.hdf5", walk(rng, [3, 1, 3])))
    assert dataset.lengths().tolist() == [3, 3]
    assert dataset.about["episodes of one step left out"] == 1


def test_one_episode_of_one_step_has_nothing_to_jump():
    columns = walk(np.random.default_rng(0), [1], ends="terminal")
    assert "jumps" not in from_columns(columns, name="x").about
