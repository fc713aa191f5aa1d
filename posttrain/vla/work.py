"""A recipe of a robot policy at work in its record's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import record
from posttrain.record import Record
from posttrain.tuning.world import World
from posttrain.vla.settings import VlaRecipe
from posttrain.vla.starts import Start

if TYPE_CHECKING:
    from posttrain.vla.demonstrations import Demonstrations
    from posttrain.vla.environments.fleet import Fleet
    from posttrain.vla.policy import Policy

D = "demonstrations"


@dataclass(frozen=True)
class Run:
    """A recipe at work in its record's folder."""

    recipe: VlaRecipe
    record: Record
    world: World

    @cached_property
    def demonstrations(self) -> Demonstrations:
        """D as the run wrote it down, held-out episodes last; pictures are read when asked."""
        from posttrain.vla.lerobot import read

        return read(self.record.data / D)

    @property
    def heldout_count(self) -> int:
        """Episodes of D that are not cloned."""
        return int(record.read_json(self.record.data / "about.json")["heldout"])

    @property
    def cloned(self) -> Demonstrations:
        """The episodes of D that may be cloned."""
        whole = self.demonstrations
        return whole.only(range(len(whole.episodes) - self.heldout_count))

    @property
    def heldout(self) -> Demonstrations:
        """The others."""
        whole = self.demonstrations
        count = len(whole.episodes)
        return whole.only(range(count - self.heldout_count, count))

    def starts_of_d(self, part: Demonstrations) -> list[Start]:
        """Where episodes of D began, as far as D knows."""
        return [Start(e.seed, e.task) for e in part.episodes if e.seed is not None]

    def fleet(self) -> Fleet:
        """The environments, on this process."""
        from posttrain.vla.environments.make import make_fleet

        return make_fleet(self.recipe.environment)

    def load(self, path: Path) -> Policy:
        """A policy of this run, on the accelerator where there is one."""
        from posttrain.tuning.model import device
        from posttrain.vla.checkpoint import load

        recipe = self.recipe
        found = load(path, recipe.model, temperature=recipe.rollout.temperature)
        found.model.to(device())
        return found

    def base(self) -> Policy:
        """The policy before cloning: its model with action tokens, or a policy that it names."""
        from posttrain.vla.checkpoint import holds_policy
        from posttrain.vla.flow.start import is_pi0

        settings = self.recipe.model
        if holds_policy(settings.path):
            return self.load(Path(settings.path))
        found = self.cloned
        fleet = self.fleet()
        space: Any = fleet.action_space
        fleet.close()
        return (self._flow if is_pi0(settings) else self._speaker)(space, found)

    def _speaker(self, space: Any, found: Demonstrations) -> Policy:
        from posttrain.vla.actions import from_data
        from posttrain.vla.eyes import States
        from posttrain.vla.policy import make_policy

        settings, rows = self.recipe.model, self.rows(found)
        return make_policy(
            settings,
            from_data(space, found.actions[rows], settings.actions),
            instructions=self._instructions,
            shape=next(iter(found.pictures.shapes.values())),
            states=None if found.states is None else States.of(found.states[rows]),
            seed=self.recipe.seed,
        )

    def _flow(self, space: Any, found: Demonstrations) -> Policy:
        from posttrain.vla.flow.start import make_flow

        rows, reads = self.rows(found), self.recipe.environment.state
        made: Any = make_flow(
            self.recipe.model,
            space,
            found.actions[rows],
            found.states[rows] if reads and found.states is not None else None,
            instructions=self._instructions,
            cloned=self.recipe.sft is not None,
            seed=self.recipe.seed,
        )
        return made

    @property
    def _instructions(self) -> list[str]:
        return sorted({e.instruction for e in self.demonstrations.episodes})

    @staticmethod
    def rows(part: Demonstrations) -> list[int]:
        """All rows of some episodes."""
        return [row for episode in part.episodes for row in episode.rows]

    @property
    def execute(self) -> int:
        """Actions of a chunk that are carried out."""
        actions = self.recipe.model.actions
        return actions.execute or actions.chunk
