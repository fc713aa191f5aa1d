"""Simulators in an interpreter of their own, where their pins clash with ours.

`environment.python` names the interpreter. It runs `serve`, a file that needs no posttrain, which
makes the environments and steps them; observations come back as bytes over a socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

import gymnasium
import numpy as np
import numpy.typing as npt

from posttrain.vla.environments.protocol import SUCCESS, TASK, WorldError
from posttrain.vla.environments.serve import Arrays, Header, WireError, receive, send

if TYPE_CHECKING:
    from posttrain.vla.settings import EnvironmentSettings

HERE = Path(__file__).resolve().parent
ADAPTERS = {
    "posttrain/FetchReach-v0": "fetch",
    "posttrain/MetaWorld-v0": "metaworld",
    "posttrain/Libero-v0": "libero",
    "posttrain/ManiSkill-v0": "maniskill",
}
"""Environments that are adapted here, and the module beside this one whose `make` makes them."""

GRACE = 3.0
"""Seconds that a simulator may take to close before it is killed."""

Masks = npt.NDArray[np.bool_]
Seen = dict[str, Any]


class SimulatorError(WorldError):
    """A simulator in another interpreter that failed, died or does not answer."""


class Apart:
    """Environments in another interpreter, with the methods of a gymnasium vector environment.

    Nothing resets itself. An environment whose episode is over stays as it ended, with reward 0,
    until a reset's mask names it.
    """

    def __init__(self, settings: EnvironmentSettings, *, starting: float, answering: float) -> None:
        """Start the interpreter and make the environments there.

        Args:
            settings: with `python`.
            starting: seconds until all environments must be made.
            answering: seconds that each environment has for each further answer.

        Raises:
            SimulatorError: it does not start, or the environments cannot be made.
        """
        self.num_envs, self.name = settings.envs, settings.id
        self._patience = answering * settings.envs
        options = _plain(settings.options)
        self._process, self._line, self._said, self._listener = _start(settings)
        self._finish = weakref.finalize(self, _end, self._process, self._line, os.getpid())
        request = {
            "call": "make",
            "where": where_is(settings.id),
            "options": options,
            "count": settings.envs,
            "max_steps": settings.max_steps,
        }
        try:
            made, _ = self._ask(request, None, starting)
        except SimulatorError:
            self.close()
            raise
        self.single_observation_space = space_of(made["observations"])
        self.single_action_space = space_of(made["actions"])
        self.max_steps: int | None = made["max_steps"]
        self.offers: tuple[str, ...] = tuple(made["offers"])
        """Which of `expert_action` and `idle_action` the environments have."""

    def reset(
        self,
        *,
        seed: Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: one for each environment; those that are not reset may have None.
            options: `reset_mask`, booleans `[num_envs]`; without it all are reset.

        Returns:
            The observations of all environments by key, and `is_success` and `task` of those that
            were reset, as arrays with their masks under the names with an underscore.
        """
        seeds = list(seed) if seed is not None else [None] * self.num_envs
        mask = self._mask((options or {}).get("reset_mask"))
        if len(seeds) != self.num_envs:
            raise SimulatorError(f"reset: wanted {self.num_envs} seeds, got {len(seeds)}")
        numbers = [None if s is None else int(s) for s in seeds]
        request = {"call": "reset", "seeds": numbers, "mask": mask.tolist()}
        said, arrays = self._ask(request, None, self._patience)
        named = np.array([task is not None for task in said["tasks"]])
        info: dict[str, Any] = {SUCCESS: arrays["success"], f"_{SUCCESS}": mask}
        if named.any():
            info |= {TASK: np.array(said["tasks"], dtype=object), f"_{TASK}": named}
        return self._seen(said, arrays), info

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[Seen, npt.NDArray[np.float64], Masks, Masks, dict[str, Any]]:
        """Act in all environments at once; `actions` is `[num_envs]` or `[num_envs, size]`."""
        said, arrays = self._ask({"call": "step"}, {"actions": actions}, self._patience)
        info = {SUCCESS: arrays["success"], f"_{SUCCESS}": arrays["known"]}
        return self._seen(said, arrays), arrays["reward"], arrays["ended"], arrays["cut"], info

    def expert_actions(self, mask: Masks | None = None) -> npt.NDArray[Any]:
        """What the experts of the environments under `mask` do now; zeros elsewhere.

        Raises:
            SimulatorError: these environments have no expert.
        """
        return self._actions("expert_action", mask)

    def idle_actions(self, mask: Masks | None = None) -> npt.NDArray[Any]:
        """Actions that lose time and nothing else; zeros where `mask` is not set.

        Raises:
            SimulatorError: these environments know none.
        """
        return self._actions("idle_action", mask)

    def close(self) -> None:
        """End the other interpreter."""
        self._finish()

    def _actions(self, name: str, mask: Masks | None) -> npt.NDArray[Any]:
        if name not in self.offers:
            raise SimulatorError(f"environment.id: {self.name} has no {name}()")
        request = {"call": name, "mask": self._mask(mask).tolist()}
        return np.asarray(self._ask(request, None, self._patience)[1]["actions"])

    def _mask(self, mask: Masks | None) -> Masks:
        chosen = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask, bool)
        if chosen.shape != (self.num_envs,):
            raise SimulatorError(
                f"reset_mask: wanted {self.num_envs} booleans, got shape {chosen.shape}"
            )
        return chosen

    def _seen(self, said: Header, arrays: Arrays) -> Seen:
        spaces = getattr(self.single_observation_space, "spaces", {})
        words = said["words"]
        return {k: tuple(words[k]) if k in words else arrays[f"seen/{k}"] for k in spaces}

    def _ask(
        self, request: Header, arrays: Arrays | None, patience: float
    ) -> tuple[Header, Arrays]:
        call = request["call"]
        if not self._finish.alive:
            raise SimulatorError(f"{self.name}: {call} after close")
        deadline = time.monotonic() + patience
        try:
            self._line.settimeout(patience)
            send(self._line, request, arrays)
            said, came = receive(self._line, deadline)
        except TimeoutError as error:
            self.close()
            raise self._lost(f"{call} took longer than {patience:g} s; it was ended") from error
        except (EOFError, OSError, WireError) as error:
            raise self._lost(f"{call} was not answered: {self._fate(error)}") from error
        if "error" in said:
            trace = "\n".join(said["trace"])
            raise SimulatorError(
                f"environment.id: {self.name} failed in {call}: {said['error']}\n{trace}"
            )
        return said, came

    def _fate(self, error: Exception) -> str:
        """What became of a process that fell silent."""
        if isinstance(error, WireError):
            return str(error)
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed the connection"
        return f"killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"

    def _lost(self, what: str) -> SimulatorError:
        self.close()
        self._listener.join(GRACE)  # its last words may still be in the pipe
        last = "\n".join(self._said)
        return SimulatorError(
            f"environment.python: the simulator of {self.name}: {what}"
            + (f". It said last:\n{last}" if last else "")
        )


