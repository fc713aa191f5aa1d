"""A recipe at work in its record, beside others of the same setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from control.agent import Agent, describe, load
from control.algorithm_settings import NetworkSettings
from control.data import Source
from control.experience import seeds_of
from control.settings import ControlRecipe
from posttrain.record import MetricsLog, Record


@dataclass(slots=True, eq=False)
class Work:
    """One run of a population. `error` says why it cannot go on; the others then go on alone."""

    recipe: ControlRecipe
    record: Record
    mark: str
    """Fingerprint of the recipe."""
    error: Exception | None = None

    @property
    def pi0(self) -> Path:
        """Folder of the pretrained agent."""
        return self.record.path / "pi0"

    @property
    def rollouts(self) -> Path:
        """What pi_0 did when it was diagnosed."""
        return self.record.path / "rollouts" / "pi0.hdf5"

    @property
    def alternatives(self) -> Path:
        """What the rules that the paper found weaker say."""
        return self.record.path / "alternatives.json"

    @property
    def curve(self) -> MetricsLog:
        """Evaluations during fine-tuning."""
        return MetricsLog(self.record.path / "curve.jsonl")

    def checkpoints(self, stage: str) -> Path:
        """Where a stage keeps what it needs to go on after a kill."""
        return self.record.path / "checkpoints" / stage

    def starts(self) -> list[int]:
        """Seeds of the episodes on which pi_0 and what becomes of it are measured.

        No training ever plays them: its seeds have another purpose.
        """
        found = seeds_of(self.recipe.seed, "diagnosis episodes", self.recipe.diagnose.episodes)
        return [seed % 2**31 for seed in found]


Load: TypeAlias = Callable[[], Source]
"""Gives D, read once for the whole population."""

Stage: TypeAlias = Callable[[Sequence[Work], Load], None]


@contextmanager
def alone(work: Work) -> Iterator[None]:
    """Keep an error that concerns one run from the others."""
    try:
        yield
    except Exception as error:  # whatever it is, it is this run's
        work.error = error


def sound(works: Sequence[Work]) -> list[Work]:
    """Those that can go on."""
    return [work for work in works if work.error is None]


def together(folders: Sequence[Path], *, device: str = "cpu") -> Agent:
    """Load saved agents as one population.

    Raises:
        ValueError: they differ in their networks, or one is missing.
    """
    members = [load(folder) for folder in folders]
    about = describe(members[0])
    for folder, one in zip(folders, members, strict=True):
        if describe(one) != about:
            raise ValueError(f"{folder}: its networks differ from those of {folders[0]}")
    networks = NetworkSettings(**about.pop("networks"))
    sizes = about.pop("observation"), about.pop("action")
    whole = Agent(networks, *sizes, members=len(members), **about)
    for m, one in enumerate(members):
        whole.member(m).load_state_dict(one.state_dict())
    whole.center.copy_(members[0].center)
    whole.scale.copy_(members[0].scale)
    return whole.to(device)
