import json

import numpy as np
import pytest
from made_data import episodes_of, same

from control.datasets import DatasetError, local_ids, open_dataset, read_minari, write_minari

FACTS = {
    "author": "someone",
    "author_email": "someone@example.org",
    "description": "counts rows",
    "algorithm": "none",
    "code": "https://example.org/code",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def toy(**options):
    return episodes_of([[1, 2, 3], [4], [5, 6]], terminal=[3], **options)


def test_what_is_written_is_read_bit_for_bit(home):
    dataset = toy(success=[True, False, True], incomplete=[False, False, True])
    write_minari(dataset, "local/toy/counts-v0", env=None, **FACTS)
    assert local_ids() == ["local/toy/counts-v0"]
    for source in ("local/toy/counts-v0", home / "local/toy/counts-v0"):
        again = read_minari(source)
        assert again.name == "local/toy/counts-v0"
        object.__setattr__(again, "name", dataset.name)
        assert same(again, dataset, about=False)
    assert same(open_dataset("local/toy/counts-v0"), read_minari("local/toy/counts-v0"))
    assert not list(home.rglob("*partial*"))


def test_minari_itself_reads_it_and_recovers_the_environment():
    import minari

    write_minari(
        toy(), "local/toy/counts-v3", env="Pendulum-v1", references=(0.0, 10.0),
        requirements=["gymnasium>=1.0"], **FACTS,
    )  # fmt: skip
    data = minari.load_dataset("local/toy/counts-v3")
    assert (data.total_episodes, data.total_steps) == (3, 6)
    assert data.recover_environment().spec.id == "Pendulum-v1"
    assert minari.get_normalized_score(data, np.array([5.0])).tolist() == [0.5]
    metadata = data.storage.metadata
    assert metadata["author"] == {"someone"}
    assert metadata["description"] == "counts rows"
    assert metadata["algorithm_name"] == "none"
    assert metadata["code_permalink"] == "https://example.org/code"
    about = read_minari("local/toy/counts-v3").about
    assert about["env"] == "Pendulum-v1"
    assert json.loads(about["minari"]["env_spec"])["id"] == "Pendulum-v1"
    json.dumps(dict(about))


@pytest.mark.parametrize(
    ("dataset_id", "message"),
    [("D4RL/toy-v0", "local/<name>-v0"), ("local/toy", "local/<name>-v0")],
)
def test_published_names_are_not_taken(dataset_id, message):
    with pytest.raises(DatasetError, match=message):
        write_minari(toy(), dataset_id, env=None, **FACTS)


def test_a_dataset_is_never_written_over():
    write_minari(toy(), "local/toy-v0", env=None, **FACTS)
    with pytest.raises(DatasetError, match="exists already"):
        write_minari(toy(), "local/toy-v0", env=None, **FACTS)


def test_a_write_that_fails_leaves_nothing(home, monkeypatch):
    import minari

    def torn(**options):
        (home / options["dataset_id"] / "data").mkdir(parents=True)
        raise RuntimeError("disk full")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", torn)
    with pytest.raises(RuntimeError, match="disk full"):
        write_minari(toy(), "local/toy-v0", env=None, **FACTS)
    assert local_ids() == []
    assert not list(home.rglob("data"))


def test_broken_chains_do_not_fit_minari():
    dataset = toy()
    dataset.next_observations[0] = 7
    with pytest.raises(DatasetError, match="row 0 has another next observation"):
        write_minari(dataset, "local/toy-v0", env=None, **FACTS)
    with pytest.raises(DatasetError, match="last_rewards"):
        write_minari(toy(last_rewards=[1, 1, 1]), "local/toy-v0", env=None, **FACTS)


@pytest.mark.parametrize("name", ["D4RL/antmaze/umaze-v1", "local/nothing-v0"])
def test_nothing_is_downloaded_unasked(name, monkeypatch):
    import minari

    def never(*_, **__):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(minari, "load_dataset", never)
    with pytest.raises(DatasetError, match=f"minari download {name}"):
        read_minari(name)


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"metadata\.json"):
        read_minari(tmp_path)


def dict_dataset(name, goals=True, env=None):
    """A dataset made by Minari itself, with dict observations like a maze's."""
    import warnings

    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    widths = {"observation": 27, "achieved_goal": 2, "desired_goal": 2}
    space = Dict({k: Box(-np.inf, np.inf, (w,), np.float64) for k, w in widths.items()})
    buffers = [
        EpisodeBuffer(
            id=i,
            observations={k: rng.normal(size=(steps + 1, w)) for k, w in widths.items()},
            actions=rng.uniform(-1, 1, (steps, 8)).astype(np.float32),
            rewards=np.zeros(steps),
            terminations=np.zeros(steps, bool),
            truncations=np.arange(steps) == steps - 1,
            infos={"success": np.arange(steps + 1) == 1} if goals and i == 0 else
            {"success": np.zeros(steps + 1, bool)} if goals else None,
        )
        for i, steps in enumerate([4, 3])
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            dataset_id=name, buffer=buffers, env=env, observation_space=space,
            action_space=Box(-1, 1, (8,), np.float32),
        )  # fmt: skip
    return buffers


def test_dict_observations_are_laid_flat_as_in_environments():
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    spec = gymnasium.spec("AntMaze_UMaze-v4")
    buffers = dict_dataset("local/ant-v0", env=spec)
    dataset = read_minari("local/ant-v0")
    assert dataset.observations.shape == (7, 29)
    first = buffers[0].observations
    wanted = np.concatenate([first["achieved_goal"], first["observation"]], axis=1)
    assert np.array_equal(dataset.observations[:4], wanted[:4].astype(np.float32))
    assert np.array_equal(dataset.next_observations[:4], wanted[1:].astype(np.float32))
    assert dataset.success.tolist() == [True, False]
    assert dataset.about["observation keys"] == ["achieved_goal", "observation"]
    goals = read_minari("local/ant-v0", keys=("observation", "desired_goal"))
    assert goals.observations.shape == (7, 29)
    with pytest.raises(DatasetError, match=r"episode 0: .*'x'"):
        read_minari("local/ant-v0", keys=("x",))


def test_successors_of_mazes_get_d4rls_one_goal():
    """Minari drove to many goals; a policy that does not see the goal is judged on one."""
    import gymnasium
    import gymnasium_robotics

    from control.datasets import REGISTRY

    gymnasium.register_envs(gymnasium_robotics)
    dict_dataset("D4RL/antmaze/large-play-v1", env=gymnasium.spec("AntMaze_Large-v4"))
    dataset = open_dataset("D4RL/antmaze/large-play-v1")
    assert dataset.success.tolist() == [False, False]
    assert "relabelled" in dataset.about["rewards"]
    assert dataset.about["env"] == REGISTRY["antmaze-large-play-v2"].minari_env.id
    assert read_minari("D4RL/antmaze/large-play-v1").success.tolist() == [True, False]


def test_without_infos_success_is_unknown():
    dict_dataset("local/ant-v1", goals=False)
    assert read_minari("local/ant-v1").success is None
