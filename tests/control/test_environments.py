from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import control.environments
from control.environments import EnvError, Flat, make, replay_actions
from control.mazes import MAZES
from control.observation import flatten, keys_for
from control.settings import EnvSettings

POINT = EnvSettings(id="PointMaze_UMaze-v3", maze="umaze", frame_skip=10, horizon=40)
FAMILIES = {
    "Pendulum-v1": (3, 1),
    "Hopper-v4": (11, 3),
    "Hopper-v5": (11, 3),
    "HalfCheetah-v4": (17, 6),
    "HalfCheetah-v5": (17, 6),
    "Walker2d-v4": (17, 6),
    "Walker2d-v5": (17, 6),
    "Ant-v4": (27, 8),
    "Ant-v5": (105, 8),
    "PointMaze_Medium-v3": (6, 2),
    "AntMaze_UMaze-v4": (29, 8),
    "FrankaKitchen-v1": (59, 9),
    "AdroitHandPen-v1": (45, 24),
    "AdroitHandDoor-v1": (39, 28),
    "AdroitHandHammer-v1": (46, 26),
    "AdroitHandRelocate-v1": (39, 30),
}


def walk(env: Flat, seed: int, actions: np.ndarray) -> list[tuple[bytes, float]]:
    """Every observation, bit for bit, and every reward."""
    seen = [(env.reset(seed=seed)[0].tobytes(), 0.0)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((observation.tobytes(), reward))
        if terminated or truncated:
            break
    return seen


@pytest.mark.parametrize("env_id", FAMILIES)
def test_every_family_has_one_face_and_a_seed_decides_its_episodes(env_id):
    env = make(EnvSettings(id=env_id))
    observations, width = FAMILIES[env_id]
    assert env.observation_space == Box(-np.inf, np.inf, (observations,), np.float32)
    assert env.action_space == Box(-1.0, 1.0, (width,), np.float32)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, width)).astype(np.float32)
    first = walk(env, 3, actions)
    assert all(len(bits) == 4 * observations for bits, _ in first)
    walk(env, 4, actions[::-1])
    env.reset(seed=5)
    env.step(actions[0])
    assert walk(env, 3, actions) == first, "other episodes in between left a trace"
    assert walk(env, 4, actions) != first
    env.close()


@pytest.mark.parametrize(
    "settings",
    [
        POINT,
        *(
            EnvSettings(id=env_id)
            for env_id in ("Hopper-v4", "AntMaze_UMaze-v4", "Pendulum-v1", "AdroitHandPen-v1")
        ),
    ],
    ids=lambda settings: settings.id,
)
def test_an_open_episode_is_taken_up_where_it_was_left(settings):
    one, other = make(settings), make(settings)
    actions = np.random.default_rng(1).uniform(-1, 1, (14, one.actions)).astype(np.float32)
    whole = walk(one, 7, actions)
    other.reset(seed=1)
    other.step(actions[3])
    assert replay_actions(other, 7, actions[:9]).tobytes() == whole[9][0]
    for action, (bits, reward) in zip(actions[9:], whole[10:], strict=True):
        observation, paid, *_ = other.step(action)
        assert (observation.tobytes(), paid) == (bits, reward)
    assert replay_actions(other, 7, actions[:0]).tobytes() == whole[0][0]


def test_replaying_an_episode_that_was_over_is_refused():
    env = make(EnvSettings(id="Pendulum-v1", horizon=5))
    with pytest.raises(EnvError, match="seed 2 ends after step 5 of 6"):
        replay_actions(env, 2, np.zeros((6, 1)))


def test_numbers_are_those_of_the_bare_environment():
    env = make(EnvSettings(id="Hopper-v5"))
    bare = gymnasium.make("Hopper-v5")
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 3)).astype(np.float32)
    assert (env.reset(seed=0)[0] == bare.reset(seed=0)[0].astype(np.float32)).all()
    for action in actions:
        observation, reward, *_ = env.step(action)
        expected, paid, *_ = bare.step(action)
        assert (observation == expected.astype(np.float32)).all()
        assert reward == paid


def test_a_maze_under_a_plain_sky_moves_as_under_the_painted_one():
    env = make(EnvSettings(id="PointMaze_Medium-v3"))
    painted = gymnasium.make("PointMaze_Medium-v3", render_mode="rgb_array")
    assert env.unwrapped.model.ntexdata < 10**5 < painted.unwrapped.model.ntexdata
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    seen = [painted.reset(seed=5)[0], *(painted.step(action)[0] for action in actions)]
    keys = keys_for("PointMaze_Medium-v3", seen[0])
    moved = [bits for bits, _ in walk(env, 5, actions)]
    assert moved == [flatten(raw, keys).tobytes() for raw in seen]


