"""The far side of simulators that need an interpreter of their own; `apart` is the near side.

That other interpreter, Python 3.9 or later without posttrain, runs this file: it imports the
standard library, numpy and, when told which, one adapter. The two sides talk over a socket. A
message is the length of a JSON header, the header, and the bytes of the arrays that the header
lists. Nothing is pickled, and what a simulator prints cannot get into a message.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import struct
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Header = dict[str, Any]

LENGTH = struct.Struct("!I")
LONGEST_HEADER = 1 << 26
FAMILY = "posttrain_far"
"""Under this name the folder of this file is a package on the far side, for its adapters only."""


class WireError(ValueError):
    """A message that is none."""


def send(connection: socket.socket, header: Header, arrays: Arrays | None = None) -> None:
    """Send one message.

    Args:
        connection: where to.
        header: what JSON can hold.
        arrays: numpy arrays by name, of plain numbers.
    """
    rows = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in rows.items()]
    text = json.dumps({"header": header, "arrays": listed}).encode()
    connection.sendall(LENGTH.pack(len(text)) + text)
    for array in rows.values():
        if array.size:
            connection.sendall(array.data.cast("B"))


def receive(connection: socket.socket, deadline: float | None = None) -> tuple[Header, Arrays]:
    """Wait for one message.

    Args:
        connection: where from.
        deadline: on the monotonic clock, in seconds; None waits for ever.

    Raises:
        EOFError: the other side has closed.
        TimeoutError: the deadline has passed.
        WireError: what came is no message.
    """
    (length,) = LENGTH.unpack(_read(connection, bytearray(LENGTH.size), deadline))
    if length > LONGEST_HEADER:
        raise WireError(
            f"a header of {length} bytes was announced; the longest is {LONGEST_HEADER}"
        )
    message = json.loads(bytes(_read(connection, bytearray(length), deadline)))
    arrays: Arrays = {}
    for name, kind, shape in message["arrays"]:
        dtype = np.dtype(kind)
        if dtype.hasobject:
            raise WireError(f"array {name!r} holds objects; only numbers are sent")
        array = np.empty(shape, dtype)
        if array.size:
            _read(connection, array.data.cast("B"), deadline)
        arrays[name] = array
    return message["header"], arrays


def _read(connection: socket.socket, into: Any, deadline: float | None) -> Any:
    view = memoryview(into)
    while view:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        count = connection.recv_into(view)
        if count == 0:
            raise EOFError
        view = view[count:]
    return into


def describe(space: Any) -> Header:
    """A gymnasium space as JSON.

    Raises:
        TypeError: it is of no kind that a policy can meet.
    """
    kind = type(space).__name__
    if kind == "Dict":
        return {"kind": kind, "spaces": {key: describe(s) for key, s in space.spaces.items()}}
    if kind == "Discrete":
        return {"kind": kind, "n": int(space.n), "start": int(getattr(space, "start", 0))}
    if kind == "Text":
        return {"kind": kind, "max_length": int(space.max_length)}
    if kind == "Box":
        return {
            "kind": kind,
            "low": _bound(space.low),
            "high": _bound(space.high),
            "shape": list(space.shape),
            "dtype": np.dtype(space.dtype).str,
        }
    raise TypeError(f"a space of kind {kind} cannot be observed or acted in here")


def _bound(array: Any) -> Any:
    first = array.flat[0].item() if array.size else 0
    return first if (array == first).all() else array.tolist()


class Row:
    """Environments that are stepped one after the other, and what they last showed."""

    def __init__(self, make: Callable[[], Any], count: int, max_steps: int | None) -> None:
        """Make them.

        Args:
            make: one environment.
            count: how many.
            max_steps: the recipe's limit on an episode; without, the environment's own.
        """
        self.envs = [make() for _ in range(count)]
        first = self.envs[0]
        spec = getattr(first, "spec", None)
        own = getattr(spec, "max_episode_steps", None) or getattr(
            first.unwrapped, "max_steps", None
        )
        self.max_steps = max_steps or own
        spaces = getattr(first.observation_space, "spaces", None)
        if spaces is None:
            raise TypeError(f"observations are no Dict, but {first.observation_space}")
        self.texts = [key for key, space in spaces.items() if not hasattr(space, "low")]
        self.seen: Arrays = {
            key: np.zeros((count, *space.shape), space.dtype)
            for key, space in spaces.items()
            if key not in self.texts
        }
        self.words: dict[str, list[str]] = {key: [""] * count for key in self.texts}
        self.steps = np.zeros(count, int)
        self.over = np.ones(count, bool)

    def offers(self) -> list[str]:
        """Which of the optional methods the environments have."""
        wanted = ("expert_action", "idle_action")
        return [name for name in wanted if hasattr(self.envs[0].unwrapped, name)]

    def reset(self, seeds: Sequence[int | None], mask: Sequence[bool]) -> tuple[Header, Arrays]:
        """Begin new episodes where `mask` says so."""
        tasks: list[str | None] = [None] * len(self.envs)
        success = np.zeros(len(self.envs), bool)
        for i, env in enumerate(self.envs):
            if mask[i]:
                observation, info = env.reset(seed=seeds[i])
                self._keep(i, observation)
                self.steps[i], self.over[i] = 0, False
                success[i] = bool(np.any(info.get("is_success", False)))
                tasks[i] = str(info["task"]) if "task" in info else None
        return {"words": self.words, "tasks": tasks}, {**self._shown(), "success": success}

    def step(self, actions: Any) -> tuple[Header, Arrays]:
        """Act in all environments; one whose episode is over stays as it ended."""
        count = len(self.envs)
        reward = np.zeros(count)
        ended, cut, success, known = (np.zeros(count, bool) for _ in range(4))
        for i, env in enumerate(self.envs):
            if self.over[i]:
                continue
            observation, gain, terminated, truncated, info = env.step(actions[i])
            self._keep(i, observation)
            self.steps[i] += 1
            limit = self.max_steps is not None and self.steps[i] >= self.max_steps
            reward[i], ended[i] = float(gain), bool(terminated)
            cut[i] = bool(truncated) or (limit and not terminated)
            known[i] = "is_success" in info
            success[i] = known[i] and bool(np.any(info["is_success"]))
            self.over[i] = ended[i] or cut[i]
        arrays = {"reward": reward, "ended": ended, "cut": cut, "success": success, "known": known}
        return {"words": self.words}, {**self._shown(), **arrays}

    def ask(self, name: str, mask: Sequence[bool]) -> tuple[Header, Arrays]:
        """What `expert_action` or `idle_action` of the environments under `mask` return."""
        space = self.envs[0].action_space
        actions = np.zeros((len(self.envs), *space.shape), space.dtype)
        for i, env in enumerate(self.envs):
            if mask[i]:
                actions[i] = getattr(env.unwrapped, name)()
        return {}, {"actions": actions}

    def _keep(self, i: int, observation: dict[str, Any]) -> None:
        for key, rows in self.seen.items():
            rows[i] = observation[key]
        for key, words in self.words.items():
            words[i] = str(observation[key])

    def _shown(self) -> Arrays:
        return {"seen/" + key: rows for key, rows in self.seen.items()}

    def close(self) -> None:
        """Close them all."""
        for env in self.envs:
            env.close()


def factory(where: str) -> Callable[[dict[str, Any]], Any]:
    """The function of options that makes one environment.

    Args:
        where: `module:function` of this interpreter, `file.py:function`, or a gymnasium id.
    """
    place, _, called = where.rpartition(":")
    if called.isidentifier() and place:
        made: Callable[[dict[str, Any]], Any] = getattr(_module(place), called)
        return made
    import gymnasium

    return lambda options: gymnasium.make(where, **options)


def _module(place: str) -> Any:
    """A module by its name, or by its file: then its neighbours are those of that file."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    package = types.ModuleType(FAMILY)
    package.__path__ = [str(path.parent)]
    sys.modules[FAMILY] = package
    return importlib.import_module(FAMILY + "." + path.stem)