def make_apart(
    settings: EnvironmentSettings, *, starting: float = 900.0, answering: float = 120.0
) -> Apart:
    """Environments in the interpreter `settings.python`.

    Args:
        settings: of the environment.
        starting: seconds that making all of them may take.
        answering: seconds that one step or reset of one of them may take.

    Raises:
        SimulatorError: they cannot be made there.
    """
    return Apart(settings, starting=starting, answering=answering)


def where_is(name: str) -> str:
    """What the other interpreter imports for an environment's id."""
    adapter = ADAPTERS.get(name)
    return name if adapter is None else f"{HERE / adapter}.py:make"


def space_of(said: Header) -> gymnasium.Space[Any]:
    """A gymnasium space from the JSON of `serve.describe`."""
    kind = said["kind"]
    if kind == "Dict":
        return gymnasium.spaces.Dict({k: space_of(v) for k, v in said["spaces"].items()})
    if kind == "Discrete":
        return gymnasium.spaces.Discrete(said["n"], start=said["start"])
    if kind == "Text":
        return gymnasium.spaces.Text(said["max_length"])
    shape, dtype = tuple(said["shape"]), np.dtype(said["dtype"])
    low, high = (np.broadcast_to(np.asarray(said[k], dtype), shape).copy() for k in ("low", "high"))
    return gymnasium.spaces.Box(low, high, shape, dtype.type)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(options)))
    except TypeError as error:
        raise SimulatorError(f"environment.options: cannot be sent as JSON: {error}") from error
    return plain


def _start(
    settings: EnvironmentSettings,
) -> tuple[subprocess.Popen[bytes], socket.socket, deque[str], Thread]:
    """The other interpreter, our end of the socket, the last lines that it printed, who listens."""
    near, far = socket.socketpair()
    command = [str(settings.python), "-u", str(HERE / "serve.py"), str(far.fileno())]
    try:
        process = subprocess.Popen(  # noqa: S603 - the user names the interpreter
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[far.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        near.close()
        raise SimulatorError(
            f"environment.python: {settings.python} cannot be run: {error.strerror}; wanted is the "
            "python of an environment in which the simulator is installed"
        ) from error
    finally:
        far.close()
    said: deque[str] = deque(maxlen=12)
    listener = Thread(target=_listen, args=(process.stdout, said), daemon=True)
    listener.start()
    return process, near, said, listener


def _listen(pipe: IO[bytes], said: deque[str]) -> None:
    """Keep the last lines of a process that may print as much as it likes."""
    with pipe:
        for line in pipe:
            said.append(line.decode(errors="replace").rstrip()[:500])


def _end(process: subprocess.Popen[bytes], line: socket.socket, owner: int) -> None:
    """Let the process close its environments, and end it and its children if it does not."""
    if os.getpid() != owner:
        return
    line.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
