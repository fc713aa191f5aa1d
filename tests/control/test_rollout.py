import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from control.environments import EnvError, Flat, make
from control.rollout import Episode, Streams, dataset_of, play, players, scores
from control.settings import EnvSettings

HOPPER = EnvSettings(id="Hopper-v5", horizon=40)
POINT = EnvSettings(
    id="PointMaze_UMaze-v3", maze="umaze", frame_skip=10, horizon=20, score="success"
)


def bits(episodes: list[Episode]) -> list[tuple]:
    return [
        (e.seed, e.observations.tobytes(), e.actions.tobytes(), e.rewards.tobytes(), e.terminated)
        for e in episodes
    ]


def noisy(seeds, width: int):
    streams = Streams(list(seeds))
    return lambda observations, slots: 0.3 * observations[:, :width] + streams.normal(slots, width)


@pytest.mark.parametrize(("settings", "width"), [(HOPPER, 3), (POINT, 2)], ids=["hopper", "point"])
def test_episodes_depend_neither_on_the_number_of_environments_nor_on_the_order(settings, width):
    seeds = list(range(9))
    alone = play(noisy(seeds, width), settings, seeds, envs=1)
    assert bits(play(noisy(seeds, width), settings, seeds, envs=4)) == bits(alone)
    assert bits(play(noisy(seeds, width), settings, seeds, envs=50)) == bits(alone)
    back = seeds[::-1]
    assert bits(play(noisy(back, width), settings, back, envs=4)) == bits(alone)[::-1]
    with players(settings, 3) as envs:
        assert bits(play(noisy(seeds, width), settings, seeds, envs=envs)) == bits(alone)
        assert bits(play(noisy(seeds, width), settings, seeds, envs=envs)) == bits(alone)


def test_noise_from_one_generator_would_depend_on_the_number_of_environments():
    """Why a policy is told its slots: the same claim fails without them."""

    def shared():
        rng = np.random.default_rng(0)
        return lambda observations, _: rng.normal(size=(len(observations), 2))

    one, four = (play(shared(), POINT, range(6), envs=envs) for envs in (1, 4))
    assert bits(one) != bits(four)


def test_an_episode_is_what_one_sees_alone():
    """Against the plainest loop, to the true final observation of a truncated episode."""
    slots_seen = []

    def act(observations, slots):
        slots_seen.append(slots.copy())
        return np.tanh(observations[:, :2] - observations[:, 4:6])

    whole = play(act, POINT, [11, 5, 8], envs=2)
    assert [e.seed for e in whole] == [11, 5, 8]
    assert slots_seen[0].tolist() == [0, 1]
    assert any(2 in slots for slots in slots_seen)
    env = make(POINT)
    for episode in whole:
        seen, rewards = [env.reset(seed=episode.seed)[0]], []
        while True:
            action = np.tanh(seen[-1][:2] - seen[-1][4:6])
            observation, reward, terminated, truncated, info = env.step(action)
            seen.append(observation)
            rewards.append(reward)
            if terminated or truncated:
                break
        assert (episode.observations == np.stack(seen)).all()
        assert episode.rewards.tolist() == rewards
        assert episode.ret == sum(rewards)
        assert (episode.terminated, episode.truncated) == (terminated, truncated)
        assert episode.success is info["success"]
    assert any(e.truncated for e in whole)


