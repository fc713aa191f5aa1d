"""One recipe under inspection, and what is found when a check cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.intervention.plan import Plan, chain
from posttrain.llm.data import Row
from posttrain.llm.environment import Factory
from posttrain.llm.preflight import signal
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.preflight.leak import Overlap
from posttrain.llm.settings import LlmRecipe
from posttrain.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be asked of a preflight beside the recipe.

    `rollouts` a prompt are drawn now where the run has no scores. `accelerate` is the file that
    `accelerate launch` will be given. `overlap` says what counts as the same prompt.
    """

    rollouts: int = 0
    accelerate: Path | None = None
    overlap: Overlap = field(default_factory=Overlap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A recipe, its run's folder, and its rows. `scratch` is for what TRL insists on writing."""

    recipe: LlmRecipe
    options: Options
    record: Record
    scratch: Path
    train: Sequence[Row] = ()
    heldout: Sequence[Row] = ()
    factory: Factory | None = None
    """Makes the environments that the policy acts in, where the recipe names one."""

    @property
    def plan(self) -> Plan | None:
        """RL's plan; None while the diagnosis has yet to prescribe it."""
        if self.recipe.interventions != "prescribed":
            return chain(*self.recipe.interventions)(Plan())
        from posttrain.tuning.planned import plan_of

        stored = self.record.plan()
        return None if stored is None else plan_of(stored)

    @property
    def group(self) -> int:
        """Rollouts a group."""
        return signal.group_size(self.recipe.rl.trainer if self.recipe.rl is not None else {})

    @property
    def world(self) -> int:
        """Processes, as the accelerate file says."""
        if self.options.accelerate is None:
            return 1
        from posttrain.recipe import read

        return int(read(self.options.accelerate).get("num_processes", 1))

    @property
    def prompts(self) -> float:
        """Groups of one optimizer step."""
        trainer = self.recipe.rl.trainer if self.recipe.rl is not None else {}
        return signal.prompts_a_step(trainer, world=self.world)


def guarded(check: str, find: Callable[[], Iterable[Finding]], change: str) -> Iterable[Finding]:
    """Findings of a group; what the run itself would refuse becomes one that stops."""
    try:
        yield from find()
    except (ValueError, OSError) as error:
        yield Finding(check=check, severity="stop", text=str(error), change=change)


def not_rehearsed(text: str) -> Finding:
    """RL cannot be asked beforehand."""
    return Finding(
        check="rehearsal",
        severity="unknown",
        text=text,
        change="watch the first log of the run: regime/kl_to_pi0 must start at 0",
    )
