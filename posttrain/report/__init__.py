"""Records in, one self-contained HTML page and its figures out."""

from posttrain.report.page import write_report, write_report_from_scores

__all__ = ["write_report", "write_report_from_scores"]
