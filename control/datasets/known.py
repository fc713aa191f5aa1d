"""What is there to know of a published dataset?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from control.settings import EnvSettings

__all__ = ["Env", "Known", "Score", "Success"]

Score: TypeAlias = Literal["return", "success"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """An environment of today that a dataset's policy can be evaluated in."""

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    differs: str | None = None
    """How it differs from where the data come from; None where it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """An episode succeeds where its highest reward, or its return, is at least `at`."""

    of: Literal["reward", "return"] = "reward"
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A dataset of D4RL's."""

    name: str
    horizon: int
    """Longest an episode may be, in steps."""
    hdf5: str | None = None
    """The file's name; None where none was published in this format."""
    url: str | None = None
    """Where D4RL takes that file from."""
    env: Env
    """For policies learnt from the .hdf5 file."""
    minari: str | None = None
    """Its successor: other data of the same task, never the same transitions."""
    minari_env: Env | None = None
    """For policies learnt from the successor."""
    goal: tuple[float, float] | None = None
    """x, y of the goal that the successor's rewards are relabelled to."""
    ref_min: float | None = None
    """Mean return of a uniformly random policy: normalised 0."""
    ref_max: float | None = None
    """Return of an expert: normalised 1."""
    score: Score = "return"
    success: Success | None = None
    reward_scale: float = 1.0
    reward_bias: float = 0.0
    failure_reward: float | None = None
    """Raw reward of each step before success on sparse tasks, for Cal-QL's bound."""
    labels: Literal["plain", "tasks", "touches"] = "plain"
    """What rewards and terminals in the file mean. "tasks": how many tasks are done at each step
    (see `control.datasets.kitchen`); "touches": every row near the goal, in trajectories that go on
    (see `control.datasets.touches`)."""
    study: bool = False
    """Whether it is among the 21 (see `control.datasets.registry`)."""

    def env_settings(self, *, minari: bool = False) -> EnvSettings:
        """Give the environment as a recipe says it.

        Raises:
            ValueError: When the successor's is asked for and there is none.
        """
        from control.settings import EnvSettings

        env = self.minari_env if minari else self.env
        if env is None:
            raise ValueError(f"'{self.name}' has no successor on Minari")
        return EnvSettings(
            id=env.id, kwargs=dict(env.kwargs), horizon=self.horizon, score=self.score
        )

    def failure_value(self, gamma: float) -> float | None:
        """What failing for ever is worth, in scaled rewards: (scale r + bias) / (1 - γ)."""
        if self.failure_reward is None:
            return None
        return (self.reward_scale * self.failure_reward + self.reward_bias) / (1.0 - gamma)
