"""What would ruin a run, found in minutes instead of days: see `posttrain.llm.preflight.run`."""

from posttrain.llm.preflight.case import Options
from posttrain.llm.preflight.finding import Finding, Severity, worst
from posttrain.llm.preflight.leak import Overlap
from posttrain.llm.preflight.run import preflight

__all__ = ["Finding", "Options", "Overlap", "Severity", "preflight", "worst"]
