"""The parts of a recipe that say what D is, and what its returns are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from posttrain.tuning.requirement import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """Make part of the demonstrations wrong, to produce a weaker dataset on purpose.

    `no_carry` adds digit by digit and forgets the carry; `flip` swaps a binary label;
    `shuffle` gives a unit any answer that occurs in the data.
    """

    share: float
    how: Literal["no_carry", "flip", "shuffle"]

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"share must lie in [0, 1], got {self.share!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Where prompts and demonstrations come from.

    `path` is `reasoning_gym:TASK`, `shapes` (pictures), `vault` (tools), `asset:NAME`, a .jsonl or
    .parquet file, or whatever `datasets.load_dataset` takes (a Hub name, a folder). `options` goes
    to the task's maker or to `load_dataset`. `columns` maps our names (prompt, completion, answer,
    unit, images) to the file's.
    `heldout` units are set aside by a hash of the prompt, the same in every run, and are never
    trained on.
    With several `demonstrators`, each answers every prompt, and each is careless on its own.
    `rejected` makes a wrong answer to every prompt, for DPO; files have theirs in the columns
    `chosen` and `rejected`.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    size: int | None = None
    heldout: int = 500
    heldout_path: str | None = None
    seed: int = 1
    demonstrators: int = 1
    corruption: Corruption | None = None
    rejected: Literal["no_carry", "flip", "shuffle"] | None = None

    def __post_init__(self) -> None:
        require(self.heldout >= 2, f"heldout must be >= 2 units, got {self.heldout!r}")
        require(self.demonstrators >= 1, f"demonstrators must be >= 1, got {self.demonstrators!r}")
        require(self.size is None or self.size >= 2, f"size must be >= 2, got {self.size!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGymReward:
    """Score with a reasoning-gym task.

    `exact` compares with the stored answer; `solved` asks the task's scorer for a full 1.0;
    `partial` passes its score on, substring credit and all.
    """

    scoring: Literal["exact", "solved", "partial"] = "exact"
    extract: str | None = None
    kind: Literal["reasoning_gym"] = "reasoning_gym"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactReward:
    """1 where the completion equals the row's `answer` column, else 0.

    `extract` is a regular expression whose first group is compared instead of the whole text.
    """

    answer: str = "answer"
    extract: str | None = None
    ignore_case: bool = False
    kind: Literal["exact"] = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexReward:
    """1 where the pattern is found in the completion, else 0."""

    pattern: str
    kind: Literal["regex"] = "regex"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlReward:
    """A reward of `trl.rewards`, by name."""

    name: str
    kind: Literal["trl"] = "trl"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReward:
    """Your own reward, `module:function`, with TRL's signature."""

    path: str
    kind: Literal["function"] = "function"

    def __post_init__(self) -> None:
        require(
            self.path.count(":") == 1 and all(self.path.split(":")),
            f"path must read module:function, got {self.path!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentReward:
    """What the environment's own `get_reward()` says at the end of a rollout."""

    kind: Literal["environment"] = "environment"


RewardSettings: TypeAlias = Annotated[
    ReasoningGymReward | ExactReward | RegexReward | TrlReward | FunctionReward | EnvironmentReward,
    Field(discriminator="kind"),
]
