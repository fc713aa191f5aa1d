"""How is an environment made, and an episode of it decided by one seed?

Any gymnasium environment with Box actions gets one face: observations are float32 vectors, actions
lie in [-1, 1], and `info["success"]` says whether the episode has succeeded so far.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from control.mazes import MazeError, maze_map
from control.observation import flatten, keys_for
from control.robotics import drop_model_file, is_robotics, plain_sky, quiet_mujoco, register
from control.settings import EnvSettings

try:
    import gymnasium
    from gymnasium.spaces import Box, Dict, Space
except ImportError as missing:  # pragma: no cover
    raise ImportError('environments need gymnasium: pip install "posttrain[control]"') from missing

__all__ = ["EnvError", "Flat", "make", "replay_actions"]

Floats: TypeAlias = npt.NDArray[np.float32]
Info: TypeAlias = dict[str, Any]

_EXTRA: Final = 'pip install "posttrain[control]"'


class EnvError(ValueError):
    """An environment cannot be made, or cannot do what is asked of it."""


class Flat(gymnasium.Wrapper[Floats, Floats, Any, Any]):
    """An environment with vectors in and out.

    Observations are float32 `[do]`, laid out as in datasets (`control.observation`). Actions are
    float32 `[da]` in [-1, 1], clipped to it and then stretched to the environment's own range.

    `info["success"]` holds for the episode: True from the first step at which the environment
    reports success (`success`, `is_success`, or all tasks of a kitchen finished) to its end, also
    where the success was lost again. It is absent where the environment has no such notion.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], *, keys: tuple[str, ...], shift: float
    ) -> None:
        """Wrap.

        Args:
            env: With Box actions, and a vector or a dict of vectors as observation.
            keys: Which entries of a dict are laid end to end; () for a vector.
            shift: Added to every reward.
        """
        super().__init__(env)
        box = env.action_space
        assert isinstance(box, Box)  # noqa: S101 - `make` has looked
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self._unit = bool((low == -1).all() and (high == 1).all())
        self._dtype = box.dtype
        self._flatten = _flattener(env.observation_space, keys)
        self._shift = shift
        self._success: bool | None = None
        self.actions = box.shape[0]
        self.action_space = Box(-1.0, 1.0, box.shape, np.float32)
        size = len(self._flatten(env.observation_space.sample()))
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, Info]:
        """Begin an episode; the seed and the actions decide all of it."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._success = None
        return self._flatten(observation), info

    def step(self, action: npt.ArrayLike) -> tuple[Floats, float, bool, bool, Info]:
        """Act.

        Args:
            action: `[da]`, clipped to [-1, 1].

        Raises:
            EnvError: The action is not finite.
        """
        unit = np.minimum(np.maximum(np.asarray(action, dtype=np.float32), -1.0), 1.0)
        total = np.add.reduce(unit)
        if total != total:  # noqa: PLR0124 - one comparison instead of a call: NaN is not itself
            raise EnvError(f"action: wanted finite numbers, got {unit.tolist()}")
        return self.advance(unit)

    def advance(self, unit: Floats) -> tuple[Floats, float, bool, bool, Info]:
        """Act, as `step` does, when the action is known to be float32, finite and in [-1, 1]."""
        native = unit if self._unit else (self._middle + self._half * unit).astype(self._dtype)
        observation, reward, terminated, truncated, info = self.env.step(native)
        success = self._successful(info)
        if success is not None:
            self._success = info["success"] = success or bool(self._success)
        return (
            self._flatten(observation),
            float(reward) + self._shift,
            bool(terminated),
            bool(truncated),
            info,
        )

    def _successful(self, info: Info) -> bool | None:
        """What the environment says of this step."""
        if "success" in info:
            return bool(info["success"])
        if "is_success" in info:
            return bool(info["is_success"])
        if "episode_task_completions" in info:
            goals: Mapping[str, Any] = self.env.unwrapped.goal  # type: ignore[attr-defined]
            return len(info["episode_task_completions"]) == len(goals)
        return None


def make(settings: EnvSettings) -> Flat:
    """Make an environment.

    PointMaze or AntMaze with `settings.maze` runs one of the project's maps as an episodic task:
    the reward is 0 at the goal, where the episode ends, and -1 elsewhere.

    FrankaKitchen pays each task once, when it gets done, and so do the kitchen's datasets here
    (`control.datasets.kitchen`). With `kwargs: {remove_task_when_completed: false}` it pays at
    every step the number of tasks whose goals hold, which is what D4RL's files record.

    Args:
        settings: Which environment.

    Raises:
        EnvError: Unknown id, spaces that are no vectors, settings that do not fit the environment,
            or a package is missing.
    """
    with _quiet(settings.id):
        env = _gymnasium_env(settings)
        bare: Any = env.unwrapped
        drop_model_file(bare)
        _check(env, settings)
        if settings.frame_skip is not None:
            if not hasattr(bare, "point_env"):
                raise EnvError(f"frame_skip: only mazes of points have it, got {settings.id}")
            bare.point_env.frame_skip = settings.frame_skip
        shift = -1.0 if settings.maze is not None and bare.reward_type == "sparse" else 0.0
        return Flat(env, keys=keys_for(settings.id, env.observation_space), shift=shift)


def replay_actions(env: Flat, seed: int, actions: npt.ArrayLike) -> Floats:
    """Play an episode again up to where it was left, and leave the environment there.

    Args:
        env: From `make`, by the settings of the episode.
        seed: The episode's.
        actions: What was done so far, `[t, da]`.

    Returns:
        The last observation, `[do]`.

    Raises:
        EnvError: When the episode ends before the actions do, or with the last: it was not open.
    """
    observation, _ = env.reset(seed=seed)
    actions = np.asarray(actions, dtype=np.float32)
    for done, action in enumerate(actions, start=1):
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            raise EnvError(
                f"actions: wanted an open episode, but seed {seed} ends after step {done} of "
                f"{len(actions)}: was it played in another environment?"
            )
    return observation


def _gymnasium_env(settings: EnvSettings) -> gymnasium.Env[Any, Any]:
    """Ask gymnasium, and put what it answers in the recipe's words."""
    if is_robotics(settings.id):
        try:
            register()
        except ImportError as error:
            raise EnvError(f"id: {settings.id} needs gymnasium-robotics: {_EXTRA}") from error
    kwargs = _kwargs(settings)
    unseen = settings.id.startswith("PointMaze") and "render_mode" not in kwargs
    try:
        with plain_sky() if unseen else contextlib.nullcontext():
            return gymnasium.make(
                settings.id,
                max_episode_steps=settings.horizon,
                disable_env_checker=True,
                **kwargs,
            )
    except gymnasium.error.UnregisteredEnv as error:
        raise EnvError(
            f"id: there is no environment {settings.id!r}{_near(settings.id)}"
        ) from error
    except gymnasium.error.DependencyNotInstalled as error:
        if "mujoco_py" in str(error):
            raise EnvError(
                f"id: {settings.id} needs the retired mujoco-py; take -v4 or -v5"
            ) from None
        raise EnvError(f"id: {settings.id} needs a package that is missing: {error}") from error
    except TypeError as error:
        reason = str(error).partition(" was raised from")[0]
        raise EnvError(
            f"kwargs: {settings.id} does not take {settings.kwargs}: {reason}"
        ) from error


