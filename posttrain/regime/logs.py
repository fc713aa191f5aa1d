"""What did somebody else's evaluation measure? Logs of other tools as scores.

A log has a row an episode under names of its own: task or instruction, initial state or seed,
success, steps, perhaps a return. Columns of another meaning are left aside; what could be meant in
two ways is refused, until it is said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from posttrain.regime.column import COLUMNS, UNKNOWN, either, show
from posttrain.regime.log_files import Raw, read_raw
from posttrain.regime.scores import Scores, ScoresError, Source, read_scores

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "return": ("return", "reward", "episode_return", "sum_rewards"),
    "success": ("success", "is_success", "successes", "done_success"),
    "task": ("task", "task_name", "task_id", "env", "env_id", "instruction"),
    "init": ("init", "init_state_id", "init_id", "episode", "episode_ix", "trial", "seed"),
    "steps": ("steps", "episode_length", "num_steps"),
    "unit": ("unit",),
    "source": ("source",),
    "truncated": ("truncated",),
}
"""What scores (or a unit's name, `init`) take from a log -> what logs call it."""
STARTS: Final = ("init", "init_state_id", "init_id")
FLAGS: Final = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read a log where its names or its returns leave a choice."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """What -> the log's column, such as `return` -> `score`; keys are those of `NAMES`."""
    time_penalty: float | None = None
    """Make returns of success and time: success * (1 - time_penalty * steps / max_steps)."""
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if odd := [name for name in self.columns if name not in NAMES]:
            raise ScoresError(f"columns: wanted {either([*NAMES])} on the left, got '{odd[0]}'")
        if self.time_penalty is None:
            if self.max_steps is not None:
                raise ScoresError("max_steps says nothing without a time penalty")
            return
        if not 0 < self.time_penalty <= 1:
            raise ScoresError(f"the time penalty must lie in (0, 1], got {self.time_penalty:g}")
        if self.max_steps is None or self.max_steps < 1:
            raise ScoresError(
                "a time penalty needs max_steps, the limit of an episode: steps count as a share "
                "of it, the same for both sides"
            )


PLAIN: Final = Reading()


def read_log(
    path: str | os.PathLike[str], *, source: Source | None = None, reading: Reading = PLAIN
) -> Scores:
    """Read an evaluation log (.csv, .jsonl, .json, .parquet) as scores.

    The return is a column for it, or else success; LeRobot's sums of rewards are not taken unless
    `reading.columns` says so. A unit is "task/init"; without tasks it is the init, and without one
    every episode is a unit of its own.

    Args:
        path: The log.
        source: Whose episodes they are; where the log has a column `source`, keep these rows.
        reading: What to take where the log leaves a choice.

    Raises:
        ScoresError: Naming the file, and the columns that were found where they do not suffice.
    """
    path = Path(path)
    try:
        scores = _scores(read_raw(path), reading)
        if source is None:
            return scores
        if scores.source is None:
            return replace(scores, source=np.full(len(scores), source, dtype=object))
        kept = scores.where(source=source)
        if not len(kept):
            raise ScoresError(f"no row has source '{source}'")  # noqa: TRY301 - told with the file
    except ScoresError as error:
        raise ScoresError(f"{path}: {error}") from None
    except OSError as error:
        raise ScoresError(f"{path}: cannot be read ({error.strerror or error})") from error
    return kept


def read_any(
    path: str | os.PathLike[str], *, source: Source | None = None, reading: Reading = PLAIN
) -> Scores:
    """Read scores, or a log of another tool where the columns are not those of scores.

    Raises:
        ScoresError: As `read_scores` does for scores, and as `read_log` does for logs.
    """
    path = Path(path)
    if reading.columns or path.suffix.lower() == ".json":
        return read_log(path, source=source, reading=reading)
    try:
        scores = read_scores(path, source=source)
    except ScoresError:
        if not _is_log(path):
            raise
        return read_log(path, source=source, reading=reading)
    try:
        return penalised(scores, reading)
    except ScoresError as error:
        raise ScoresError(f"{path}: {error}") from None


def penalised(scores: Scores, reading: Reading) -> Scores:
    """Scores whose returns are made of success and time, where the reading asks for that.

    Raises:
        ScoresError: When success or the steps of an episode are unknown.
    """
    penalty, limit = reading.time_penalty, reading.max_steps
    if penalty is None or limit is None:
        return scores
    if scores.success is None or scores.steps is None:
        lacks = "success" if scores.success is None else "steps"
        raise ScoresError(f"a time penalty needs the column '{lacks}', which is not there")
    unsaid = np.flatnonzero(scores.steps == UNKNOWN)
    if unsaid.size:
        raise ScoresError(f"row {unsaid[0] + 1}: a time penalty needs its steps, which are unknown")
    share = np.minimum(scores.steps, limit) / limit
    return replace(scores, returns=scores.success * (1 - penalty * share), unscorable=None)


def by_success(scores: Scores) -> Scores | None:
    """The same episodes with success as their return; None where success is unknown."""
    if scores.success is None:
        return None
    return replace(scores, returns=scores.success.astype(np.float64), unscorable=None)


def _is_log(path: Path) -> bool:
    """Whether a column has a name that logs use and scores do not, or returns are lacking."""
    try:
        names = set(read_raw(path))
    except (ScoresError, OSError):
        return False
    told = {name for known in NAMES.values() for name in known}
    return bool((names & told) - set(COLUMNS)) or (
        "return" not in names and bool(names & set(NAMES["success"]))
    )


def _scores(raw: Raw, reading: Reading) -> Scores:
    chosen = {what: _choose(what, raw, reading) for what in NAMES}
    won = None if chosen["success"] is None else _flags(raw, chosen["success"])
    if chosen["return"] is None and won is None:
        raise ScoresError(f"no column for returns and none for success ({_there(raw)})")
    returns = won if chosen["return"] is None else _numbers(raw, chosen["return"])
    tasks = _texts(raw, chosen["task"])
    rows: dict[str, Any] = {
        "returns": [None if value is None else float(value) for value in returns or ()],
        "success": won,
        "task": tasks,
        "unit": _texts(raw, chosen["unit"]) or _units(tasks, _texts(raw, chosen["init"])),
        "steps": chosen["steps"] and _numbers(raw, chosen["steps"]),
        "truncated": chosen["truncated"] and _flags(raw, chosen["truncated"]),
        "source": _texts(raw, chosen["source"]),
    }
    return penalised(Scores(**rows), reading)


def _choose(what: str, raw: Raw, reading: Reading) -> str | None:
    """The log's column for this; None where it has none."""
    if what in reading.columns:
        name = reading.columns[what]
        if name not in raw:
            raise ScoresError(f"no column '{name}' to take as {what} ({_there(raw)})")
        return name
    found = [n for n in NAMES[what] if n in raw and any(v is not None for v in raw[n])]
    if what == "init":
        return _init(found, raw, reading)
    if what == "task" and len(found) > 1:
        found = _one_meaning([n for n in found if len(set(map(str, raw[n]))) > 1] or found[:1], raw)
    if len(found) > 1:
        raise ScoresError(
            f"{len(found)} columns could be the {what}: {', '.join(found)}; say which with "
            f"--columns {what}={found[0]}"
        )
    return found[0] if found else None


def _one_meaning(found: list[str], raw: Raw) -> list[str]:
    """Only the first, where all divide the episodes alike."""
    groups = {len(set(zip(*(map(str, raw[n]) for n in names), strict=True)))
              for names in ([n] for n in found)}  # fmt: skip
    every = len(set(zip(*(map(str, raw[n]) for n in found), strict=True)))
    return found[:1] if groups == {every} else found


def _init(found: list[str], raw: Raw, reading: Reading) -> str | None:
    """What tells starts apart: an initial state, a seed that is each episode's own, a number."""
    varied = [n for n in found if len(set(map(str, raw[n]))) > 1]
    first = [n for n in varied if n in STARTS]
    if first or not varied:
        return first[0] if first else None
    task = _choose("task", raw, reading)
    if "seed" in varied:
        names = [raw["seed"]] if task is None else [raw[task], raw["seed"]]
        if len(set(zip(*(map(str, c) for c in names), strict=True))) == len(raw["seed"]):
            return "seed"
    return varied[0]


def _units(tasks: list[Any] | None, inits: list[Any] | None) -> list[str] | None:
    if inits is None or any(init is None for init in inits):
        return None
    if tasks is None:
        return [str(init) for init in inits]
    return [f"{task}/{init}" for task, init in zip(tasks, inits, strict=True)]


def _texts(raw: Raw, name: str | None) -> list[Any] | None:
    if name is None:
        return None
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in raw[name]]
    return [None if v is None else str(v) for v in whole]


def _flags(raw: Raw, name: str) -> list[bool]:
    flags = []
    for row, value in enumerate(raw[name], start=1):
        flag = FLAGS.get(str(value).strip().lower())
        if flag is None:
            raise ScoresError(
                f"row {row}, column '{name}': wanted true or false, or 1 or 0, got {show(value)}"
            )
        flags.append(flag)
    return flags


def _numbers(raw: Raw, name: str) -> list[float | None]:
    numbers: list[float | None] = []
    for row, value in enumerate(raw[name], start=1):
        try:
            numbers.append(None if value is None else float(FLAGS.get(str(value).lower(), value)))
        except (TypeError, ValueError):
            raise ScoresError(
                f"row {row}, column '{name}': wanted a number, got {show(value)}"
            ) from None
    return numbers


def _there(raw: Raw) -> str:
    known = "; ".join(f"{what}: {', '.join(NAMES[what])}" for what in ("return", "success"))
    return f"there: {', '.join(raw)}; known names are {known}; or say --columns return=NAME"
