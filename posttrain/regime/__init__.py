"""Which prior knowledge is stronger: the pretrained policy or the dataset it came from."""

from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, ScoresError, concat, read_scores, write_scores
from posttrain.regime.verdict import (
    DecodingGap,
    Diagnosis,
    Flag,
    Interval,
    Recoverability,
    Regime,
    decide,
)

__all__ = [
    "DecodingGap",
    "Diagnosis",
    "Flag",
    "Interval",
    "Recoverability",
    "Regime",
    "Scores",
    "ScoresError",
    "concat",
    "decide",
    "diagnose",
    "read_scores",
    "write_scores",
]