def test_actions_are_stretched_to_the_environments_range_and_clipped():
    env = make(EnvSettings(id="Pendulum-v1"))
    bare = gymnasium.make("Pendulum-v1")  # torques from -2 to 2
    for unit, torque in ((0.5, 1.0), (-1.0, -2.0), (3.0, 2.0), (-9.0, -2.0)):
        env.reset(seed=0)
        bare.reset(seed=0)
        _, reward, *_ = env.step([unit])
        assert reward == pytest.approx(float(bare.step(np.array([torque]))[1]))


def test_what_exceeds_the_range_costs_no_more_than_its_edge():
    """Hopper itself would charge for the whole action and execute the edge."""
    env = make(EnvSettings(id="Hopper-v5"))
    ends = []
    for size in (1.0, 3.0):
        env.reset(seed=0)
        ends.append(env.step([size, -size, size])[1])
    assert ends[0] == ends[1]


def test_an_action_that_is_not_finite_is_refused():
    env = make(POINT)
    env.reset(seed=0)
    with pytest.raises(EnvError, match="finite"):
        env.step([0.0, np.nan])


@pytest.mark.parametrize("env_id", ["PointMaze_UMaze-v3", "AntMaze_UMaze-v4", "FetchReach-v4"])
def test_environments_and_data_flatten_alike(env_id):
    env = make(EnvSettings(id=env_id))
    flat, _ = env.reset(seed=0)
    raw, _ = env.env.reset(seed=0)
    assert (flat == flatten(raw, keys_for(env_id, raw))).all()


def test_versions_differ_as_the_data_says():
    """D4RL's gym data need v4: v5 pays no healthy bonus at the fall, and walks otherwise."""
    rng = np.random.default_rng(0)
    falls = []
    for env_id in ("Hopper-v4", "Hopper-v5"):
        env = make(EnvSettings(id=env_id))
        falls.append(walk(env, 0, np.random.default_rng(1).uniform(-1, 1, (99, 3))))
    assert [bits for bits, _ in falls[0]] == [bits for bits, _ in falls[1]]
    assert [r for _, r in falls[0][:-1]] == pytest.approx([r for _, r in falls[1][:-1]])
    assert falls[0][-1][1] - falls[1][-1][1] == pytest.approx(1.0)
    actions = rng.uniform(-1, 1, (10, 6))
    four, five = (walk(make(EnvSettings(id=f"Walker2d-v{v}")), 0, actions) for v in (4, 5))
    assert four[-1][0] != five[-1][0]


def test_a_maze_costs_one_a_step_and_ends_at_the_goal():
    env = make(EnvSettings(id="PointMaze_UMaze-v3", maze="corridor", frame_skip=10, horizon=30))
    env.reset(seed=0)
    rewards, terminated, truncated, info = [], False, False, {}
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step([1.0, 0.0])
        rewards.append(reward)
    assert terminated
    assert not truncated
    assert info["success"]
    assert rewards == [-1.0] * (len(rewards) - 1) + [0.0]
    assert 3 < len(rewards) < 20


def test_a_maze_without_arrival_is_cut_at_the_horizon():
    env = make(EnvSettings(id="PointMaze_UMaze-v3", maze="corridor", frame_skip=10, horizon=30))
    env.reset(seed=0)
    steps = [env.step([-1.0, 0.0]) for _ in range(30)]
    assert [step[1] for step in steps] == [-1.0] * 30
    assert steps[-1][2:4] == (False, True)
    assert steps[-1][4]["success"] is False


def test_official_mazes_keep_their_own_rewards():
    env = make(EnvSettings(id="PointMaze_UMaze-v3"))
    env.reset(seed=0)
    assert env.step([0.0, 0.0])[1] == 0.0


@pytest.mark.parametrize("maze", MAZES)
def test_starts_and_goals_stay_in_their_cells(maze):
    env = make(EnvSettings(id="PointMaze_UMaze-v3", maze=maze))
    bare = env.unwrapped
    start, goal = bare.maze.unique_reset_locations, bare.maze.unique_goal_locations
    assert (len(start), len(goal)) == (1, 1)
    seen = np.array([env.reset(seed=seed)[0] for seed in range(30)])
    for columns, centre in ((slice(0, 2), start[0]), (slice(4, 6), goal[0])):
        away = np.abs(seen[:, columns] - centre)
        assert away.max() <= 0.25 + 1e-6
        assert away.max() > 0.2


