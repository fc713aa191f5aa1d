"""How strong is an intervention at a step?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

Shape: TypeAlias = Literal["linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A strength that changes with the step.

    Climbs from 0 to `start` over the first `rise` steps, then moves from `start` to `end`
    over the next `steps`, then stays at `end`. `end=None` means `start`: a constant.

    >>> Ramp(1.0, 0.0, steps=10)(5)
    0.5
    >>> Ramp(0.2)(1_000)
    0.2
    """

    start: float
    end: float | None = None
    steps: int = 0
    shape: Shape = "linear"
    rise: int = 0

    def __post_init__(self) -> None:
        check_choice("Ramp.shape", self.shape, Shape)
        for name, value in (("start", self.start), ("end", self.final)):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"Ramp.{name} must be a finite number >= 0, got {value!r}")
        for name, count in (("steps", self.steps), ("rise", self.rise)):
            if count < 0:
                raise ValueError(f"Ramp.{name} must be >= 0, got {count!r}")
        if self.final != self.start and self.steps == 0:
            raise ValueError(
                f"Ramp from {self.start} to {self.final} needs steps >= 1, got 0: "
                "over how many steps should the strength change?"
            )

    @property
    def final(self) -> float:
        """The strength that is kept for ever."""
        return self.start if self.end is None else self.end

    @property
    def peak(self) -> float:
        """The largest strength at any step."""
        return max(self.start, self.final)

    def __call__(self, step: int) -> float:
        """Strength at `step`, counted from 0."""
        if step < self.rise:
            return self.start * step / self.rise
        if self.steps == 0 or step - self.rise >= self.steps:
            return self.final
        done = (step - self.rise) / self.steps
        share = done if self.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * done)
        return self.start + (self.final - self.start) * share

    def times(self, factor: float) -> Ramp:
        """The same course, `factor` times as strong."""
        end = None if self.end is None else self.end * factor
        return replace(self, start=self.start * factor, end=end)

    def total(self, steps: int) -> float:
        """Sum of the strength over the steps 0 .. steps - 1, in closed form.

        >>> Ramp(1.0, 0.0, steps=4).total(10)
        2.5
        """
        risen = min(steps, self.rise)
        moved = min(max(steps - self.rise, 0), self.steps)
        kept = max(steps - self.rise - self.steps, 0)
        climb = self.start * risen * (risen - 1) / (2 * self.rise) if risen else 0.0
        move = self.start * moved + (self.final - self.start) * self._shares(moved)
        return climb + move + self.final * kept

    def _shares(self, moved: int) -> float:
        """Sum of the first `moved` shares of the way from start to end."""
        if moved == 0:
            return 0.0
        if self.shape == "linear":
            return moved * (moved - 1) / (2 * self.steps)
        angle = (
            math.pi / self.steps
        )  # sum of cos(j a) for j < n is sin(n a/2) cos((n-1) a/2) / sin(a/2)
        cosines = math.sin(moved * angle / 2) * math.cos((moved - 1) * angle / 2)
        return 0.5 * (moved - cosines / math.sin(angle / 2))


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a Literal's.

    Raises:
        ValueError: with the name, the choices, and what came.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {list(get_args(choices))}, got {value!r}")


def ramp(strength: float | Ramp) -> Ramp:
    """Read a plain number as a constant strength."""
    return strength if isinstance(strength, Ramp) else Ramp(float(strength))


OFF = Ramp(0.0)
"""No strength, ever."""
