"""What callbacks must know of a fine-tuning, whatever kind of policy it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from posttrain.intervention.plan import Plan
from posttrain.record import MetricsLog
from posttrain.tuning.settings import MonitorSettings
from posttrain.tuning.world import World


class HasUnit(Protocol):
    """A row of D, or a start: what is sampled independently."""

    @property
    def unit(self) -> str:
        """Its name."""
        ...


class Experience(Protocol):
    """What the diagnosis measured of pi_0 and D."""

    @property
    def rows(self) -> Sequence[HasUnit]:
        """What RL trains on."""
        ...

    @property
    def heldout(self) -> Sequence[HasUnit]:
        """What it is measured on."""
        ...

    @property
    def prior(self) -> float:
        """J*_off."""
        ...

    @property
    def alpha(self) -> float:
        """Error of intervals."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest return."""
        ...

    @property
    def policy_returns(self) -> Mapping[str, Sequence[float]]:
        """Of pi_0, by unit."""
        ...

    @property
    def dataset_returns(self) -> Mapping[str, Sequence[float]]:
        """Of the demonstrations, by unit."""
        ...


class Settings(Protocol):
    """How long, and whether it is watched."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def monitor(self) -> MonitorSettings | None:
        """How it is watched."""
        ...


class Job(Protocol):
    """One fine-tuning."""

    @property
    def settings(self) -> Settings:
        """Of the recipe."""
        ...

    @property
    def plan(self) -> Plan:
        """What is kept."""
        ...

    @property
    def experience(self) -> Experience:
        """Where it starts."""
        ...

    @property
    def seed(self) -> int:
        """Of every draw."""
        ...

    @property
    def curve(self) -> MetricsLog:
        """One row an evaluation."""
        ...

    @property
    def events(self) -> MetricsLog:
        """What a monitor saw and did."""
        ...

    @property
    def world(self) -> World:
        """The processes."""
        ...
