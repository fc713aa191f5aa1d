"""ManiSkill's tasks on a CPU or GPU, one simulation an environment.

Tao et al. 2024, arXiv:2410.00425; written against the package mani-skill 3.0.1. Its tasks have no
sentences, so that one is made of the task's name, or given. Its episodes end where its `info` says
success or failure. Marks of a goal are hidden from its cameras: they are shown here, unless
`goal: false`, since neither a sentence nor a picture would tell otherwise where the goal is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from string import printable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Text

from .protocol import WorldError

SENTENCES = {
    "LiftPegUpright-v1": "lift the peg and stand it upright",
    "PegInsertionSide-v1": "put the peg into the hole in the side of the box",
    "PickCube-v1": "pick up the cube and hold it at the goal",
    "PlaceSphere-v1": "put the sphere into the bin",
    "PlugCharger-v1": "plug the charger into the socket",
    "PokeCube-v1": "poke the cube with the peg",
    "PullCube-v1": "pull the cube to the goal",
    "PullCubeTool-v1": "pull the cube closer with the tool",
    "PushCube-v1": "push the cube to the goal",
    "PushT-v1": "push the T onto its outline",
    "RollBall-v1": "roll the ball to the goal",
    "StackCube-v1": "stack the red cube on the green cube",
}

Floats = npt.NDArray[np.float32]


class ManiSkill(gymnasium.Env[dict[str, Any], Floats]):
    """One task of ManiSkill."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        id: str = "PickCube-v1",  # noqa: A002 - gymnasium's word
        instruction: str | None = None,
        side: int = 128,
        control_mode: str = "pd_ee_delta_pose",
        sim_backend: str = "physx_cpu",
        render_backend: str = "gpu",
        goal: bool = True,
        **options: Any,
    ) -> None:
        """Make it.

        Args:
            id: gymnasium's, as `PickCube-v1`.
            instruction: what the policy is told; needed where no sentence is known.
            side: pixels of a frame.
            control_mode: what actions mean; its space must be a bounded Box with one axis.
            sim_backend: of ManiSkill.
            render_backend: of ManiSkill: `gpu`, `cpu` or a device; it draws with Vulkan.
            goal: whether marks that its cameras do not see are shown.
            **options: for `gymnasium.make`.

        Raises:
            WorldError: there is no such task, or nothing is known to tell the policy.
        """
        told = instruction or SENTENCES.get(id)
        if told is None:
            raise WorldError(
                f"environment.options.instruction: no sentence is known for {id}; say one, such as "
                f"{_words(id)!r}"
            )
        self.id, self.told, self._show, self.render_mode = id, told, goal, "rgb_array"
        try:
            self._env = gymnasium.make(
                id,
                num_envs=1,
                obs_mode="rgb",
                control_mode=control_mode,
                sim_backend=sim_backend,
                render_backend=render_backend,
                sensor_configs={"width": side, "height": side},
                **options,
            )
        except gymnasium.error.Error as error:
            raise WorldError(f"environment.options.id: {id} cannot be made: {error}") from error
        spec = self._env.spec
        self.max_steps = int(spec.max_episode_steps or 0) if spec is not None else 0
        actions: Any = self._env.unwrapped
        actions = actions.single_action_space
        self.action_space = Box(actions.low, actions.high, actions.shape, np.float32)
        self._seen = self._observation(self._begin(0))
        spaces: dict[str, gymnasium.Space[Any]] = {
            key: Box(0, 255, value.shape, np.uint8)
            for key, value in self._seen.items()
            if isinstance(value, np.ndarray) and value.dtype == np.uint8
        }
        spaces["instruction"] = Text(400, charset=printable)
        spaces["state"] = Box(-np.inf, np.inf, self._seen["state"].shape, np.float32)
        self.observation_space = Dict(spaces)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, which its seed decides."""
        del options
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._seen = self._observation(self._begin(seed))
        return self._seen, {"task": self.id, "is_success": False}

    def step(self, action: Floats) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Act; success and failure end the episode."""
        observed, reward, terminated, truncated, info = self._env.step(
            np.asarray(action, np.float32)
        )
        self._seen = self._observation(observed)
        success = bool(_first(info["success"])) if "success" in info else False
        ended, cut = bool(_first(terminated)), bool(_first(truncated))
        return self._seen, float(_first(reward)), ended, cut, {"is_success": success}

    def render(self) -> npt.NDArray[np.uint8]:
        """The frame of the first camera."""
        frame: npt.NDArray[np.uint8] = next(iter(self._seen.values()))
        return frame

    def close(self) -> None:
        """Close it."""
        self._env.close()

    def _begin(self, seed: int) -> Any:
        """Reset, and show what a task hides."""
        observed, _ = self._env.reset(seed=seed)
        hidden: list[Any] = getattr(self._env.unwrapped, "_hidden_objects", [])
        if not (self._show and hidden):
            return observed
        for thing in hidden:
            thing.show_visual()
        hidden.clear()
        unwrapped: Any = self._env.unwrapped
        return unwrapped.get_obs()

    def _observation(self, observed: Mapping[str, Any]) -> dict[str, Any]:
        frames = {name: _first(sensor["rgb"]) for name, sensor in observed["sensor_data"].items()}
        hand = [_first(observed["agent"]["qpos"]), *_numbers(observed.get("extra", {}))]
        state = np.concatenate([np.ravel(part) for part in hand]).astype(np.float32)
        return {**frames, "instruction": self.told, "state": state}


def make(options: dict[str, Any]) -> ManiSkill:
    """One environment; `options` are those of `ManiSkill`."""
    try:
        importlib.import_module("mani_skill.envs")
    except ImportError as error:
        raise WorldError(
            f"environment.id: ManiSkill cannot be imported: {error}; name an interpreter that has "
            "it, and a machine that draws with Vulkan, in environment.python (docs/simulators.md)"
        ) from error
    return ManiSkill(**options)


def _first(batch: Any) -> npt.NDArray[Any]:
    """The only row of a tensor, wherever it lies."""
    plain = np.asarray(batch.cpu() if hasattr(batch, "cpu") else batch)
    row: npt.NDArray[Any] = np.asarray(plain[0] if plain.ndim else plain)
    return row


def _numbers(extra: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
    """What a task adds to its observation, in the order of the names."""
    found: list[npt.NDArray[Any]] = []
    for name in sorted(extra):
        value = extra[name]
        found += _numbers(value) if isinstance(value, Mapping) else [_first(value)]
    return found


def _words(name: str) -> str:
    """PickCube-v1 as `pick cube`."""
    return " ".join(re.findall(r"[A-Z][a-z]*|\d+", name.split("-", 1)[0])).lower()
