"""Meta-World's 50 tasks with pixels, a sentence each, and its scripted experts.

Yu et al. 2019, arXiv:1910.10897. The package pins a MuJoCo of its own, so this file is made to be
imported by another interpreter as well. An episode's task, its objects and its goal are all drawn
from the seed of its reset; the goal is seen as a ball, since the policy is not told its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Text

from .pixels import Ball, Camera, headless
from .protocol import WorldError

SENTENCES = {
    "assembly": "put the ring on the peg",
    "basketball": "throw the ball into the basket",
    "bin-picking": "move the puck to the other bin",
    "box-close": "put the lid on the box",
    "button-press": "press the button",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "press the button behind the wall from above",
    "button-press-wall": "press the button behind the wall",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "lift the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "hammer": "hammer the nail into the wall",
    "hand-insert": "put the hand into the hole",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle down from the side",
    "handle-pull": "pull the handle up",
    "handle-pull-side": "pull the handle up from the side",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "put the peg into the hole in the side",
    "peg-unplug-side": "pull the peg out of the side",
    "pick-out-of-hole": "lift the puck out of the hole",
    "pick-place": "carry the puck to the goal",
    "pick-place-wall": "carry the puck over the wall to the goal",
    "plate-slide": "slide the plate into the net",
    "plate-slide-back": "slide the plate out of the net",
    "plate-slide-back-side": "slide the plate out of the net to the side",
    "plate-slide-side": "slide the plate into the net at the side",
    "push": "push the puck to the goal",
    "push-back": "push the puck back to the goal",
    "push-wall": "push the puck around the wall to the goal",
    "reach": "reach the goal",
    "reach-wall": "reach the goal behind the wall",
    "shelf-place": "put the puck on the shelf",
    "soccer": "kick the ball into the net",
    "stick-pull": "pull the box with the stick",
    "stick-push": "push the box with the stick",
    "sweep": "sweep the puck off the table",
    "sweep-into": "sweep the puck into the hole",
    "window-close": "close the window",
    "window-open": "open the window",
}
SIDE = {"lookat": (0.0, 0.65, 0.1), "distance": 1.15, "azimuth": 130.0, "elevation": -40.0}
"""From the robot's right: doors, drawers and nets show their fronts."""
GOAL, GOAL_RADIUS = (0.1, 0.9, 0.2), 0.04
MAX_STEPS = 500
WORDS = "abcdefghijklmnopqrstuvwxyz "

Vector = npt.NDArray[np.float64]


class Scene:
    """One task: its simulation, its camera and its expert."""

    def __init__(self, task: str, *, side: int, camera: str, arm: bool) -> None:
        """Make it.

        Args:
            task: as Meta-World names it, `reach-v3`.
            side: pixels of a frame.
            camera: `side`, or one of the model's.
            arm: whether the whole arm is drawn, or only its hand.
        """
        classes = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
        experts = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
        self.task, self.sentence = task, SENTENCES[task.removesuffix("-v3")]
        self.sim = sim = classes[task]()
        sim._partially_observable = False  # noqa: SLF001 - as its own MT benchmarks set it
        sim._freeze_rand_vec, sim.seeded_rand_vec = False, True  # noqa: SLF001
        sim._set_task_called = True  # noqa: SLF001
        sim.__dict__.pop("sawyer_observation_space", None)
        self._expert = experts[task]()
        if not arm:
            _hide_arm(sim.model)
        self._camera = Camera(sim.model, SIDE if camera == "side" else camera, side)
        self._upside_down = camera.startswith("corner")
        self.observed: Vector = np.zeros(0)

    def begin(self, seed: int) -> None:
        """Place objects and goal as a seed decides."""
        self.sim.seed(seed)
        self.observed = self.sim.reset()[0]
        # Its reset moves the goal's mark after the last time that it computed where marks are.
        headless().mj_kinematics(self.sim.model, self.sim.data)

    def act(self, action: npt.NDArray[np.float32]) -> tuple[float, bool]:
        """Act; the reward, and whether the goal is reached."""
        self.observed, reward, _, _, info = self.sim.step(np.asarray(action, np.float32))
        return float(reward), bool(info["success"])

    def expert(self) -> npt.NDArray[np.float32]:
        """What the scripted expert does."""
        return np.clip(self._expert.get_action(self.observed), -1.0, 1.0).astype(np.float32)

    def frame(self, *, goal: bool) -> npt.NDArray[np.uint8]:
        """The picture, with the goal in it or without."""
        at = np.asarray(self.sim._target_pos, np.float64)  # noqa: SLF001 - it has no other name
        balls: list[Ball] = [(at, GOAL_RADIUS, GOAL)] if goal else []
        drawn = self._camera.frame(self.sim.data, balls)
        return np.ascontiguousarray(drawn[::-1, ::-1]) if self._upside_down else drawn

    def close(self) -> None:
        """Give back what it draws with."""
        self._camera.close()
        self.sim.close()


