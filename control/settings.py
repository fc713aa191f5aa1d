"""What a control recipe may say. No torch here: `--help` must not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from posttrain.intervention.plan import Anchor, Replay, Reset, Warmup

Intervention: TypeAlias = Annotated[Anchor | Replay | Warmup | Reset, Field(discriminator="kind")]
Score: TypeAlias = Literal["return", "success"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvSettings:
    """An environment: any gymnasium id with Box spaces, or a dictionary of goals beside a Box.

    `kwargs` go to `gymnasium.make`. `horizon` limits an episode's steps. `frame_skip` is the number
    of physics steps a decision (mazes of points only), `maze` one of the project's own maps.
    `score` is what J counts: the undiscounted return, or success.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    frame_skip: int | None = None
    maze: str | None = None
    score: Score = "return"
