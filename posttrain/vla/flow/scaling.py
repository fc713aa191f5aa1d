"""What brings states and actions to one scale for a flow: means and deviations of D."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.vla.flow.chain import FlowError
from posttrain.vla.flow.numbers import from_tokens, to_tokens

if TYPE_CHECKING:
    from posttrain.vla.observation import Actions, Floats, Tokens

FILE = "flow.json"
Numbers = tuple[float, ...]
LEAST = 1e-3
"""Deviations below it, of numbers that hardly change, are taken for 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Between an environment's numbers and the model's; saved beside the weights.

    It stands where a policy of action tokens has its action tokenizer.

    >>> import numpy as np
    >>> scaling = Scaling(lower=(-1.0,), upper=(1.0,), mean=(0.5,), deviation=(0.25,))
    >>> tokens = scaling.encode(np.array([[[0.75]], [[1.0]]]))
    >>> tokens.tolist(), scaling.decode(tokens).tolist()
    ([[1065353216], [1073741824]], [[[0.75]], [[1.0]]])
    """

    lower: Numbers
    """Bounds of the environment's actions, which none oversteps."""
    upper: Numbers
    mean: Numbers
    deviation: Numbers
    state_mean: Numbers = ()
    state_deviation: Numbers = ()
    chunk: int = 1

    def __post_init__(self) -> None:
        sizes = {len(x) for x in (self.lower, self.upper, self.mean, self.deviation)}
        if len(sizes) != 1 or 0 in sizes or len(self.state_mean) != len(self.state_deviation):
            raise FlowError(
                f"{FILE}: lower, upper, mean and deviation must have a number for each dimension "
                f"of an action, and the state's two likewise, got {asdict(self)}"
            )

    @property
    def size(self) -> int:
        """Numbers of an action."""
        return len(self.mean)

    @property
    def per_decision(self) -> int:
        """Numbers of a demonstrated decision."""
        return self.chunk * self.size

    def encode(self, actions: Actions) -> Tokens:
        """Demonstrated actions `[n, chunk, size]` as tokens, `[n, chunk * size]`.

        Raises:
            FlowError: another shape, or not finite.
        """
        given = np.asarray(actions, dtype=np.float64)
        if given.shape[1:] != (self.chunk, self.size) or not np.isfinite(given).all():
            raise FlowError(
                f"actions must be finite and shaped [n, {self.chunk}, {self.size}], got "
                f"{list(given.shape)}"
            )
        normal = (given - np.array(self.mean)) / np.array(self.deviation)
        return to_tokens(normal.reshape(len(given), -1))

    def decode(self, tokens: Tokens) -> Floats:
        """The environment's actions, `[n, chunk, size]`, of the last tokens of a chain."""
        numbers = from_tokens(tokens[:, -self.per_decision :])
        shaped = numbers.reshape(len(tokens), self.chunk, self.size).astype(np.float64)
        raw = shaped * np.array(self.deviation) + np.array(self.mean)
        return np.clip(raw, self.lower, self.upper).astype(np.float32)

    def state(self, states: Floats | None, n: int, width: int) -> Floats:
        """States on the model's scale, padded with zeros, `[n, width]`.

        A policy without proprioception looks at none that there may be.

        Raises:
            FlowError: there is no state, or one of another size, for a policy that reads it.
        """
        padded = np.zeros((n, width), np.float32)
        if not self.state_mean:
            return padded
        got = 0 if states is None else states.shape[1]
        if got != len(self.state_mean):
            raise FlowError(
                f"state: the policy reads {len(self.state_mean)} numbers of proprioception, got "
                f"{got}; environment.state says whether there are any"
            )
        if states is not None:
            padded[:, :got] = (states - np.array(self.state_mean)) / np.array(self.state_deviation)
        return padded

    def save(self, folder: Path) -> None:
        """Write `flow.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Scaling:
        """Read `flow.json`.

        Raises:
            FlowError: missing, or not what `save` writes.
        """
        file = folder / FILE
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            chunk = int(found.pop("chunk"))
            numbers = {k: tuple(float(x) for x in v) for k, v in found.items()}
            return Scaling(**numbers, chunk=chunk)
        except FlowError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise FlowError(f"cannot read {file}: {error}") from error


def from_data(
    space: Any, actions: Actions, states: Floats | None = None, *, chunk: int = 1
) -> Scaling:
    """Means and deviations of D's actions `[n, size]` and states `[n, size]`.

    Raises:
        FlowError: the action space is no bounded Box with one axis, or D's actions are not of it.
    """
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1 or not space.is_bounded("both"):
        raise FlowError(
            f"model.path: a flow-matching policy makes numbers, so the action space must be a Box "
            f"with one axis and bounds, got {space}; take a policy of action tokens for others"
        )
    given = np.asarray(actions, dtype=np.float64)
    if given.ndim != 2 or given.shape[1:] != space.shape or not np.isfinite(given).all():
        raise FlowError(f"the demonstrations' actions must be finite [n, {space.shape[0]}] numbers")
    mean, deviation = _moments(given)
    states_mean, states_deviation = ((), ()) if states is None else _moments(states)
    return Scaling(
        lower=tuple(space.low.tolist()),
        upper=tuple(space.high.tolist()),
        mean=mean,
        deviation=deviation,
        state_mean=states_mean,
        state_deviation=states_deviation,
        chunk=chunk,
    )


def _moments(x: Any) -> tuple[Numbers, Numbers]:
    spread = np.std(x, axis=0)
    return (
        tuple(np.mean(x, axis=0).tolist()),
        tuple(np.where(spread < LEAST, 1.0, spread).tolist()),
    )
