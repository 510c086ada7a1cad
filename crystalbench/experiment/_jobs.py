"""Jobs: what a worker process is told. Files are the only protocol between driver and worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from crystalbench.config import Tree
from crystalbench.data import Fold
from crystalbench.segmenter import MethodInfo

JOB_FILE = "job.json"
PROGRESS_FILE = "progress.json"
ERROR_FILE = "error.json"
LOG_FILE = "log.txt"
LOCK_FILE = ".lock"
WARNINGS_FILE = "warnings.json"
DESCRIPTION_FILE = "description.json"
TRAINING_FILE = "training.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
IMAGES_FILE = "images.jsonl"
SCORES_FILE = "scores.jsonl"
PLACE_FILE = "place.json"
RECORD_FILE = "record.json"
LABELS_FOLDER = "labels"
OVERLAYS_FOLDER = "overlays"
TURNS_PIPE = "turns"
TIMES_FILE = "times.json"


class _Job(BaseModel):
    """What all are told; ``gpus`` is the share of a GPU that the job takes, 0 on a CPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    adapters: tuple[str, ...]
    values: Tree
    dataset: Path
    seed: int
    device: str
    threads: int
    gpus: float = 0.0
    checkpoints: dict[str, Path]
    folder: Path


class TrainJob(_Job):
    """Train one component on the train and val subsets of a split; ``unpickle`` as in :class:`Context`."""

    kind: Literal["train"] = "train"
    component: str
    split: str | Fold
    key: str
    unpickle: bool = False


class PlannedImage(BaseModel):
    """One image to predict and score, with the keys that say whether that was done already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    prediction_key: str
    score_key: str


class PredictJob(_Job):
    """Predict and score images, one after the other, and draw overlays of some.

    ``timed`` says whether the seconds of a prediction are kept: not where other jobs run beside it.
    """

    kind: Literal["predict"] = "predict"
    timed: bool = True
    images: tuple[PlannedImage, ...]


class PlannedPoint(BaseModel):
    """One setting of all parameters to be scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    values: Tree


class ScoreJob(_Job):
    """Score many points of one trained model; no labels are kept. ``state`` is the key of all else scores depend on.

    With ``prune`` points that are significantly worse than the best are not scored to the end.
    """

    kind: Literal["score"] = "score"
    points: tuple[PlannedPoint, ...]
    images: tuple[str, ...]
    state: str
    prune: bool = False


class TimeJob(_Job):
    """Predict images one after the other, each call when it has the turn; no labels are kept.

    ``warm_up`` and then ``images`` name the image of each call. The calls of ``images`` wait for their turns: one byte
    in the named pipe ``turns`` is one call.
    """

    kind: Literal["time"] = "time"
    warm_up: tuple[str, ...]
    images: tuple[str, ...]


class ImageToSegment(BaseModel):
    """A micrograph without a truth; ``key`` says what its label map was made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    image: Path
    grain: Path | None
    key: str


class SegmentJob(BaseModel):
    """Segment micrographs of no data set; the label maps go into the folder ``labels``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["segment"] = "segment"
    method: str
    adapters: tuple[str, ...]
    values: Tree
    seed: int
    device: str
    threads: int
    checkpoints: dict[str, Path]
    folder: Path
    labels: Path
    images: tuple[ImageToSegment, ...]


class DescribeJob(BaseModel):
    """Tell what a method is, and complete ``values``; for a driver that cannot import it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["describe"] = "describe"
    method: str
    adapters: tuple[str, ...]
    values: Tree | None
    folder: Path
    threads: int = 1


Job = TrainJob | PredictJob | ScoreJob | TimeJob | SegmentJob | DescribeJob
_ADAPTER: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


class Progress(BaseModel):
    """How far a job is. ``seconds`` counts over all attempts at it."""

    # A loss may be NaN: that is no reason to forget how far the job is.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    scalars: dict[str, float] = {}


class TrainingResult(BaseModel):
    """What a finished training leaves beside its checkpoint; ``method`` is the one that asked for it first.

    ``init_sha256`` is the hash of the file or folder that the parameter ``init`` names, if it names one.
    """

    key: str
    method: str
    component: str
    weights: str | None
    init_sha256: str | None = None
    seconds: float
    steps: int
    checkpoint_sha256: str
    source_sha256: str
    warnings: list[str]
    provenance: Tree


class Times(BaseModel):
    """What a worker measured: the seconds of each call in its order, and the same by stage.

    ``told`` says that the method told its seconds itself; ``peak_gpu_bytes`` is the most that torch held on the GPU
    during these calls, None without one.
    """

    seconds: list[float]
    stages: list[dict[str, float]]
    told: bool
    peak_gpu_bytes: int | None


class DescribedComponent(BaseModel):
    """A component without the model of its parameters, of which only the name is told."""

    name: str
    fit_version: int
    requires: tuple[str, ...]
    model: str


class Description(BaseModel):
    """What a driver has to know of a method that it cannot import, and of the environment that the method is in.

    ``libraries`` are the versions of what its sources import, ``packages`` those of all packages that are there.
    """

    info: MethodInfo
    components: tuple[DescribedComponent, ...]
    parameters: Tree
    python: str
    libraries: dict[str, str]
    packages: dict[str, str]


def read_job(path: Path) -> Job:
    """Read a job that the driver wrote."""
    return _ADAPTER.validate_json(path.read_bytes())


def read_progress(folder: Path) -> Progress:
    """Read how far the job in ``folder`` is; a job that has not said anything is at 0 of 0."""
    try:
        return Progress.model_validate_json((folder / PROGRESS_FILE).read_bytes())
    except (OSError, ValueError):
        return Progress()


def read_training(folder: Path) -> TrainingResult | None:
    """Read the result of a finished training; None where it is not finished, or is of another form."""
    file = folder / TRAINING_FILE
    if not file.exists() or not (folder / CHECKPOINT_FILE).exists():
        return None
    try:
        return TrainingResult.model_validate_json(file.read_bytes())
    except ValueError:
        return None
