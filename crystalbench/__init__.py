"""crystalbench: compares instance-segmentation methods on micrographs of crystals."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crystalbench._exceptions import (
        ConfigurationError,
        CrystalbenchError,
        DataError,
        LabelError,
        SplitError,
        UnknownNameError,
        WorkerError,
    )
    from crystalbench.data import Dataset, Sample, Split, open_dataset
    from crystalbench.evaluation import ImageScores, evaluate
    from crystalbench.leaderboard import Runs, load_runs
    from crystalbench.segmenter import Component, Context, Image, Labels, MethodInfo, Parameters, Segmenter

_HOMES = {
    "crystalbench._exceptions": (
        "ConfigurationError",
        "CrystalbenchError",
        "DataError",
        "LabelError",
        "SplitError",
        "UnknownNameError",
        "WorkerError",
    ),
    "crystalbench.data": ("Dataset", "Sample", "Split", "open_dataset"),
    "crystalbench.evaluation": ("ImageScores", "evaluate"),
    "crystalbench.leaderboard": ("Runs", "load_runs"),
    "crystalbench.segmenter": (
        "Component",
        "Context",
        "Image",
        "Labels",
        "MethodInfo",
        "Parameters",
        "Segmenter",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Component",
    "ConfigurationError",
    "Context",
    "CrystalbenchError",
    "DataError",
    "Dataset",
    "Image",
    "ImageScores",
    "LabelError",
    "Labels",
    "MethodInfo",
    "Parameters",
    "Runs",
    "Sample",
    "Segmenter",
    "Split",
    "SplitError",
    "UnknownNameError",
    "WorkerError",
    "evaluate",
    "load_runs",
    "open_dataset",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the command line must start without numpy."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
