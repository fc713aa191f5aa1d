"""What a plan remembers on the way: kept in every checkpoint, given back on resume.

Most of a plan is a function of the step and needs no memory. What does (an adaptive coefficient,
a live gate, a monitor) is a `Stateful`, and is written into the checkpoint as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from transformers import TrainerCallback

from posttrain.record import write_json

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FILE = "posttrain.json"


class StateError(ValueError):
    """A checkpoint does not hold what the plan needs to go on."""


@runtime_checkable
class Stateful(Protocol):
    """A part of a run that remembers."""

    @property
    def name(self) -> str:
        """Its key in the file."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything it remembers, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Remember that again."""
        ...


class KeepState(TrainerCallback):
    """Write every part's memory into each checkpoint, before it is marked as whole."""

    def __init__(self, parts: Sequence[Stateful]) -> None:
        """Keep `parts`, whose names differ."""
        self.parts = tuple(parts)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """One file beside the weights."""
        if state.is_world_process_zero and self.parts:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / FILE, {part.name: part.state() for part in self.parts})


def restore_state(checkpoint: Path | None, parts: Sequence[Stateful]) -> None:
    """Give `parts` back what they remembered at `checkpoint`; None is a fresh start.

    Raises:
        StateError: the checkpoint was written by a run without one of them.
    """
    if checkpoint is None or not parts:
        return
    stored = read_state(checkpoint)
    for part in parts:
        if part.name not in stored:
            raise StateError(
                f"{checkpoint / FILE}: holds no state of {part.name!r}, so the run cannot go on "
                f"where it stopped; it holds {sorted(stored)}"
            )
        part.restore(stored[part.name])


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What was remembered at a checkpoint, by part; nothing where no part had a memory."""
    file = checkpoint / FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
