"""LIBERO's suites of tasks, each with its sentence and 50 published initial states.

Liu et al. 2023, arXiv:2306.03310; written against the package hf-libero 0.1.4. A seed numbers the
starts of a suite: seed s plays task s mod n from initial state s // n mod 50, n being the number
of tasks, so that seeds 0 to 50 n - 1 are the benchmark, each start once. Pictures, proprioception,
idle steps at the beginning and step limits are those of OpenVLA's evaluation (Kim et al. 2024,
arXiv:2406.09246), which LeRobot's datasets share.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from string import printable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Text

from .pixels import headless
from .protocol import WorldError

LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Suites, and how many steps an episode may take: a little more than the longest demonstration."""
CAMERAS = {"agentview": "agentview_image", "eye_in_hand": "robot0_eye_in_hand_image"}
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)

Floats = npt.NDArray[np.float32]


class Libero(gymnasium.Env[dict[str, Any], Floats]):
    """One suite, or some of its tasks."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        suite: str = "libero_spatial",
        tasks: Sequence[int] = (),
        side: int = 256,
        idle: int = 10,
        keep: int = 1,
        scene_seed: int = 0,
    ) -> None:
        """Read the suite; a task's simulation is made when a seed first asks for it.

        Args:
            suite: one of LIBERO's.
            tasks: numbers of its tasks; empty for all.
            side: pixels of a frame.
            idle: steps at the beginning until objects have fallen into place.
            keep: simulations that are kept ready, each of one task; others are made anew, which
                takes seconds, but each takes memory.
            scene_seed: of what initial states leave open, as the places of fixed furniture.

        Raises:
            WorldError: there is no such suite or task.
        """
        if suite not in LIMITS:
            raise WorldError(
                f"environment.options.suite: wanted one of {', '.join(LIMITS)}, got {suite!r}"
            )
        if keep < 1:
            raise WorldError(f"environment.options.keep: wanted 1 or more, got {keep!r}")
        self._benchmark = importlib.import_module("libero.libero.benchmark")
        self.suite = self._benchmark.get_benchmark(suite)()
        count = self.suite.get_num_tasks()
        if lost := [task for task in tasks if not 0 <= task < count]:
            raise WorldError(
                f"environment.options.tasks: {suite} has tasks 0 to {count - 1}, got {lost[0]!r}"
            )
        self.tasks = tuple(tasks) or tuple(range(count))
        self.max_steps, self.render_mode = LIMITS[suite], "rgb_array"
        self._side, self._idle, self._keep, self._seed = side, idle, keep, scene_seed
        self._sims: OrderedDict[int, Any] = OrderedDict()
        self._starts: dict[int, npt.NDArray[np.float64]] = {}
        self._sim: Any = None
        self._seen: dict[str, Any] = {}
        image = Box(0, 255, (side, side, 3), np.uint8)
        spaces: dict[str, gymnasium.Space[Any]] = dict.fromkeys(CAMERAS, image)
        spaces["instruction"] = Text(400, charset=printable)
        spaces["state"] = Box(-np.inf, np.inf, (8,), np.float32)
        self.observation_space = Dict(spaces)
        self.action_space = Box(-1.0, 1.0, (7,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin at the start that the seed numbers."""
        del options
        if seed is None:
            seed = int(self.np_random.integers(50 * len(self.tasks)))
        task, place = self.tasks[seed % len(self.tasks)], seed // len(self.tasks)
        starts = self._starts_of(task)
        self._sim = self._sim_of(task)
        self._sim.seed(self._seed)
        self._sim.reset()
        seen = self._sim.set_init_state(starts[place % len(starts)])
        for _ in range(self._idle):
            seen, *_ = self._sim.step(list(IDLE))
        told = self.suite.get_task(task)
        self._seen = self._observation(seen, told.language)
        return self._seen, {"task": told.name, "is_success": False}

    def step(self, action: Floats) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move the hand, turn it, and open (-1) or close (1) the gripper; success ends."""
        wanted = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        seen, reward, _, _ = self._sim.step(wanted.tolist())
        success = bool(self._sim.check_success())
        self._seen = self._observation(seen, self._seen["instruction"])
        return self._seen, float(reward), success, False, {"is_success": success}

    def idle_action(self) -> Floats:
        """Stay, with an open gripper."""
        return np.array(IDLE, np.float32)

    def render(self) -> npt.NDArray[np.uint8]:
        """The frame of the fixed camera."""
        frame: npt.NDArray[np.uint8] = self._seen["agentview"]
        return frame

    def close(self) -> None:
        """Close all simulations."""
        while self._sims:
            self._sims.popitem()[1].close()

    def _observation(self, seen: dict[str, Any], instruction: str) -> dict[str, Any]:
        frames = {
            key: np.ascontiguousarray(seen[name][::-1, ::-1]) for key, name in CAMERAS.items()
        }
        hand = (
            seen["robot0_eef_pos"],
            axis_angle(seen["robot0_eef_quat"]),
            seen["robot0_gripper_qpos"],
        )
        return {
            **frames,
            "instruction": instruction,
            "state": np.concatenate(hand, dtype=np.float32),
        }

    def _starts_of(self, task: int) -> npt.NDArray[np.float64]:
        if task not in self._starts:
            told = self.suite.get_task(task)
            folder = Path(self._benchmark.get_libero_path("init_states"))
            self._starts[task] = _arrays(folder / told.problem_folder / told.init_states_file)
        return self._starts[task]

    def _sim_of(self, task: int) -> Any:
        if task in self._sims:
            self._sims.move_to_end(task)
            return self._sims[task]
        while len(self._sims) >= self._keep:
            self._sims.popitem(last=False)[1].close()
        simulations = importlib.import_module("libero.libero.envs")
        self._sims[task] = simulations.OffScreenRenderEnv(
            bddl_file_name=self.suite.get_task_bddl_file_path(task),
            camera_heights=self._side,
            camera_widths=self._side,
        )
        return self._sims[task]


def make(options: dict[str, Any]) -> Libero:
    """One environment; `options` are those of `Libero`."""
    headless()
    try:
        importlib.import_module("libero.libero")
    except ModuleNotFoundError as error:
        raise WorldError(
            f"environment.id: LIBERO needs the package {error.name!r}; it pins a robosuite and a "
            "MuJoCo of its own, so name an interpreter that has it in environment.python "
            "(docs/simulators.md)"
        ) from error
    except EOFError as error:
        raise WorldError(
            "environment.id: LIBERO asks where its data sets are to lie when it is first imported; "
            "answer it once by importing libero.libero in a terminal, or point LIBERO_CONFIG_PATH "
            "at a folder with a config.yaml (docs/simulators.md)"
        ) from error
    return Libero(**options)


def axis_angle(quaternion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A rotation as its axis times its angle in radians; the quaternion is (x, y, z, w)."""
    x = np.asarray(quaternion, np.float64)
    cosine = np.clip(x[3], -1.0, 1.0)
    sine = np.sqrt(1.0 - cosine * cosine)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    turned: npt.NDArray[np.float64] = x[:3] * (2.0 * np.arccos(cosine) / sine)
    return turned


def _arrays(path: Path) -> npt.NDArray[np.float64]:
    """The initial states of a task, of which nothing but a numpy array may be loaded."""
    torch = importlib.import_module("torch")
    core = importlib.import_module("numpy._core" if hasattr(np, "_core") else "numpy.core")
    rebuild = core.multiarray._reconstruct  # noqa: SLF001 - the name that such files hold
    kinds = [np.ndarray, np.dtype, np.dtypes.Float64DType]
    allowed = [*kinds, (rebuild, "numpy.core.multiarray._reconstruct"), rebuild]
    with torch.serialization.safe_globals(allowed):
        return np.asarray(torch.load(path, weights_only=True), np.float64)