def _kwargs(settings: EnvSettings) -> dict[str, Any]:
    kwargs = dict(settings.kwargs)
    if settings.maze is None:
        return kwargs
    if not settings.id.startswith(("PointMaze", "AntMaze")):
        raise EnvError(f"maze: only PointMaze and AntMaze have one, got {settings.id}")
    if "maze_map" in kwargs:
        raise EnvError("maze: kwargs.maze_map names a map too; keep one of them")
    try:
        chosen = maze_map(settings.maze)
    except MazeError as error:
        raise EnvError(str(error)) from error
    return {"continuing_task": False, "reset_target": False, **kwargs, "maze_map": chosen}


def _near(env_id: str) -> str:
    with contextlib.suppress(ImportError):
        register()
    near = get_close_matches(env_id, gymnasium.registry, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _check(env: gymnasium.Env[Any, Any], settings: EnvSettings) -> None:
    """Refuse what a policy over vectors cannot play.

    Raises:
        EnvError: Naming the space.
    """
    actions = env.action_space
    if not isinstance(actions, Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise EnvError(f"id: {settings.id} has actions {actions}; wanted a bounded Box of one axis")
    if not _is_vector(env.observation_space):
        raise EnvError(
            f"id: {settings.id} has observations {env.observation_space}; wanted a Box of one "
            "axis, or a Dict of them"
        )
    if settings.horizon is None and (env.spec is None or env.spec.max_episode_steps is None):
        raise EnvError(f"horizon: {settings.id} sets no limit on an episode's steps; give one")


def _is_vector(space: Space[Any]) -> bool:
    if isinstance(space, Dict):
        return all(_is_vector(part) for part in space.spaces.values())
    return isinstance(space, Box) and len(space.shape) <= 1


def _flattener(space: Space[Any], keys: tuple[str, ...]) -> Callable[[Any], Floats]:
    """`flatten` for one layout, without its checks: it is called at every step."""
    if not keys:
        return lambda observation: np.array(observation, dtype=np.float32, ndmin=1)
    if isinstance(space, Dict) and all(isinstance(space[key], Box) for key in keys):
        return lambda observation: np.concatenate(
            [observation[key] for key in keys], dtype=np.float32, casting="same_kind"
        )
    return lambda observation: flatten(observation, keys)


@contextlib.contextmanager
def _quiet(env_id: str) -> Iterator[None]:
    """Hold back what is known and meant: D4RL's data needs the older versions."""
    spec = gymnasium.registry.get(env_id)
    simulated = is_robotics(env_id) or (spec is not None and "mujoco" in str(spec.entry_point))
    with warnings.catch_warnings(), quiet_mujoco() if simulated else contextlib.nullcontext():
        warnings.filterwarnings(
            "ignore", r".*The environment \S+ is out of date", DeprecationWarning
        )
        yield
