"""A Fetch robot that reaches the ball of the colour that is named, seen as pixels.

The robot and its table are those of gymnasium-robotics (Plappert et al. 2018, arXiv:1802.09464),
whose model file is read here; its FetchReach has one target and no language. Several balls hang in
the air, the instruction names one, and touching another ends the episode in failure, so that a
policy which does not listen cannot do well. An action moves the gripper, by 5 cm along an axis at
most.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Text

from .pixels import Ball, Camera, headless
from .protocol import WorldError

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.1, 0.25, 0.95),
    "yellow": (0.95, 0.85, 0.1),
    "purple": (0.6, 0.15, 0.8),
}
STRIDE, REACH, RADIUS = 0.05, 0.05, 0.035
"""Metres: of an action of 1, from the ball's centre when it is reached, of the balls drawn."""
FAR, NEAR, APART = 0.16, 0.09, 0.12
"""Metres: of balls from the gripper's start at most along an axis, at least, and between balls."""
HEIGHT = 0.08
"""Metres that balls are above or below the gripper's start at most."""
SUBSTEPS, SETTLING = 20, 200
"""Steps of 2 ms of physics in one action, and until the gripper is where it starts."""
VIEW = {"lookat": (1.34, 0.75, 0.5), "distance": 0.85, "azimuth": 180.0, "elevation": -60.0}

WORDS = "abcdefghijklmnopqrstuvwxyz "

Vector = npt.NDArray[np.float64]


class Robot:
    """A model, how it stands before an episode, and a camera: nothing that an episode changes."""

    def __init__(self, side: int) -> None:
        """Read the model and wait until the gripper is where it starts.

        Args:
            side: pixels of a frame.

        Raises:
            WorldError: gymnasium-robotics is not installed, or there is nothing to draw with.
        """
        self.mujoco = headless()
        self.model = self.mujoco.MjModel.from_xml_path(str(_robot()))
        self._hide()
        self.start = self._settled()
        self.camera = Camera(self.model, VIEW, side)

    def _hide(self) -> None:
        """Take the model's own target and its handle out of the picture."""
        model = self.model
        model.geom_rgba[model.geom_bodyid == model.body("robot0:mocap").id, 3] = 0
        model.site_rgba[:, 3] = 0

    def _settled(self) -> dict[str, Vector]:
        """Weld the gripper to its handle, wait until it is there, and keep the state."""
        model, data = self.model, self.mujoco.MjData(self.model)
        model.eq_data[:, :7] = (0, 0, 0, 0, 0, 0, 1)
        for joint, value in (("slide0", 0.4049), ("slide1", 0.48), ("slide2", 0.0)):
            data.joint(f"robot0:{joint}").qpos[0] = value
        self.mujoco.mj_forward(model, data)
        data.mocap_pos[0] = _gripper(data) + np.array([-0.498, 0.005, -0.231])
        data.mocap_quat[0] = (1, 0, 1, 0)
        self.mujoco.mj_step(model, data, nstep=SETTLING)
        self.mujoco.mj_forward(model, data)
        kept = {"qpos": data.qpos, "mocap": data.mocap_pos[0], "turn": data.mocap_quat[0]}
        return {n: np.array(value) for n, value in kept.items()} | {"gripper": _gripper(data)}


_ROBOTS: weakref.WeakValueDictionary[tuple[int, ...], Robot] = weakref.WeakValueDictionary()


def _shared(side: int) -> Robot:
    """The robot of all environments of a thread: drawing in turn with a context each is slower.

    Measured with eight: a frame took a quarter longer.
    """
    place = (os.getpid(), threading.get_ident(), side)
    robot = _ROBOTS.get(place)
    if robot is None:
        robot = _ROBOTS[place] = Robot(side)
    return robot


