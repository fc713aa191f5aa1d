"""What must be known of gymnasium-robotics and MuJoCo before their environments behave?

Imports of both stay inside the functions: environments of plain gymnasium need neither.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

__all__ = [
    "comparable_enums",
    "drop_model_file",
    "is_robotics",
    "plain_sky",
    "quiet_mujoco",
    "register",
]

_FAMILIES: Final = re.compile(
    "PointMaze|AntMaze|FrankaKitchen|AdroitHand|Fetch|HandReach|HandManip"
)
_KNOWN: Final = "compiler attribute 'settotalmass' is deprecated"
"""Said of half-cheetah's own model file, in every process and once more in MUJOCO_LOG.TXT."""


def is_robotics(env_id: str) -> bool:
    """Whether an id is of a family that gymnasium-robotics brings."""
    return _FAMILIES.match(env_id) is not None


def register() -> None:
    """Make gymnasium-robotics' ids known to gymnasium.

    The package prints a notice when it is imported, which is held back here: the dense rewards of
    AdroitHand{Door, Hammer, Relocate}-v1 changed in its release 1.2.1 with no new version of the
    ids, so that returns under D4RL's reference scores need release 1.2.0 for these three.

    Raises:
        ImportError: gymnasium-robotics is not installed.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics  # noqa: F401
    comparable_enums()


class _Enums:
    """MuJoCo's module, but for two enums whose members are plain whole numbers."""

    def __init__(self, mujoco: Any) -> None:
        self._mujoco = mujoco
        for name in ("mjtJoint", "mjtEq"):
            members = getattr(mujoco, name).__members__
            setattr(self, name, type(name, (), {key: int(value) for key, value in members.items()}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mujoco, name)


def comparable_enums() -> None:
    """Let gymnasium-robotics compare joint types under MuJoCo 3.17 and later, where it cannot.

    There `mjtJoint.mjJNT_HINGE == np.int32(3)` is False, while `get_joint_qpos` and its like ask
    just that: FrankaKitchen fails an assertion, Fetch's helpers would take the wrong branch.
    Nothing is done where the comparison holds.
    """
    import mujoco
    from gymnasium_robotics.utils import mujoco_utils

    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if hinge != np.int32(int(hinge)) and not isinstance(mujoco_utils.mujoco, _Enums):
        mujoco_utils.mujoco = _Enums(mujoco)


@contextlib.contextmanager
def plain_sky() -> Iterator[None]:
    """Let mazes be built with small textures: nothing that is simulated looks at the sky.

    A point's maze paints 11 MB of sky, which takes nine tenths of the time that making it takes.
    """
    from gymnasium_robotics.envs.maze import maze_v4

    original = maze_v4.Maze.__dict__["make_maze"]

    def make_maze(cls: Any, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        maze, path = original.__func__(cls, *args, **kwargs)
        tree = ElementTree.parse(path)  # noqa: S314 - written by gymnasium-robotics a moment ago
        for texture in tree.iter("texture"):
            if "builtin" in texture.attrib:
                texture.set("width", "8")
                texture.set("height", "8")
        tree.write(path)
        return maze, path

    maze_v4.Maze.make_maze = classmethod(make_maze)
    try:
        yield
    finally:
        maze_v4.Maze.make_maze = original


@contextlib.contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Hold back one warning of MuJoCo's compiler; others become Python warnings."""
    try:
        import mujoco
    except ImportError:  # then there is nothing to hold back
        yield
        return

    def say(message: str) -> None:
        if not message.startswith(_KNOWN):
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)

    mujoco.set_mju_user_warning(say)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)


def drop_model_file(bare: Any) -> None:
    """Delete the model file that a maze leaves in the temporary folder: it was read already."""
    path = getattr(bare, "tmp_xml_file_path", None)
    if path is not None:
        Path(path).unlink(missing_ok=True)