class Count(gymnasium.Env):
    """Counts up from the seed; the task ends at 10, and the reward is the action."""

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Box(-2.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = seed
        return np.array([self.at]), {}

    def step(self, action):
        self.at += 1
        return np.array([self.at]), float(action[0]), self.at >= 10, False, {}


@pytest.fixture
def count(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register(id="Count-v0", entry_point=Count)
    return EnvSettings(id="Count-v0", horizon=3)


def test_episodes_become_a_dataset_by_hand(count):
    whole = play(lambda o, _: o / 10, count, [8, 1, 7])  # 7 reaches 10 at the horizon: terminal
    data = dataset_of(whole, name="local/count", about={"why": "by hand"})
    assert data.observations[:, 0].tolist() == [8, 9, 1, 2, 3, 7, 8, 9]
    assert data.next_observations[:, 0].tolist() == [9, 10, 2, 3, 4, 8, 9, 10]
    assert data.terminals.tolist() == [False, True, False, False, False, False, False, True]
    assert data.ends.tolist() == [False, True, False, False, True, False, False, True]
    assert data.truncated.tolist() == [False, True, False]
    assert data.actions[:, 0] == pytest.approx([0.8, 0.9, 0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    assert data.returns() == pytest.approx([3.4, 1.2, 4.8])  # torques are twice the action
    assert (data.name, data.success, data.about) == ("local/count", None, {"why": "by hand"})


def test_actions_are_recorded_as_executed(count):
    (episode,) = play(lambda o, _: np.full((len(o), 1), -7.0), count, [0])
    assert episode.actions.tolist() == [[-1.0]] * 3
    assert episode.rewards.tolist() == [-2.0] * 3


def made(seed: int, rewards: list[float], success: bool | None, *, ended: bool) -> Episode:
    return Episode(
        seed=seed,
        observations=np.zeros((len(rewards) + 1, 1), np.float32),
        actions=np.zeros((len(rewards), 1), np.float32),
        rewards=np.array(rewards),
        terminated=ended,
        truncated=not ended,
        success=success,
    )


def test_scores_count_the_return_or_success():
    episodes = [made(4, [-1.0, 0.0], True, ended=True), made(5, [-1.0] * 3, False, ended=False)]
    rows = scores(episodes, EnvSettings(id="x"), prefix="fork/pi_0").rows()
    shared = {"source": "policy"}
    assert rows == [
        {"return": -1.0, "unit": "fork/pi_0/4", "steps": 2, "success": True, "truncated": False}
        | shared,
        {"return": -3.0, "unit": "fork/pi_0/5", "steps": 3, "success": False, "truncated": True}
        | shared,
    ]
    counted = scores(episodes, EnvSettings(id="x", score="success"), prefix="a", source="dataset")
    assert counted.returns.tolist() == [1.0, 0.0]
    assert set(counted.source) == {"dataset"}


def test_success_cannot_be_counted_where_nobody_knows_it():
    with pytest.raises(EnvError, match="score: Pendulum-v1 has no notion of success"):
        scores(
            [made(0, [1.0], None, ended=True)],
            EnvSettings(id="Pendulum-v1", score="success"),
            prefix="a",
        )


def test_progress_is_told_once_an_episode(count):
    told: list[int] = []
    play(lambda o, _: o * 0, count, range(5), envs=2, tick=told.append)
    assert told == [1, 2, 3, 4, 5]


def test_no_seeds_are_no_episodes(count):
    assert play(lambda o, _: o, count, []) == []


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda o, _: np.zeros((len(o), 2)), r"wanted actions \(2, 1\), got \(2, 2\)"),
        (lambda *_: np.zeros(1), r"wanted actions \(2, 1\), got \(1,\)"),
        (lambda o, _: np.where(o == 2, np.nan, 0), "step 2 of the episode with seed 0"),
    ],
)
def test_a_policy_that_fails_is_named_by_place(count, act, said):
    with pytest.raises(EnvError, match=said):
        play(act, count, [5, 0], envs=2)


def test_there_must_be_an_environment(count):
    with pytest.raises(EnvError, match="envs: wanted at least 1, got 0"):
        play(lambda o, _: o, count, [0], envs=0)


def test_environments_lent_are_left_open_and_others_closed(count, monkeypatch):
    closed = []
    monkeypatch.setattr(Flat, "close", lambda _: closed.append(1))
    with players(count, 2) as envs:
        play(lambda o, _: o * 0, count, [0, 1], envs=envs)
        assert not closed
    assert len(closed) == 2
    play(lambda o, _: o * 0, count, range(9), envs=3)
    assert len(closed) == 5


def test_streams_are_uniform_normal_and_not_the_environments():
    streams = Streams(range(200))
    slots = np.arange(200)
    uniform, normal = streams.uniform(slots, 50), streams.normal(slots, 50)
    assert abs(uniform.mean() - 0.5) < 0.02
    assert abs(normal.std() - 1) < 0.03
    assert len(np.unique(uniform)) == uniform.size
    assert not np.isin(uniform, np.random.default_rng(3).random(100)).any()
    assert (Streams([1], salt=2).uniform(slots[:1], 3) != Streams([1]).uniform(slots[:1], 3)).all()
