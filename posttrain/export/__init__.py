"""Prescriptions in the words of other frameworks, for users who train elsewhere."""

from posttrain.export.export import FRAMEWORKS, export
from posttrain.export.framework import Framework, Option, frameworks
from posttrain.export.result import Export

__all__ = ["FRAMEWORKS", "Export", "Framework", "Option", "export", "frameworks"]
