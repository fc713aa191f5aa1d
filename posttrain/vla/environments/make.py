"""From the name of an environment to environments: built in, gymnasium's, adapted, or one's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gymnasium

from posttrain.vla.environments.apart import ADAPTERS, make_apart
from posttrain.vla.environments.color_grid import ID, ColorGrid
from posttrain.vla.environments.color_grids import ColorGrids
from posttrain.vla.environments.fleet import Fleet, Simulators
from posttrain.vla.environments.near import Near
from posttrain.vla.environments.protocol import WorldError
from posttrain.vla.settings import EnvironmentSettings

HERE = "posttrain.vla.environments"
GRIDS = ("minigrid/", "BabyAI-", "MiniGrid-")
"""How names of MiniGrid's environments begin."""
MINIGRID = "minigrid"

Env = gymnasium.Env[Any, Any]
Made = TypeVar("Made", bound=Env)


def make_fleet(settings: EnvironmentSettings) -> Fleet:
    """The environments of a recipe, `settings.envs` of them.

    Raises:
        WorldError: there is no such environment, or it does not fulfil the protocol.
    """
    simulators = _simulators(settings)
    try:
        return Fleet(settings, simulators)
    except WorldError:
        simulators.close()
        raise


def _simulators(settings: EnvironmentSettings) -> Simulators:
    if settings.python is not None:
        return make_apart(settings)
    if settings.id == ID and settings.vector == "sync":
        options = _limited(settings.options, settings.max_steps)
        return ColorGrids([_called(ColorGrid, options, ID) for _ in range(settings.envs)])
    return Near(settings, make_env)


def make_env(settings: EnvironmentSettings) -> Env:
    """One environment of a recipe, in this interpreter.

    Raises:
        WorldError: there is no such environment, or its options do not fit.
    """
    name, options = settings.id, dict(settings.options)
    if name == ID:
        return _called(ColorGrid, _limited(options, settings.max_steps), name)
    if name.startswith(GRIDS):
        options = _limited(options, settings.max_steps)
        return _adapted(MINIGRID, {"id": name.removeprefix("minigrid/"), **options}, name)
    if name in ADAPTERS:
        return _adapted(ADAPTERS[name], options, name)
    module, _, factory = name.rpartition(":")
    if module and factory.isidentifier():
        return _own(module, factory, options, name)
    return _registered(name, options, settings.max_steps)


def _limited(options: Mapping[str, Any], max_steps: int | None) -> dict[str, Any]:
    return {**options, "max_steps": max_steps} if max_steps is not None else dict(options)


def _called(make: Callable[..., Made], options: Mapping[str, Any], name: str) -> Made:
    try:
        return make(**options)
    except TypeError as error:
        raise WorldError(f"environment.options: {name} does not take them: {error}") from error


def _adapted(module: str, options: dict[str, Any], name: str) -> Env:
    """An environment of another package, which a module beside this one adapts."""
    try:
        made: Env = importlib.import_module(f"{HERE}.{module}").make(options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("posttrain"):
            raise
        raise WorldError(
            f"environment.id: {name} needs the package {error.name!r}, which is not installed: "
            f"pip install 'posttrain[{module}]', or name an interpreter that has it in "
            "environment.python"
        ) from error
    except TypeError as error:
        raise WorldError(f"environment.options: {name} does not take them: {error}") from error
    return made


def _own(module: str, factory: str, options: dict[str, Any], name: str) -> Env:
    try:
        make = getattr(importlib.import_module(module), factory)
    except ModuleNotFoundError as error:
        raise WorldError(f"environment.id: {name}: no module {error.name!r}") from error
    except AttributeError as error:
        raise WorldError(f"environment.id: module {module} has no {factory!r}") from error
    env = make(options)
    if not isinstance(env, gymnasium.Env):
        raise WorldError(
            f"environment.id: {name} made {type(env).__name__}; wanted is a gymnasium.Env"
        )
    return env


def _registered(name: str, options: dict[str, Any], max_steps: int | None) -> Env:
    limit = {} if max_steps is None else {"max_episode_steps": max_steps}
    try:
        return gymnasium.make(name, disable_env_checker=True, **limit, **options)
    except gymnasium.error.Error as error:
        raise WorldError(f"environment.id: {name} cannot be made: {error}") from error
    except TypeError as error:
        raise WorldError(f"environment.options: {name} does not take them: {error}") from error
