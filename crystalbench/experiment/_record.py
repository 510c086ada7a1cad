"""The record: what one experiment leaves, whole or failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from crystalbench.evaluation import EVALUATOR_VERSION
from crystalbench.experiment._tuned import Tuning
from crystalbench.segmenter import MethodInfo

SCHEMA = 1

Status = Literal["ok", "failed", "timeout", "oom", "crashed", "interrupted", "missing"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Failure(_Part):
    """Why an experiment has no result: the error's type, its message and the end of the log."""

    type: str
    message: str
    log_tail: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    failure: Failure | None = None


class DataReference(_Part):
    """Which data: the name, the geometry that scores depend on, and the hash of the images' identity."""

    name: str
    line_px: int = 0
    class_px: int = 224
    identity_sha256: str


class SplitReference(_Part):
    """Which part of the data was tested; ``sha256`` says which images trained, validated and tested.

    Of ``folds`` it is ``fold``, counted from 1, and ``sha256`` is that of all of them; null where there are none.
    """

    name: str
    subset: str = "test"
    sha256: str = ""
    fold: int | None = None
    folds: int | None = None


class TrainingRecord(_Part):
    """How one component was trained; ``weights`` says where its weights started, null where it has none.

    ``init_sha256`` is the hash of the file or folder that they were read from.
    """

    key: str
    weights: str | None
    init_sha256: str | None = None
    seconds: float
    steps: int
    checkpoint_sha256: str = ""
    source_sha256: str = ""


class ImageRecord(_Part):
    """One image's result. ``scores`` and ``extras`` are integers from which every score is recomputed.

    ``extras`` are those of the further scores, null in records that are older than these.
    ``difficulty`` is the class, ``seconds`` the time of one prediction (host array in, labels out), or what
    the method told in its place (``latency_told``), ``details`` what else it tells; ``pixels_sha256`` is that
    of the decoded image and truth, whatever their files.
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    image: str
    status: Literal["ok", "failed"]
    error: str | None = None
    group: str
    difficulty: Literal[1, 2, 3]
    scores: dict[str, Any] | None = None
    extras: dict[str, Any] | None = None
    seconds: float | None = None
    latency_told: bool = False
    stages: dict[str, float] = {}
    details: dict[str, Any] = {}
    pixels_sha256: str = ""
    prediction_key: str = ""
    score_key: str = ""


class Latency(_Part):
    """Seconds a prediction took, and the protocol that measured it.

    ``machine`` is empty where it is the record's own; ``peak_gpu_bytes`` is the most that torch held.
    """

    protocol: str
    n: int
    mean_s: float
    median_s: float
    iqr_s: float
    p95_s: float | None = None
    stages: dict[str, float] = {}
    machine: str = ""
    peak_gpu_bytes: int | None = None


class Record(_Part):
    """One experiment: method, parameters, data, split and seed, with scores and provenance.

    ``changes`` are the parameters, by dotted name, that are not those of the preset. ``latency`` is that of the run
    itself; one that :mod:`crystalbench.experiment._latency` reads from beside the record takes its place on the board,
    with ``latency_reference`` for the same method around its library's own post-processing. ``tuning`` is what it cost
    to choose the parameters, null where no search did; ``nested`` is the key of the searches that chose them in each
    fold, the same in all folds, null where one choice serves all.
    """

    schema_version: int = SCHEMA
    evaluator_version: int = EVALUATOR_VERSION
    key: str
    method: str
    info: MethodInfo
    preset: str
    parameters: dict[str, Any]
    changes: dict[str, Any] = {}
    dataset: DataReference
    train_dataset: str | None = None
    split: SplitReference
    seed: int
    device: str
    device_name: str
    precision: str = "float32"
    threads: int
    limit: int | None = None
    tuning: Tuning | None = None
    nested: str | None = None
    status: Status
    error: Failure | None = None
    trainings: dict[str, TrainingRecord] = {}
    n_planned: int
    images: list[ImageRecord] = []
    summary: dict[str, Any] = {}
    latency: Latency | None = None
    latency_reference: Latency | None = None
    overlays: list[str] = []
    warnings: list[str] = []
    provenance: dict[str, Any] = {}
