"""Frames of a MuJoCo model without a screen, as cheap as they come.

Shadows, reflections, the sky and anti-aliasing are off: on a CPU they cost many times what the
picture itself does, and show a policy nothing. Interpreters without posttrain import
this file as well.
"""

from __future__ import annotations

import importlib
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .protocol import WorldError

Ball = tuple[npt.NDArray[np.float64], float, tuple[float, float, float]]
"""Centre and radius in metres, and colour in [0, 1]."""


def headless() -> Any:
    """The module mujoco, told to draw without a screen where nothing else was said.

    Raises:
        WorldError: it is not installed.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as error:
        raise WorldError(
            f"environment.id: this one needs the package {error.name!r}: pip install "
            "'posttrain[control]', or see docs/simulators.md"
        ) from error


class Camera:
    """One view of one model."""

    def __init__(self, model: Any, view: str | Mapping[str, Any], side: int) -> None:
        """Set it up.

        Args:
            model: of MuJoCo. Its anti-aliasing is turned off.
            view: the name of one of the model's cameras, or `lookat`, `distance` (metres),
                `azimuth` and `elevation` (degrees) of a free one.
            side: pixels of its square frames.

        Raises:
            WorldError: there is no such camera, or nothing to draw with.
        """
        self._mujoco = mujoco = headless()
        self._view, self._options = self._placed(model, view), mujoco.MjvOption()
        model.vis.quality.offsamples = 0
        size = model.vis.global_
        size.offwidth, size.offheight = max(size.offwidth, side), max(size.offheight, side)
        self._model, self._rect = model, mujoco.MjrRect(0, 0, side, side)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}").value] = 0
        self._screen = _screen(side)
        self._screen.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._side = side
        self._finish = weakref.finalize(self, _free, self._screen, self._context)
        self._finish.atexit = False  # MuJoCo ends its displays there itself

    def frame(self, data: Any, balls: Sequence[Ball] = ()) -> npt.NDArray[np.uint8]:
        """What it sees now, `[side, side, 3]`, with balls that are drawn but touch nothing."""
        mujoco, scene = self._mujoco, self._scene
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._view, every, scene)
        for centre, radius, colour in balls:
            mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom],
                mujoco.mjtGeom.mjGEOM_SPHERE.value,
                np.full(3, radius),
                np.asarray(centre, np.float64),
                np.eye(3).ravel(),
                np.array([*colour, 1.0], np.float32),
            )
            scene.ngeom += 1
        drawn = np.empty((self._side, self._side, 3), np.uint8)
        self._screen.make_current()
        mujoco.mjr_render(self._rect, scene, self._context)
        mujoco.mjr_readPixels(drawn, None, self._rect, self._context)
        return np.ascontiguousarray(drawn[::-1])

    def close(self) -> None:
        """Give back what it draws with."""
        self._finish()

    def _placed(self, model: Any, view: str | Mapping[str, Any]) -> Any:
        camera = self._mujoco.MjvCamera()
        if isinstance(view, str):
            names = [model.camera(i).name for i in range(model.ncam)]
            if view not in names:
                raise WorldError(
                    f"environment.options.camera: wanted one of {', '.join(names)}, got {view!r}"
                )
            camera.type = self._mujoco.mjtCamera.mjCAMERA_FIXED.value
            camera.fixedcamid = names.index(view)
            return camera
        camera.lookat[:] = view["lookat"]
        camera.distance, camera.azimuth = view["distance"], view["azimuth"]
        camera.elevation = view["elevation"]
        return camera


def _screen(side: int) -> Any:
    """Something to draw on, as MUJOCO_GL says now, whoever imported mujoco first.

    Raises:
        WorldError: there is nothing.
    """
    kind = os.environ.get("MUJOCO_GL", "cgl" if sys.platform == "darwin" else "glfw")
    try:
        return importlib.import_module(f"mujoco.{kind}").GLContext(side, side)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise WorldError(
            f"MuJoCo cannot draw with MUJOCO_GL={kind}: {error}; without a screen, set it to egl "
            "(the library libegl1) or osmesa (libosmesa6)"
        ) from error


def _free(screen: Any, context: Any) -> None:
    """Free a context while its own screen is current: it would else take another's buffers."""
    screen.make_current()
    context.free()
    screen.free()