class MetaWorld(gymnasium.Env[dict[str, Any], npt.NDArray[np.float32]]):
    """One task or several, drawn by the seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        tasks: Sequence[str] = ("reach-v3",),
        side: int = 64,
        camera: str = "side",
        goal: bool = True,
        arm: bool = True,
        state: bool = False,
        max_steps: int = 150,
    ) -> None:
        """Set up the first task; others are made when a seed first draws them.

        Args:
            tasks: names of Meta-World, with or without `-v3`.
            side: pixels of a frame.
            camera: `side`, from the robot's right, or one of the model's, as `corner2`, which is
                turned upright.
            goal: whether the goal is drawn, as a green ball.
            arm: whether the whole arm is drawn; the hand alone is drawn faster.
            state: whether the hand's place and how far it is open is observed.
            max_steps: after which an episode is over where the recipe says no limit.

        Raises:
            WorldError: there is no such task or camera, or Meta-World is not installed.
        """
        self.tasks = _known(tasks)
        if not 1 <= max_steps <= MAX_STEPS:
            raise WorldError(
                f"environment.options.max_steps: wanted 1 to {MAX_STEPS}, got {max_steps!r}"
            )
        self.render_mode = "rgb_array"
        self._drawn: dict[str, Any] = {"side": side, "camera": camera, "arm": arm}
        self._goal, self.with_state, self.max_steps = goal, state, max_steps
        self._scenes: dict[str, Scene] = {}
        self.scene = self._of(self.tasks[0])
        spaces: dict[str, gymnasium.Space[Any]] = {
            "image": Box(0, 255, (side, side, 3), np.uint8),
            "instruction": Text(64, charset=WORDS),
        }
        if state:
            spaces["state"] = Box(-2.0, 2.0, (4,), np.float32)
        self.observation_space = Dict(spaces)
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, which its seed decides."""
        del options
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        self.scene = self._of(task)
        self.scene.begin(int(self.np_random.integers(2**31)))
        return self._observation(), {"task": task, "is_success": False}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move the hand along x, y and z, and open or close it; success ends the episode."""
        reward, success = self.scene.act(action)
        return self._observation(), reward, success, False, {"is_success": success}

    def expert_action(self) -> npt.NDArray[np.float32]:
        """What Meta-World's scripted policy does, within the bounds of actions."""
        return self.scene.expert()

    def idle_action(self) -> npt.NDArray[np.float32]:
        """Stay, with an open hand."""
        return np.array([0, 0, 0, -1], np.float32)

    def render(self) -> npt.NDArray[np.uint8]:
        """The frame that a policy sees."""
        return self.scene.frame(goal=self._goal)

    def close(self) -> None:
        """Close all tasks that were made."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()

    def _observation(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"image": self.render(), "instruction": self.scene.sentence}
        if self.with_state:
            seen["state"] = self.scene.observed[:4].astype(np.float32)
        return seen

    def _of(self, task: str) -> Scene:
        if task not in self._scenes:
            self._scenes[task] = Scene(task, **self._drawn)
        return self._scenes[task]


def make(options: dict[str, Any]) -> MetaWorld:
    """One environment; `options` are those of `MetaWorld`."""
    headless()
    try:
        importlib.import_module("metaworld")
    except ModuleNotFoundError as error:
        raise WorldError(
            f"environment.id: Meta-World needs the package {error.name!r}; it pins a MuJoCo of its "
            "own, so name an interpreter that has it in environment.python (docs/simulators.md)"
        ) from error
    return MetaWorld(**options)


def _known(tasks: Sequence[str]) -> tuple[str, ...]:
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    known = [name.removesuffix("-v3") for name in names]
    if not known or (lost := [name for name in known if name not in SENTENCES]):
        raise WorldError(
            f"environment.options.tasks: wanted names among {', '.join(SENTENCES)}; got "
            f"{lost[0] if known else 'none'!r}"
        )
    return tuple(f"{name}-v3" for name in known)


def _hide_arm(model: Any) -> None:
    """Make the meshes between the table and the hand transparent, which are then not drawn."""
    mesh = int(headless().mjtGeom.mjGEOM_MESH.value)
    for geom in np.flatnonzero((model.geom_type == mesh) & (model.geom_group == 1)):
        body = model.body(int(model.geom_bodyid[geom])).name
        if body.startswith(("right_l", "right_arm", "head", "pedestal", "torso")):
            model.geom_rgba[geom, 3] = 0
            model.geom_matid[geom] = -1
