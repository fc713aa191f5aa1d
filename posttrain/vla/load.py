"""D from where the recipe says: made, a LeRobot dataset, Minari, or rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode

if TYPE_CHECKING:
    from posttrain.vla.settings import DataSettings, EnvironmentSettings

MINARI = "minari:"
SHOWN = 3
"""Complaints of a broken dataset that are shown."""


def load(data: DataSettings, environment: EnvironmentSettings) -> tuple[Demonstrations, str]:
    """D with its held-out episodes last, and a sentence on where it comes from.

    Args:
        data: which D.
        environment: where it was collected, and where policies will act.

    Raises:
        DemonstrationsError: D cannot be read, is too small, or does not fit the environment.
    """
    if data.path == "made":
        return _made(data, environment)
    if data.options:
        raise DemonstrationsError(
            f"data.options: only what is `made` takes them, got {', '.join(data.options)} for "
            f"{data.path}"
        )
    found, kind = _source(data)
    ordered = _split(found, data)
    _check_against(ordered, environment)
    return ordered, _account(found, ordered, kind, data)


def _made(data: DataSettings, environment: EnvironmentSettings) -> tuple[Demonstrations, str]:
    from posttrain.vla.maker import make

    found = make(environment, data)
    said = ", ".join(f"{name} {value}" for name, value in data.options.items())
    return found, (
        f"D is made by the expert of {environment.id}{f' ({said})' if said else ''}: "
        f"{_size(found)}; {data.heldout} are held out, and all starts are known."
    )


def _size(found: Demonstrations) -> str:
    frames = sum(episode.length for episode in found.episodes)
    tasks = len({episode.task for episode in found.episodes})
    return f"{len(found.episodes)} episodes of {tasks} task{'s' * (tasks != 1)}, {frames} frames"


def _source(data: DataSettings) -> tuple[Demonstrations, str]:
    if data.path.startswith(MINARI):
        from posttrain.vla.minari_data import read_minari

        return read_minari(data.path.removeprefix(MINARI), data.columns), "Minari"
    from posttrain.vla.lerobot import local_folder, read, validate
    from posttrain.vla.lerobot.info import INFO, read_info

    if Path(data.path).is_file():
        from posttrain.vla.hf_data import read_rows

        return read_rows(Path(data.path), data.columns), "rows"
    folder = local_folder(data.path, data.revision)
    if not (folder / INFO).is_file():
        from posttrain.vla.hf_data import read_rows

        return read_rows(folder, data.columns), "rows"
    if broken := validate(folder):
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise DemonstrationsError(
            f"data.path: {folder} breaks the rules of its format: {'; '.join(broken[:SHOWN])}{more}"
        )
    found = read(folder, data.columns)
    name = data.path if folder != Path(data.path).expanduser() else found.name
    return replace(found, name=name), f"LeRobot {read_info(folder).version}"


def order(episodes: Sequence[Episode], seed: int) -> list[int]:
    """Places of the episodes in an order whose every beginning has each task's share.

    Args:
        episodes: of D.
        seed: of the permutation within each task, and of the order among them.
    """
    rng = np.random.default_rng((seed, len(episodes)))
    counts = Counter(episode.task for episode in episodes)
    taken: Counter[str] = Counter()
    keys: dict[int, tuple[float, float]] = {}
    ties = rng.random(len(episodes))
    for place in rng.permutation(len(episodes)).tolist():
        task = episodes[place].task
        keys[place] = ((taken[task] + 0.5) / counts[task], float(ties[place]))
        taken[task] += 1
    return sorted(keys, key=keys.__getitem__)


def _split(found: Demonstrations, data: DataSettings) -> Demonstrations:
    total = len(found.episodes)
    if total <= data.heldout:
        raise DemonstrationsError(
            f"data.heldout: {found.name} has {total} episodes, of which {data.heldout} are to be "
            "held out; wanted is one more at least, to clone"
        )
    places = order(found.episodes, data.seed)
    cloned = places[data.heldout : data.heldout + data.episodes]
    return found.only([*cloned, *places[: data.heldout]])


def _account(found: Demonstrations, ordered: Demonstrations, kind: str, data: DataSettings) -> str:
    total = len(found.episodes)
    left = total - len(ordered.episodes)
    known = sum(episode.seed is not None for episode in ordered.episodes)
    return (
        f"D is {found.name} ({kind}): {_size(ordered)}{f' ({left} more are not used)' * bool(left)}"
        f"; {data.heldout} are held out, and the starts of {known} are known."
    )


def _check_against(found: Demonstrations, environment: EnvironmentSettings) -> None:
    """Make the environment once, and see whether D's actions and cameras are its own."""
    from posttrain.vla.environments.make import make_fleet

    shapes = found.pictures.shapes
    if lost := [name for name in environment.cameras if name not in shapes]:
        raise DemonstrationsError(
            f"environment.cameras: D has no camera {lost[0]!r}, only {', '.join(shapes)}; "
            "data.columns names the column of a camera"
        )
    if environment.state and found.states is None:
        raise DemonstrationsError(
            "environment.state: D holds no state; data.columns.state names the column that does"
        )
    fleet = make_fleet(replace(environment, envs=1, vector="sync"))
    try:
        check_actions(found, fleet.action_space)
    finally:
        fleet.close()


def check_actions(found: Demonstrations, space: Any) -> None:
    """Refuse actions that the environment does not take.

    Args:
        found: D.
        space: `Discrete` from 0, or a `Box` with one axis.

    Raises:
        DemonstrationsError: they are of another kind or size, or outside of the space.
    """
    rows = [row for episode in found.episodes for row in episode.rows]
    actions = found.actions[rows]
    if hasattr(space, "n"):
        if actions.ndim != 1 or actions.dtype.kind not in "iu":
            raise DemonstrationsError(
                f"data: wanted actions of {space}, one whole number a frame, got {actions.dtype} "
                f"of shape {list(actions.shape)}; data.columns.action names another column"
            )
        if actions.min() < 0 or actions.max() >= space.n:
            raise DemonstrationsError(
                f"data: wanted actions of {space}, got {actions.min()} to {actions.max()}"
            )
        return
    size = int(np.prod(space.shape))
    if actions.ndim != 2 or actions.shape[1] != size or actions.dtype.kind != "f":
        raise DemonstrationsError(
            f"data: wanted actions of {size} numbers, as {space} takes, got {actions.dtype} of "
            f"shape {list(actions.shape)}; data.columns.action names another column"
        )
    slack = 1e-3 * (space.high - space.low)
    outside = (actions < space.low - slack) | (actions > space.high + slack)
    if outside.any():
        worst = actions[outside][0]
        raise DemonstrationsError(
            f"data: {outside.any(axis=1).mean():.1%} of D's actions lie outside of the "
            f"environment's {space}, such as {worst:g}: scale them as the environment does"
        )
