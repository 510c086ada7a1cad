"""Segmenting micrographs that nobody has labelled, each kept as soon as it is there."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from crystalbench._exceptions import CrystalbenchError
from crystalbench._files import write_atomic
from crystalbench.data import read_micrograph, write_labels
from crystalbench.experiment._jobs import IMAGES_FILE, ImageToSegment, SegmentJob
from crystalbench.experiment._predict import check_labels, labels_file
from crystalbench.segmenter import Segmenter


class Segmented(BaseModel):
    """How one micrograph fared: a line of ``images.jsonl``. ``error`` is None where its label map was written."""

    name: str
    key: str
    error: str | None = None


def segment(job: SegmentJob, segmenter: Segmenter, report: Callable[[int, int], None]) -> None:
    """Segment the images of ``job`` that have no label map yet; one that fails is kept as failed, the others go on."""
    done = keep_segmented(job)
    for count, image in enumerate(job.images):
        report(count, len(job.images))
        if image.name not in done:
            _append(job.folder / IMAGES_FILE, _segmented(segmenter, image, job.labels))
    report(len(job.images), len(job.images))


def read_segmented(job: SegmentJob) -> dict[str, Segmented]:
    """Return what is known of the images of ``job``, by name; a line torn by a kill says nothing."""
    file = job.folder / IMAGES_FILE
    keys = {image.name: image.key for image in job.images}
    lines = file.read_bytes().splitlines() if file.exists() else []
    rows = [row for line in lines if (row := _parse(line)) is not None]
    return {row.name: row for row in rows if keys.get(row.name) == row.key}


def keep_segmented(job: SegmentJob) -> dict[str, Segmented]:
    """Return the images of ``job`` whose label maps can stay, by name, and put away what is known of others."""
    kept = {
        name: row
        for name, row in read_segmented(job).items()
        if row.error is None and labels_file(job.labels.parent, name) is not None
    }
    write_atomic(job.folder / IMAGES_FILE, b"".join(map(_line, kept.values())))
    return kept


def _segmented(segmenter: Segmenter, image: ImageToSegment, folder: Path) -> Segmented:
    result = Segmented(name=image.name, key=image.key)
    try:
        pixels = read_micrograph(image.image, image.grain)
        labels = check_labels(segmenter.predict(pixels), pixels.shape[:2])
    except CrystalbenchError as error:
        print(f"{image.name}: {error}", flush=True)
        return result.model_copy(update={"error": str(error)})
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return result.model_copy(update={"error": f"{type(error).__name__}: {error}"})
    # Outside of the try: a full disk is no fault of the method, and ends the job.
    write_labels(folder, image.name, labels)
    return result


def _append(file: Path, row: Segmented) -> None:
    with file.open("ab") as stream:
        stream.write(_line(row))
        stream.flush()
        os.fsync(stream.fileno())


def _line(row: Segmented) -> bytes:
    return row.model_dump_json().encode() + b"\n"


def _parse(line: bytes) -> Segmented | None:
    try:
        return Segmented.model_validate_json(line)
    except ValueError:
        return None
