"""Latencies: what is told of a list of seconds, and the file that ``crystalbench time`` leaves beside a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from crystalbench.config import Tree
from crystalbench.experiment._record import Failure, Latency, Record, Status

PROTOCOL_VERSION = 1
TOLD = "told by the method"
UNTIMED = "no latency: predicted beside other jobs; `crystalbench time` measures it"
SPREAD = 0.1
"""Share of the median from which on an interquartile range is warned of."""

REFERENCE = "reference"
"""What a ``decode.backend`` is called that is the library's own."""

LATENCY_FILE = "latency.json"
REFERENCE_FILE = "latency_reference.json"


class ImageTimes(BaseModel):
    """The seconds of all calls for one image; ``prediction_key`` is that of the record beside."""

    image: str
    prediction_key: str
    seconds: list[float]


class Timing(BaseModel):
    """One method timed by ``crystalbench time``, or why it could not be.

    ``key`` is the latency key, empty where there was nothing to time; ``warm_up`` is the number of calls that are not
    counted; ``beside`` are the methods that it took turns with.
    """

    schema_version: int = 1
    key: str = ""
    status: Status
    error: Failure | None = None
    latency: Latency | None = None
    warm_up: int = 0
    images: list[ImageTimes] = []
    beside: list[str] = []
    warnings: list[str] = []
    machine: Tree
    provenance: Tree


def latency(
    protocol: str,
    seconds: Sequence[float],
    stages: Sequence[Mapping[str, float]],
    machine: str = "",
    peak_gpu_bytes: int | None = None,
) -> Latency:
    """Return what is told of some calls, from the seconds of each, and the same by stage."""
    low, median, high, p95 = np.percentile(seconds, [25, 50, 75, 95])
    names = sorted({name for call in stages for name in call})
    return Latency(
        protocol=protocol,
        n=len(seconds),
        mean_s=float(np.mean(seconds)),
        median_s=float(median),
        iqr_s=float(high - low),
        p95_s=float(p95),
        stages={name: float(np.mean([call.get(name, 0.0) for call in stages])) for name in names},
        machine=machine,
        peak_gpu_bytes=peak_gpu_bytes,
    )


def spread_warnings(seconds: Sequence[Sequence[float]]) -> list[str]:
    """Return a warning where calls took unlike long; ``seconds`` holds those of each image's calls."""
    calls = np.array(seconds)
    spread = _spread(calls)
    if spread <= SPREAD:
        return []
    repeats = _spread(calls / np.median(calls, axis=1, keepdims=True))
    cause = "something disturbs this machine" if repeats > SPREAD else "the images differ, the machine is steady"
    return [
        f"the interquartile range is {spread:.0%} of the median, over {SPREAD:.0%}; "
        f"{repeats:.0%} among the calls for one image: {cause}"
    ]


def _spread(seconds: NDArray[np.float64]) -> float:
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return float((high - low) / median)


def read_timing(file: Path) -> Timing | None:
    """Read what ``crystalbench time`` left; None where there is nothing or it is of another form."""
    try:
        return Timing.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def with_timings(record: Record, own: Path, reference: Path) -> Record:
    """Return ``record`` with the latencies in ``own`` and ``reference``, where these files are of its predictions."""
    if record.parameters.get("decode", {}).get("backend") == REFERENCE:
        reference = own
    files = {"latency": own, "latency_reference": reference}
    timings = {name: timing for name, file in files.items() if (timing := read_timing(file)) is not None}
    update = {name: timing.latency for name, timing in timings.items() if _is_of(timing, record)}
    warnings = [warning for warning in record.warnings if warning != UNTIMED or not update.get("latency")]
    return record.model_copy(update={**update, "warnings": warnings})


def _is_of(timing: Timing, record: Record) -> bool:
    keys = {image.image: image.prediction_key for image in record.images}
    return timing.status == "ok" and all(keys.get(image.image) == image.prediction_key for image in timing.images)