def test_frame_skip_is_physics_steps_a_decision():
    times = []
    for skip in (1, 10):
        env = make(EnvSettings(id="PointMaze_UMaze-v3", maze="umaze", frame_skip=skip))
        env.reset(seed=0)
        env.step([0.0, 0.0])
        times.append(env.unwrapped.data.time)
    assert times[1] == pytest.approx(10 * times[0])


def kitchen(**kwargs) -> tuple[list[float], list[bool]]:
    """Rewards and successes of four steps: nothing, the microwave opened, still open, shut."""
    env = make(EnvSettings(id="FrankaKitchen-v1", kwargs=kwargs))
    env.reset(seed=0)
    shut = env.unwrapped.data.qpos[22]
    rewards, successes = [], []
    for angle in (shut, -0.75, -0.75, shut):  # D4RL's goal for the microwave's door
        env.unwrapped.data.qpos[22] = angle
        _, reward, _, _, info = env.step(np.zeros(9))
        rewards.append(reward)
        successes.append(info["success"])
    env.close()
    return rewards, successes


def test_a_kitchen_pays_each_task_once_as_the_datasets_here_do():
    rewards, successes = kitchen(tasks_to_complete=["microwave", "kettle"])
    assert rewards == [0.0, 1.0, 0.0, 0.0]
    assert successes == [False] * 4


def test_a_kitchen_pays_the_tasks_that_hold_as_in_d4rls_files_where_asked():
    rewards, _ = kitchen(
        tasks_to_complete=["microwave", "kettle"], remove_task_when_completed=False
    )
    assert rewards == [0.0, 1.0, 1.0, 0.0]


def test_a_kitchen_succeeds_when_all_tasks_are_done_and_success_stays():
    _, successes = kitchen(tasks_to_complete=["microwave"], terminate_on_tasks_completed=False)
    assert successes == [False, True, True, True]


class Blink(gymnasium.Env):
    """Reports success at the second step only."""

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {"is_success": True}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, False, False, {"is_success": self.steps == 2}


def test_success_once_is_success_to_the_end_and_not_into_the_next_episode():
    env = Flat(Blink(), keys=(), shift=0.0)
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step([0.0])[4]["success"] for _ in range(4)] == [False, True, True, True]


def test_no_success_is_told_where_there_is_no_such_notion():
    env = make(EnvSettings(id="Pendulum-v1"))
    env.reset(seed=0)
    assert "success" not in env.step([0.0])[4]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": "Hoper-v4"}, "did you mean Hopper-v4"),
        ({"id": "PointMaze_Umaze-v3"}, "did you mean PointMaze_UMaze-v3"),
        ({"id": "CartPole-v1"}, r"actions Discrete\(2\)"),
        ({"id": "Hopper-v3"}, "retired mujoco-py; take -v4 or -v5"),
        ({"id": "Hopper-v5", "maze": "fork"}, "maze: only PointMaze"),
        ({"id": "Hopper-v5", "frame_skip": 2}, "frame_skip: only mazes"),
        ({"id": "Hopper-v5", "kwargs": {"colour": "red"}}, "kwargs: .*colour"),
        ({"id": "PointMaze_UMaze-v3", "maze": "frok"}, "did you mean 'fork'"),
        (
            {"id": "PointMaze_UMaze-v3", "maze": "fork", "kwargs": {"maze_map": [[0]]}},
            "keep one of them",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_in_the_recipes_words(fields, said):
    with pytest.raises(EnvError, match=said):
        make(EnvSettings(**fields))


class Picture(Blink):
    observation_space = Box(0, 255, (4, 4, 3))


@pytest.mark.parametrize(
    ("entry", "said"), [(Blink, "horizon: .*sets no limit"), (Picture, "observations Box")]
)
def test_episodes_must_end_and_observations_be_vectors(entry, said, monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register(id="Odd-v0", entry_point=entry)
    with pytest.raises(EnvError, match=said):
        make(EnvSettings(id="Odd-v0"))
    if entry is Blink:
        assert make(EnvSettings(id="Odd-v0", horizon=3)).actions == 1


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def absent():
        raise ImportError("no module")

    monkeypatch.setattr(control.environments, "register", absent)
    with pytest.raises(EnvError, match=r"posttrain\[control\]"):
        make(EnvSettings(id="PointMaze_UMaze-v3"))


def test_nothing_is_printed_and_no_file_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    make(EnvSettings(id="HalfCheetah-v5")).close()
    maze = make(POINT)
    maze.close()
    assert not Path(maze.unwrapped.tmp_xml_file_path).exists()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
