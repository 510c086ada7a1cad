"""Predicting and scoring images one by one, each kept as soon as it is there."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalbench._exceptions import CrystalbenchError, LabelError
from crystalbench._files import write_atomic
from crystalbench.data import Dataset, Sample, difficulty_class, read_labels, write_labels
from crystalbench.data._classes import class_of_lengths
from crystalbench.data._dataset import pixel_hash
from crystalbench.evaluation import ImageScores, evaluate_extras
from crystalbench.experiment._jobs import (
    IMAGES_FILE,
    LABELS_FOLDER,
    OVERLAYS_FOLDER,
    PlannedImage,
    PredictJob,
)
from crystalbench.experiment._overlays import draw_overlay
from crystalbench.experiment._record import ImageRecord
from crystalbench.segmenter import Image, Labels, Segmenter

N_OVERLAYS = 3
"""How many of the first and how many of the worst images get an overlay."""

_OF_PREDICTION = {"seconds", "latency_told", "stages", "details"}


def predict(job: PredictJob, segmenter: Segmenter, dataset: Dataset, report: Callable[[int, int], None]) -> None:
    """Predict and score the images of ``job`` that have no result yet, then draw the overlays.

    An image on which the method fails is kept as failed, and the others go on.
    """
    samples = {sample.name: sample for sample in dataset.samples}
    done = keep_current(job)
    warm = False
    for count, planned in enumerate(job.images):
        report(count, len(job.images))
        before = done.get(planned.image)
        if before is not None and before.score_key == planned.score_key:
            continue
        sample = samples[planned.image]
        if before is None and not warm:
            # The first call of a process loads libraries and compiles: it is not timed.
            warm = _warm_up(segmenter, sample)
            report(count, len(job.images))
        (job.folder / OVERLAYS_FOLDER / f"{sample.name}.png").unlink(missing_ok=True)
        result = _one(segmenter, sample, planned, before, dataset.class_px, job)
        _append(job.folder / IMAGES_FILE, result)
        done[planned.image] = result
    report(len(job.images), len(job.images))
    for record in _shown([done[planned.image] for planned in job.images]):
        _draw_overlay(segmenter, record, samples[record.image], job.folder)
        report(len(job.images), len(job.images))


def read_images(folder: Path) -> list[ImageRecord]:
    """Read the results that ``folder`` holds; a line torn by a kill is no result."""
    file = folder / IMAGES_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [record for line in lines if (record := _parse(line)) is not None]


def keep_current(job: PredictJob) -> dict[str, ImageRecord]:
    """Return the results of a job that can stay, by image, and put the others away."""
    plans = {planned.image: planned for planned in job.images}
    kept = {
        record.image: record
        for record in read_images(job.folder)
        if record.image in plans and is_current(record, plans[record.image], job.folder)
    }
    write_atomic(job.folder / IMAGES_FILE, "".join(f"{_line(record)}\n" for record in kept.values()).encode())
    return kept


def is_current(record: ImageRecord, planned: PlannedImage, folder: Path) -> bool:
    """Say whether a result can stay: it did not fail, is of the same prediction, and its labels are there."""
    return (
        record.status == "ok"
        and record.prediction_key == planned.prediction_key
        and labels_file(folder, record.image) is not None
    )


def labels_file(folder: Path, image: str) -> Path | None:
    """Return the label map that was predicted for ``image``, if there is one."""
    candidates = [folder / LABELS_FOLDER / f"{image}{suffix}" for suffix in (".png", ".tif")]
    return next((file for file in candidates if file.exists()), None)


def _one(
    segmenter: Segmenter,
    sample: Sample,
    planned: PlannedImage,
    before: ImageRecord | None,
    class_px: int,
    job: PredictJob,
) -> ImageRecord:
    image, truth = sample.image, sample.label
    if before is None:
        result = _predicted(segmenter, sample, image, truth, class_px, job)
    else:
        file = labels_file(job.folder, sample.name)
        assert file is not None
        result = before.model_dump(include=_OF_PREDICTION) | _scored(truth, read_labels(file), class_px)
    return ImageRecord(
        image=sample.name,
        group=sample.group,
        pixels_sha256=pixel_hash(image, truth),
        prediction_key=planned.prediction_key,
        score_key=planned.score_key,
        **result,
    )


def _predicted(
    segmenter: Segmenter, sample: Sample, image: Image, truth: NDArray[np.int32], class_px: int, job: PredictJob
) -> dict[str, Any]:
    """Predict and score; return what an :class:`ImageRecord` says of both, or of how the method failed."""
    try:
        labels, measured = timed(segmenter, sample, image)
    except (Exception, SystemExit) as error:
        if isinstance(error, CrystalbenchError):
            message = str(error)
            print(f"{sample.name}: {message}", flush=True)
        else:
            message = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        return {"status": "failed", "error": message, "difficulty": difficulty_class(truth, class_px)}
    # Outside of the try: a full disk is no fault of the method, and ends the job.
    write_labels(job.folder / LABELS_FOLDER, sample.name, labels)
    if not job.timed and not measured["latency_told"]:
        measured = {**measured, "seconds": None, "stages": {}}
    return {**measured, **_scored(truth, labels, class_px)}


def _scored(truth: NDArray[np.int32], labels: NDArray[Any], class_px: int) -> dict[str, Any]:
    """Return what an :class:`ImageRecord` says of the scores, and of the truth's crystals, whose lengths they tell."""
    extras = evaluate_extras(truth, labels)
    difficulty = class_of_lengths([*extras.lengths_matched, *extras.lengths_missed], class_px)
    return {"status": "ok", "difficulty": difficulty, "scores": extras.scores.to_row(), "extras": extras.to_row()}


