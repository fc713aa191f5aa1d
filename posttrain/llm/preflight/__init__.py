"""What would ruin a run, found in minutes instead of days: see `posttrain.llm.preflight.run`."""

from posttrain.llm.preflight.finding import Finding, Severity
# from posttrain.llm.preflight.run import preflight

__all__ = ["Finding", "Severity"]