class FetchReach(gymnasium.Env[dict[str, Any], npt.NDArray[np.float32]]):
    """Reach the ball of the colour that is named."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        side: int = 64,
        balls: int = 3,
        colours: int = 3,
        axes: int = 3,
        state: bool = False,
        max_steps: int = 10,
    ) -> None:
        """Set up the robot.

        Args:
            side: pixels of a frame.
            balls: how many hang in the air, each of another colour.
            colours: how many colours there are to choose from.
            axes: 3 moves along x, y and z; 2 along x and y, and the balls are at one height.
            state: whether the gripper's place is observed, from its start, in units of 0.2 m.
            max_steps: after which an episode is over where the recipe says no limit.

        Raises:
            WorldError: an option cannot be had, or gymnasium-robotics is not installed.
        """
        _check(side, balls, colours, axes, max_steps)
        self.render_mode = "rgb_array"
        robot = _shared(side)
        self._robot: Robot | None = robot
        self._mujoco, self.model, self._start = robot.mujoco, robot.model, robot.start
        self.data = self._mujoco.MjData(self.model)
        self.count, self.axes, self.max_steps, self.with_state = balls, axes, max_steps, state
        self.names = tuple(COLOURS)[:colours]
        spaces: dict[str, gymnasium.Space[Any]] = {
            "image": Box(0, 255, (side, side, 3), np.uint8),
            "instruction": Text(64, charset=WORDS),
        }
        if state:
            spaces["state"] = Box(-2.0, 2.0, (3,), np.float32)
        self.observation_space = Dict(spaces)
        self.action_space = Box(-1.0, 1.0, (axes,), np.float32)
        self.balls: dict[str, Vector] = {}
        self.target = ""

    @property
    def gripper(self) -> Vector:
        """Where it is, in metres."""
        return _gripper(self.data)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, which its seed decides."""
        del options
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        self._restore()
        while not self._hung():
            pass
        return self._observation(), {"task": self.target, "is_success": False}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move the gripper; the first ball that it reaches ends the episode."""
        moved = np.zeros(3)
        moved[: self.axes] = np.clip(action, -1.0, 1.0) * STRIDE
        room = np.array([0.2, 0.2, 0.1])
        wanted = self.data.mocap_pos[0] + moved
        centre = self._start["mocap"]
        self.data.mocap_pos[0] = np.clip(wanted, centre - room, centre + room)
        self._mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS)
        self._mujoco.mj_forward(self.model, self.data)
        met = [name for name, at in self.balls.items() if _gap(at, self.gripper) < REACH]
        success = self.target in met
        return self._observation(), float(success), bool(met), False, {"is_success": success}

    def expert_action(self) -> npt.NDArray[np.float32]:
        """Straight towards the ball that is named."""
        way = (self.balls[self.target] - self.gripper)[: self.axes] / STRIDE
        return (way / max(1.0, float(np.abs(way).max()))).astype(np.float32)

    def idle_action(self) -> npt.NDArray[np.float32]:
        """Stay."""
        return np.zeros(self.axes, np.float32)

    def render(self) -> npt.NDArray[np.uint8]:
        """The frame that a policy sees.

        Raises:
            WorldError: the environment is closed.
        """
        if self._robot is None:
            raise WorldError("environment.id: a Fetch robot that is closed draws nothing")
        drawn: list[Ball] = [(at, RADIUS, COLOURS[name]) for name, at in self.balls.items()]
        return self._robot.camera.frame(self.data, drawn)

    def close(self) -> None:
        """Draw no more; the last one of a thread gives back what they draw with."""
        self._robot = None

    def _observation(self) -> dict[str, Any]:
        seen = {"image": self.render(), "instruction": f"reach the {self.target} ball"}
        if self.with_state:
            seen["state"] = ((self.gripper - self._start["gripper"]) / 0.2).astype(np.float32)
        return seen

    def _hung(self) -> bool:
        """Hang balls anew; whether the way to the one that is named is long enough and free."""
        rng, begin = self.np_random, self._start["gripper"]
        chosen = rng.permutation(len(self.names))[: self.count]
        room = np.array([FAR, FAR, HEIGHT if self.axes == 3 else 0.0])
        places = begin + rng.uniform(-room, room, (self.count, 3))
        self.balls = {self.names[i]: at for i, at in zip(chosen, places, strict=True)}
        self.target = self.names[chosen[0]]
        gaps = [_gap(a, b) for i, a in enumerate(places) for b in places[:i]]
        return (
            min(gaps, default=APART) >= APART
            and min(_gap(at, begin) for at in places) >= NEAR
            and not any(_behind(at - begin) for at in places)
            and all(_beside(at, begin, places[0]) > 1.2 * REACH for at in places[1:])
        )

    def _restore(self) -> None:
        data, kept = self.data, self._start
        self._mujoco.mj_resetData(self.model, data)
        data.qpos[:], data.mocap_pos[0] = kept["qpos"], kept["mocap"]
        data.mocap_quat[0] = kept["turn"]
        self._mujoco.mj_forward(self.model, data)


def make(options: dict[str, Any]) -> FetchReach:
    """One environment; `options` are those of `FetchReach`."""
    return FetchReach(**options)


def _check(side: int, balls: int, colours: int, axes: int, max_steps: int) -> None:
    where = "environment.options"
    if side < 8:
        raise WorldError(f"{where}.side: wanted 8 or more, got {side!r}")
    if not 1 <= colours <= len(COLOURS):
        raise WorldError(f"{where}.colours: wanted 1 to {len(COLOURS)}, got {colours!r}")
    if not 1 <= balls <= min(colours, 4):
        raise WorldError(f"{where}.balls: wanted 1 to {min(colours, 4)}, got {balls!r}")
    if axes not in {2, 3}:
        raise WorldError(f"{where}.axes: wanted 2 or 3, got {axes!r}")
    if max_steps < 1:
        raise WorldError(f"{where}.max_steps: wanted 1 or more, got {max_steps!r}")


def _robot() -> Path:
    """The model file of gymnasium-robotics, which is not imported for it."""
    found = importlib.util.find_spec("gymnasium_robotics")
    if found is None or found.origin is None:
        raise WorldError(
            "environment.id: the Fetch robot needs gymnasium-robotics: pip install "
            "'posttrain[control]'"
        )
    return Path(found.origin).parent / "envs" / "assets" / "fetch" / "reach.xml"


def _gripper(data: Any) -> Vector:
    return np.array(data.site("robot0:grip").xpos)


def _gap(a: Vector, b: Vector) -> float:
    return float(np.linalg.norm(a - b))


def _behind(offset: Vector) -> bool:
    """Whether the arm hides it from the camera."""
    return bool(offset[0] < 0.03 and abs(offset[1]) < 0.085)


def _beside(point: Vector, begin: Vector, end: Vector) -> float:
    """Distance of a point from the straight way."""
    way = end - begin
    share = np.clip((point - begin) @ way / (way @ way), 0.0, 1.0)
    return _gap(point, begin + share * way)
