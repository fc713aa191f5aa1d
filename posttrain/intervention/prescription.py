"""What should be tried first, given a diagnosis and a learner?

The rows are in `rules`, their first strengths in `strength`; here they are only read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain.intervention.capabilities import (
    CONTROL_SAC,
    LLM_GRPO,
    LLM_GRPO_LORA,
    Capabilities,
)
from posttrain.intervention.conditions import CONDITIONS
from posttrain.intervention.plan import Plan
from posttrain.intervention.rules import ADVICE, TABLE, Advice, First, Rule, Trains

if TYPE_CHECKING:
    from posttrain.export.result import Export
    from posttrain.export.says import Algorithm
    from posttrain.regime.diagnosis import Diagnosis

__all__ = [
    "CONTROL_SAC",
    "LLM_GRPO",
    "LLM_GRPO_LORA",
    "Capabilities",
    "First",
    "Prescription",
    "prescribe",
]

NO_FALLBACK = "The learner supports no other intervention that this table would try."


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescription:
    """A plan to run, why, and what to do if it turns out wrong."""

    plan: Plan
    reason: str
    refuted_by: str
    """The result that would show the reason to be wrong."""
    fallback: Plan
    fallback_reason: str
    trains: Trains = "rl"
    """What runs under the plan: RL, or further cloning of the dataset in its place (`sft`)."""
    first: First = "run"
    """What to do before: `run` (nothing), `sft_more`, `measure_more`, `check_reward`, or
    `skip_rl`. The plan is what to run if that has been done or is out of reach."""

    def export(self, framework: str, *, steps: int, algorithm: Algorithm | None = None) -> Export:
        """Say the plan in the options of another framework, for `steps` of RL.

        Raises:
            ValueError: a framework or an algorithm that is not known, or no RL to export.
        """
        if self.trains == "sft":
            raise ValueError("this prescription is further SFT: there is no plan of RL to export")
        from posttrain.export import export

        return export(self.plan, framework, steps=steps, algorithm=algorithm)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "first": self.first,
            "trains": self.trains,
            "plan": self.plan.to_dict(),
            "reason": self.reason,
            "refuted_by": self.refuted_by,
            "fallback": self.fallback.to_dict(),
            "fallback_reason": self.fallback_reason,
        }


def prescribe(
    diagnosis: Diagnosis, capabilities: Capabilities = LLM_GRPO, *, steps: int = 100
) -> tuple[Prescription, ...]:
    """Look up what to run, best first.

    Args:
        diagnosis: of pi_0 against its dataset.
        capabilities: what the learner honours; plans that it would refuse are left out.
        steps: RL steps that are planned; strengths change over them.

    Returns:
        At least one prescription, no plan twice. The first is the one to run; plain RL is
        always among them.

    Raises:
        ValueError: no step is planned.
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1 to plan RL, got {steps!r}")
    advice = next((row for row in ADVICE if _holds(row, diagnosis, capabilities)), None)
    found: dict[tuple[Trains, str], Prescription] = {}
    for rule in TABLE:
        if not _holds(rule, diagnosis, capabilities):
            continue
        plan = rule.plan(steps, capabilities)
        if capabilities.supports(plan):
            fallback, why = rule.fallback(steps, capabilities), rule.fallback_reason
            if not capabilities.supports(fallback):
                fallback, why = Plan(), NO_FALLBACK
            written = Prescription(
                plan=plan,
                reason=_reason(advice, rule, diagnosis),
                refuted_by=rule.refuted_by,
                fallback=fallback,
                fallback_reason=why,
                trains=rule.trains,
                first="run" if advice is None else advice.first,
            )
            found.setdefault((rule.trains, repr(plan)), written)
    return tuple(found.values())


def _holds(row: Rule | Advice, diagnosis: Diagnosis, capabilities: Capabilities) -> bool:
    return diagnosis.regime in row.regimes and all(
        CONDITIONS[name](diagnosis, capabilities) for name in row.when
    )


def _reason(advice: Advice | None, rule: Rule, diagnosis: Diagnosis) -> str:
    if advice is None:
        return rule.reason
    return f"{advice.reason.format(needed=diagnosis.needed)} {rule.reason}"