def answer(row: Row, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Do what one message asks for."""
    call = header["call"]
    if call == "step":
        return row.step(arrays["actions"])
    if call == "reset":
        return row.reset(header["seeds"], header["mask"])
    return row.ask(call, header["mask"])


def begin(header: Header) -> tuple[Row, Header]:
    """Make the environments that the first message describes."""
    make, options = factory(header["where"]), header["options"]
    row = Row(lambda: make(dict(options)), header["count"], header["max_steps"])
    first = row.envs[0]
    return row, {
        "observations": describe(first.observation_space),
        "actions": describe(first.action_space),
        "max_steps": None if row.max_steps is None else int(row.max_steps),
        "offers": row.offers(),
    }


def main(handle: int) -> None:
    """Serve the connection with this number until it closes."""
    os.set_inheritable(handle, False)
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    connection = socket.socket(fileno=handle)
    row: Row | None = None
    while True:
        try:
            header, arrays = receive(connection)
        except (EOFError, ConnectionError):
            break
        try:
            if row is None:
                row, said = begin(header)
                reply: Arrays = {}
            else:
                said, reply = answer(row, header, arrays)
        except Exception as error:  # noqa: BLE001, RUF100 - it is told to the near side
            last = traceback.format_exc().strip().splitlines()[-7:]
            said, reply = {"error": f"{type(error).__name__}: {error}", "trace": last}, {}
        send(connection, said, reply)
    if row is not None:
        row.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
