"""What one check has to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["stop", "warn", "unknown", "ok"]
ORDER: tuple[Severity, ...] = ("stop", "warn", "unknown", "ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    `stop`: the run would be wrong or would fail. `warn`: it would run, and probably not as meant.
    `unknown`: it could not be looked at; `change` says how to find out.
    """

    check: str
    """Subject and what was looked at, such as `reward.empty`."""
    severity: Severity
    text: str
    """What was measured, in a sentence."""
    change: str = ""
    """What to do about it, with the recipe's field by name."""
    value: Mapping[str, Any] = field(default_factory=dict)
    """The measured numbers, as JSON."""

    def __post_init__(self) -> None:
        if self.severity not in ORDER:
            raise ValueError(f"severity: wanted one of {', '.join(ORDER)}, got {self.severity!r}")
        if self.severity != "ok" and not self.change:
            raise ValueError(f"{self.check}: a finding that is not ok must say what to change")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "check": self.check,
            "severity": self.severity,
            "text": self.text,
            "change": self.change,
            "value": dict(self.value),
        }


def worst(findings: Iterable[Finding]) -> Severity:
    """The most severe of all; `ok` where there is none."""
    return min((f.severity for f in findings), key=ORDER.index, default="ok")


def clip(text: str, width: int = 80) -> str:
    """A text short enough to be shown inside a sentence, its white space visible."""
    shown = repr(text)
    return shown if len(shown) <= width else f"{shown[: width - 4]}...{shown[0]}"
