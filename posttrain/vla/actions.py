"""Actions as tokens, and tokens as actions.

A Discrete action is one token. Each number of a Box action is cut into bins of one width between
two ends, which are quantiles of the demonstrations' actions, so that a few wild ones do not make
the bins coarse for all. Saved as `actions.json` beside a model's processor.

In `tail` mode the conventions are those of OpenVLA (arXiv 2406.09246): the tokens are the last ones
of the vocabulary, counted backwards, and there is one interval less than bins, the last bin holding
only what lies on the upper end or beyond.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from posttrain.vla.observation import Actions, Tokens
from posttrain.vla.ranges import ActionsError, Numbers, ranges, read_statistics
from posttrain.vla.settings import ActionSettings

FILE = "actions.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTokenizer:
    """Between actions of an environment and the action tokens of a model.

    >>> import numpy as np
    >>> reach = ActionTokenizer(
    ...     kind="box", size=4, low=(-1.0,), high=(1.0,), lower=(-1.0,), upper=(1.0,)
    ... )
    >>> tokens = reach.encode(np.array([[[-0.9]], [[0.3]]]))
    >>> tokens.tolist(), reach.decode(tokens).tolist()
    ([[0], [2]], [[[-0.75]], [[0.25]]])
    """

    kind: Literal["discrete", "box"]
    size: int
    """How many action tokens there are: n of Discrete, or bins."""
    chunk: int = 1
    start: int = 0
    """The least Discrete action."""
    low: Numbers = ()
    """Where the first bin begins, by dimension of a Box."""
    high: Numbers = ()
    """Where the last interval ends. Equal to `low` where D's actions never change."""
    lower: Numbers = ()
    """The Box's own bounds, which no action oversteps."""
    upper: Numbers = ()
    vocabulary: Literal["added", "tail"] = "added"
    ids: tuple[int, ...] = ()
    """Where the tokens stand in the model's vocabulary; empty until a model is known."""

    def __post_init__(self) -> None:
        if self.kind not in {"discrete", "box"} or self.vocabulary not in {"added", "tail"}:
            raise ActionsError(
                "kind must be discrete or box and vocabulary added or tail, got "
                f"{self.kind!r} and {self.vocabulary!r}"
            )
        least = 1 if self.kind == "discrete" else 2 + (self.vocabulary == "tail")
        if self.size < least or self.chunk < 1:
            raise ActionsError(
                f"size must be >= {least} and chunk >= 1, got {self.size} and {self.chunk}"
            )
        ends = (self.low, self.high, self.lower, self.upper)
        if len({len(end) for end in ends}) != 1 or bool(self.low) != (self.kind == "box"):
            raise ActionsError(
                "low, high, lower and upper must have a number for each dimension of a Box, and "
                f"none for Discrete, got {[len(end) for end in ends]}"
            )
        if not np.isfinite(np.array(ends)).all() or np.any(np.array(self.low) > self.high):
            raise ActionsError(f"ranges must be finite with low <= high, got {self.low, self.high}")
        if self.ids and len(set(self.ids)) != self.size:
            raise ActionsError(f"ids must be {self.size} different ones, got {len(set(self.ids))}")

    @property
    def dimensions(self) -> int:
        """Numbers of one action."""
        return len(self.low) or 1

    @property
    def per_decision(self) -> int:
        """Tokens of one decision: a chunk of actions."""
        return self.chunk * self.dimensions

    def encode(self, actions: Actions) -> Tokens:
        """Chunks of actions as tokens.

        Args:
            actions: `[n, chunk]` for Discrete, `[n, chunk, dimensions]` for Box.

        Returns:
            Tokens, counted from 0, `[n, per_decision]`: dimensions of the first action first.

        Raises:
            ActionsError: another shape, not finite, or not an action of the Discrete space.
        """
        given = np.asarray(actions)
        wanted = (self.chunk,) if self.kind == "discrete" else (self.chunk, self.dimensions)
        if given.shape[1:] != wanted:
            raise ActionsError(
                f"actions must be shaped [n, {', '.join(map(str, wanted))}], got "
                f"{list(given.shape)}"
            )
        tokens = self._numbers(given) if self.kind == "discrete" else self._bins(given)
        return tokens.reshape(len(given), self.per_decision)

    def _numbers(self, actions: Actions) -> Tokens:
        tokens = actions.astype(np.int64) - self.start
        if np.any(tokens + self.start != actions) or np.any((tokens < 0) | (tokens >= self.size)):
            raise ActionsError(
                f"a Discrete action must be a whole number from {self.start} to "
                f"{self.start + self.size - 1}, got {np.unique(actions)[:8].tolist()}"
            )
        return tokens

    def _bins(self, actions: Actions) -> Tokens:
        if not np.isfinite(actions).all():
            raise ActionsError("actions must be finite, got NaN or infinity")
        low, high = np.array(self.low), np.array(self.high)
        width = np.where(high > low, high - low, 1.0)
        unit = np.clip(2.0 * (actions.astype(np.float64) - low) / width - 1.0, -1.0, 1.0)
        tokens = np.digitize(unit, self._edges) - 1
        return np.where(high > low, np.minimum(tokens, self.size - 1), 0).astype(np.int64)

    @property
    def _edges(self) -> npt.NDArray[np.float64]:
        return np.linspace(-1.0, 1.0, self.size if self.vocabulary == "tail" else self.size + 1)

    def decode(self, tokens: Tokens) -> Actions:
        """Actions in the middle of their bins: the inverse of `encode`, up to half a bin.

        Args:
            tokens: `[n, per_decision]`.

        Returns:
            `[n, chunk]` int64 for Discrete, `[n, chunk, dimensions]` float32 for Box.

        Raises:
            ActionsError: another shape, or numbers that are no tokens.
        """
        given = np.asarray(tokens)
        if given.shape[1:] != (self.per_decision,):
            raise ActionsError(
                f"tokens must be shaped [n, {self.per_decision}], got {list(given.shape)}"
            )
        if np.any((given < 0) | (given >= self.size)):
            raise ActionsError(
                f"tokens must lie in [0, {self.size}), got {given.min()} to {given.max()}"
            )
        if self.kind == "discrete":
            return given.astype(np.int64) + self.start
        middle = (self._edges[:-1] + self._edges[1:]) / 2
        unit = middle[np.minimum(given, len(middle) - 1)].reshape(len(given), self.chunk, -1)
        low, high = np.array(self.low), np.array(self.high)
        return np.clip(0.5 * (unit + 1.0) * (high - low) + low, self.lower, self.upper).astype(
            np.float32
        )

    def placed(self, ids: Sequence[int]) -> ActionTokenizer:
        """The same, at some places of a vocabulary."""
        return replace(self, ids=tuple(int(i) for i in ids))

    def fits(self, space: Any) -> None:
        """Check that actions are those of an environment.

        Raises:
            ActionsError: another action space.
        """
        other = of_space(space, self.chunk, self.size)
        mine = (self.kind, self.start, len(self.low), self.size)
        theirs = (other.kind, other.start, len(other.low), other.size)
        if mine != theirs:
            raise ActionsError(f"the policy's actions are not those of {space}: {self}")

    def save(self, folder: Path) -> None:
        """Write `actions.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=1)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> ActionTokenizer:
        """Read `actions.json`.

        Raises:
            ActionsError: missing, no JSON, or fields that are missing, unknown or wrong.
        """
        file = folder / FILE
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ActionsError(f"cannot read {file}: {error}") from error
        names = set(ActionTokenizer.__dataclass_fields__)
        if not isinstance(found, dict) or set(found) != names:
            got = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise ActionsError(f"{file} must hold the fields {sorted(names)}, got {got}")
        try:
            return ActionTokenizer(**{name: _read(name, value) for name, value in found.items()})
        except (TypeError, ValueError) as error:
            raise ActionsError(f"{file}: {error}") from error


def _read(name: str, value: Any) -> Any:
    if name in {"kind", "vocabulary"}:
        return value
    kinds = (int, float) if name in {"low", "high", "lower", "upper"} else (int,)
    for number in value if isinstance(value, list) else [value]:
        if not isinstance(number, kinds) or isinstance(number, bool):
            raise ActionsError(f"{name} must hold numbers, got {number!r}")
    return tuple(value) if isinstance(value, list) else value


def of_space(space: Any, chunk: int, bins: int) -> ActionTokenizer:
    """Tokens of an action space, with bins over the whole Box.

    Raises:
        ActionsError: neither Discrete nor a bounded Box with one axis.
    """
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete):
        return ActionTokenizer(
            kind="discrete", size=int(space.n), start=int(space.start), chunk=chunk
        )
    if not isinstance(space, Box) or len(space.shape) != 1 or not space.is_bounded("both"):
        raise ActionsError(
            f"the action space must be Discrete, or a Box with one axis and bounds, got {space}; "
            "wrap the environment so that it takes one of these"
        )
    low, high = tuple(space.low.tolist()), tuple(space.high.tolist())
    return ActionTokenizer(
        kind="box", size=bins, chunk=chunk, low=low, high=high, lower=low, upper=high
    )


def from_data(space: Any, actions: Actions, settings: ActionSettings) -> ActionTokenizer:
    """Action tokens for an environment and the demonstrations' actions.

    Args:
        space: the environment's action space.
        actions: D's, `[n]` for Discrete, `[n, size]` for Box; only a Box's ranges look at them.
        settings: the recipe's `model.actions`.

    Raises:
        ActionsError: another space, or actions or statistics that are not of this space.
    """
    whole = replace(of_space(space, settings.chunk, settings.bins), vocabulary=settings.vocabulary)
    if whole.kind == "discrete":
        if settings.statistics:
            raise ActionsError("model.actions.statistics: Discrete actions have no ranges")
        return whole
    if settings.statistics:
        low, high = read_statistics(settings.statistics, whole.dimensions)
        return replace(whole, low=low, high=high)
    given = np.asarray(actions, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != whole.dimensions or not len(given):
        raise ActionsError(
            f"the demonstrations' actions must be shaped [n, {whole.dimensions}] for {space}, got "
            f"{list(given.shape)}"
        )
    if not np.isfinite(given).all():
        raise ActionsError("the demonstrations' actions must be finite, got NaN or infinity")
    low, high = ranges(np.clip(given, whole.lower, whole.upper), settings.quantiles)
    return replace(whole, low=low, high=high)
