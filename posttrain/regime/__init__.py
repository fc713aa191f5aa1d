"""Which prior knowledge is stronger: the pretrained policy or the dataset it came from."""

from posttrain.regime.diagnosis import diagnose
from posttrain.regime.scores import Scores, ScoresError, concat, read_scores, write_scores
from posttrain.regime.sequential import Sequential, diagnose_sequential, start
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
    "Sequential",
    "concat",
    "decide",
    "diagnose",
    "diagnose_sequential",
    "read_scores",
    "start",
    "write_scores",
]
