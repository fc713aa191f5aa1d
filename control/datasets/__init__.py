"""Offline datasets: read, judged, normalised and opened by one name."""

from control.datasets.dataset import Dataset, DatasetError, DatasetWarning, concat
from control.datasets.hdf5 import DiscontinuityWarning, from_columns, read_hdf5, write_hdf5
from control.datasets.known import Env, Known, Success
from control.datasets.minari import local_ids, read_minari, write_minari
from control.datasets.normalise import normalised, references
from control.datasets.opening import open_dataset
from control.datasets.registry import REGISTRY, known
from control.datasets.success import end_at_success, filter_success, filtered, judge, relabel_goal
from control.datasets.touches import FragmentWarning, first_touches

__all__ = [
    "REGISTRY",
    "Dataset",
    "DatasetError",
    "DatasetWarning",
    "DiscontinuityWarning",
    "Env",
    "FragmentWarning",
    "Known",
    "Success",
    "concat",
    "end_at_success",
    "filter_success",
    "filtered",
    "first_touches",
    "from_columns",
    "judge",
    "known",
    "local_ids",
    "normalised",
    "open_dataset",
    "read_hdf5",
    "read_minari",
    "references",
    "relabel_goal",
    "write_hdf5",
    "write_minari",
]
