"""Jobs: what a worker process is told. Files are the only protocol between driver and worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from crystalbench.config import Tree

JOB_FILE = "job.json"
PROGRESS_FILE = "progress.json"
ERROR_FILE = "error.json"
LOG_FILE = "log.txt"
TRAINING_FILE = "training.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
IMAGES_FILE = "images.jsonl"
RECORD_FILE = "record.json"
LABELS_FOLDER = "labels"
OVERLAYS_FOLDER = "overlays"


class _Job(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    adapters: tuple[str, ...]
    values: Tree
    dataset: Path
    seed: int
    device: str
    threads: int
    checkpoints: dict[str, Path]
    folder: Path


class TrainJob(_Job):
    """Train one component on the train and val subsets of a split."""

    kind: Literal["train"] = "train"
    component: str
    split: str
    key: str


class PlannedImage(BaseModel):
    """One image to predict and score, with the keys that say whether that was done already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    prediction_key: str
    score_key: str


class PredictJob(_Job):
    """Predict and score images, one after the other, and draw overlays of some."""

    kind: Literal["predict"] = "predict"
    images: tuple[PlannedImage, ...]


Job = Annotated[TrainJob | PredictJob, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[TrainJob | PredictJob] = TypeAdapter(Job)


class Progress(BaseModel):
    """How far a job is. ``seconds`` counts over all attempts at it."""

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    scalars: dict[str, float] = {}


class TrainingResult(BaseModel):
    """What a finished training leaves beside its checkpoint; ``method`` is the one that asked for it first."""

    key: str
    method: str
    component: str
    weights: str | None
    seconds: float
    steps: int
    checkpoint_sha256: str
    source_sha256: str
    warnings: list[str]
    provenance: Tree


def read_job(path: Path) -> TrainJob | PredictJob:
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
