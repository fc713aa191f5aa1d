"""Settings x arms x seeds from one file: run them, and say whether the diagnosis was right."""

from posttrain.study.settings import Arm, Compare, Setting, Study, load_study

__all__ = ["Arm", "Compare", "Setting", "Study", "load_study"]