def timed(segmenter: Segmenter, sample: Sample, image: Image) -> tuple[Labels, Mapping[str, Any]]:
    """Predict one sample, whose image was read; return its labels, and what an :class:`ImageRecord` says of the call.

    Raises
    ------
    LabelError
        As :func:`check_labels`.
    ValueError
        Where what the method tells is not plain JSON.
    """
    call = _prediction(segmenter, sample, image)
    segmenter.stages, segmenter.details = {}, {}
    with segmenter.stage("total"):
        labels = call()
    stages = dict(segmenter.stages)
    taken = stages.pop("total")
    seconds = segmenter.latency(taken)
    told = {"seconds": seconds, "latency_told": seconds != taken, "details": dict(segmenter.details), "stages": stages}
    for name, value in told.items():
        _check_plain(name, value)
    return check_labels(labels, image.shape[:2]), told


def _check_plain(name: str, value: Any) -> None:
    """Refuse what a method tells of an image where the record, which is JSON, cannot hold it.

    Raises
    ------
    ValueError
        Names what the method told.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"what the method tells as {name} is not plain JSON: {error}") from error


def _prediction(segmenter: Segmenter, sample: Sample, image: Image) -> Callable[[], Labels]:
    """Return the call that is timed: host array in, labels out. Only controls read files inside it."""
    if type(segmenter).predict_sample is not Segmenter.predict_sample:
        return lambda: segmenter.predict_sample(sample)
    return lambda: segmenter.predict(image)


def check_labels(labels: Any, shape: tuple[int, ...]) -> Labels:
    """Return a method's answer as H x W int32 labels.

    Raises
    ------
    LabelError
        Where it is not an array of non-negative integers of the image's height and width.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise LabelError(f"the method returned {kind}, not an array of integer labels")
    if labels.shape != shape:
        raise LabelError(f"the method returned labels of shape {labels.shape} for an image of {shape}")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise LabelError("the method returned labels below 0 or beyond 32 bit")
    return labels.astype(np.int32, copy=False)


def _warm_up(segmenter: Segmenter, sample: Sample) -> bool:
    try:
        segmenter.predict_sample(sample)
    except (Exception, SystemExit):
        # The timed call that follows fails in the same way, and is where the failure is kept.
        return False
    return True


def _shown(records: list[ImageRecord]) -> list[ImageRecord]:
    """Return the records of the images that get an overlay."""
    scored = [record for record in records if record.scores is not None]
    worst = sorted(scored, key=_pq)[:N_OVERLAYS]
    wanted = {record.image for record in [*scored[:N_OVERLAYS], *worst]}
    return [record for record in scored if record.image in wanted]


def _draw_overlay(segmenter: Segmenter, record: ImageRecord, sample: Sample, folder: Path) -> None:
    file = folder / OVERLAYS_FOLDER / f"{record.image}.png"
    labels = labels_file(folder, record.image)
    if labels is None or file.exists():
        return
    try:
        draw_overlay(file, segmenter, sample, read_labels(labels), _pq(record))
    except (Exception, SystemExit):
        # A method's own pictures must not cost it its scores; the log says what went wrong.
        traceback.print_exc()


def _pq(record: ImageRecord) -> float:
    """Return the panoptic quality, 1 where it is undefined: an empty image predicted empty is no bad case."""
    assert record.scores is not None
    return float(np.nan_to_num(ImageScores.from_row(record.scores).pq, nan=1.0))


def _append(file: Path, record: ImageRecord) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{_line(record)}\n")
        stream.flush()
        os.fsync(stream.fileno())


def _line(record: ImageRecord) -> str:
    # In ASCII: a kill can tear a line, but no character.
    return json.dumps(record.model_dump(), separators=(",", ":"))


def _parse(line: str) -> ImageRecord | None:
    try:
        return ImageRecord.model_validate_json(line)
    except ValueError:
        return None
