"""The driver: segments, measures and reports, each image once, whatever is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel

from crystalbench._exceptions import ConfigurationError, DataError, WorkerError
from crystalbench._files import file_sha256, write_atomic, write_json
from crystalbench.experiment import Limits
from crystalbench.experiment._jobs import ImageToSegment, Progress, SegmentJob
from crystalbench.experiment._keys import key_of
from crystalbench.experiment._local import run_job
from crystalbench.experiment._predict import labels_file
from crystalbench.experiment._progress import Reporter
from crystalbench.experiment._record import Outcome
from crystalbench.experiment._segment import read_segmented
from crystalbench.measure._exports import coco
from crystalbench.measure._images import Micrograph
from crystalbench.measure._measured import Measured, measure_image
from crystalbench.measure._model import Model
from crystalbench.measure._scale import Scale, find_scales
from crystalbench.measure._summary import ImageSummary, failed, summarize_image
from crystalbench.measure._tables import crystal_columns, image_columns, to_csv, to_parquet
from crystalbench.measure._tolerance import Tolerance, tolerance

_CLAIM_FILE = "measures.json"
_MOST_CRASHES = 3
"""So many images in a row whose worker ends without a word are no fault of the images."""


class _Claim(BaseModel):
    key: str


@dataclass(frozen=True)
class Measurement:
    """What was measured, an image after the other, None where that failed.

    ``within`` is None where the model's test says too little.
    """

    model: Model
    rows: list[tuple[ImageSummary, Measured | None]]
    within: Tolerance | None
    out: Path

    @property
    def summaries(self) -> list[ImageSummary]:
        """The rows of the table of images."""
        return [summary for summary, _ in self.rows]

    @property
    def good(self) -> list[tuple[ImageSummary, Measured]]:
        """The images that were measured."""
        return [(summary, measured) for summary, measured in self.rows if measured is not None]

    @property
    def failed(self) -> list[ImageSummary]:
        """The images that were not."""
        return [summary for summary, measured in self.rows if measured is None]


@dataclass(frozen=True)
class Measure:
    """Measures micrographs that nobody has labelled, with a model that a run has trained and tested.

    Parameters
    ----------
    model
        Segments the images.
    images
        The micrographs.
    um_per_px
        Micrometres a pixel of all of them; None asks their data set and their files.
    out
        A folder that is empty, not there yet, or holds what the same model has measured before.
    reporter
        Told how far it is.
    """

    model: Model
    images: Sequence[Micrograph]
    um_per_px: float | None
    out: Path
    reporter: Reporter

    def __call__(self) -> Measurement:
        """Measure what is not measured yet, write tables and report of all ``images``, and return what they say.

        Raises
        ------
        ConfigurationError
            Where ``out`` holds anything else.
        CrystalbenchError
            Where a scale cannot be used.
        WorkerError
            Where the method cannot segment anything.
        """
        scales = find_scales(self.images, self.um_per_px)
        self._claim()
        for line in self._left_out():
            self.reporter.say(line)
        job = self._job()
        errors = self._segment(job)
        measurement = self._measure(job, scales, errors)
        self._write(measurement)
        return measurement

    def _claim(self) -> None:
        """Keep files that were there before from being overwritten, but go on with what was interrupted."""
        file, key = self.out / _CLAIM_FILE, self.model.record.key
        if not self.out.exists() or not any(self.out.iterdir()):
            write_json(file, {"key": key})
        elif _claimed(file) != key:
            raise ConfigurationError(
                f"{self.out} holds other files than what {self.model.record.method} {key[:12]} has measured: "
                "name a new folder with --out"
            )

    @cached_property
    def _missing(self) -> frozenset[str]:
        return frozenset(name for name in ("jinja2", "plotly", "pyarrow", "roifile") if find_spec(name) is None)

    def _left_out(self) -> Iterator[str]:
        needs = {"report.html": {"jinja2", "plotly"}, "crystals.parquet": {"pyarrow"}, "rois/": {"roifile"}}
        for file, libraries in needs.items():
            if lacking := ", ".join(sorted(libraries & self._missing)):
                yield f"warning: {file} is left out, as it needs {lacking}: pip install 'crystalbench[measure]'"

    def _job(self) -> SegmentJob:
        model, base = self.model, self.model.key
        planned = [
            ImageToSegment(
                name=image.name,
                image=image.full_path,
                grain=image.grain,
                key=key_of(base=base, image=_hash(image.path), grain=image.grain and _hash(image.grain)),
            )
            for image in self.images
        ]
        return SegmentJob(
            method=model.method.name,
            adapters=model.adapters,
            values=model.values,
            seed=model.record.seed,
            device=model.device,
            threads=model.threads,
            checkpoints=model.checkpoints,
            folder=(self.out / "work").resolve(),
            labels=(self.out / "labels").resolve(),
            images=tuple(planned),
        )

    def _segment(self, job: SegmentJob) -> dict[str, str]:
        """Return why images have no label map, by name; one that ends its worker costs none of the others."""
        crashed: dict[str, str] = {}
        in_a_row, before = 0, -1
        pending = job
        with self.reporter.task(f"segment {len(job.images)} images") as update:
            while (outcome := run_job(pending, update, Limits(), self.model.method.python)).status != "ok":
                done = read_segmented(pending)
                in_a_row = in_a_row + 1 if len(done) == before else 1
                before = len(done)
                culprit = next((image for image in pending.images if image.name not in done), None)
                if culprit is None or outcome.status == "failed" or in_a_row >= _MOST_CRASHES:
                    raise WorkerError(_told(self.model, job, outcome))
                crashed[culprit.name] = _message(outcome)
                rest = tuple(image for image in pending.images if image is not culprit)
                pending = pending.model_copy(update={"images": rest})
        return crashed | {name: row.error for name, row in read_segmented(pending).items() if row.error is not None}

    def _measure(self, job: SegmentJob, scales: dict[str, Scale], errors: dict[str, str]) -> Measurement:
        within = tolerance(self.model.record.images)
        rows = []
        with self.reporter.task(f"measure {len(self.images)} images") as update:
            for count, (image, planned) in enumerate(zip(self.images, job.images, strict=True), start=1):
                rows.append(self._one(image, planned.key, errors.get(image.name), scales[image.name], within))
                update(Progress(step=count, total=len(self.images)))
        return Measurement(self.model, rows, within, self.out)

    def _one(
        self, image: Micrograph, key: str, error: str | None, scale: Scale, within: Tolerance | None
    ) -> tuple[ImageSummary, Measured | None]:
        labels = labels_file(self.out, image.name)
        if error is not None or labels is None:
            return failed(image, error or "its label map was taken away"), None
        try:
            measured = measure_image(image, key, labels, self.out, rois="roifile" not in self._missing)
        except DataError as problem:
            return failed(image, str(problem)), None
        return summarize_image(image, measured, scale, within), measured

    def _write(self, measurement: Measurement) -> None:
        crystals = crystal_columns(measurement.good)
        write_atomic(self.out / "crystals.csv", to_csv(crystals))
        write_atomic(self.out / "images.csv", to_csv(image_columns(measurement.summaries)))
        write_atomic(self.out / "coco.json", json.dumps(self._coco(measurement)).encode())
        if "pyarrow" not in self._missing:
            write_atomic(self.out / "crystals.parquet", to_parquet(crystals))
        if not self._missing & {"jinja2", "plotly"}:
            from crystalbench.measure._report import report

            write_atomic(self.out / "report.html", report(measurement).encode())

    def _coco(self, measurement: Measurement) -> dict[str, object]:
        """Return all crystals in COCO's form; files are named below the folder that all images lie in."""
        files = {image.name: image.full_path for image in self.images}
        above = os.path.commonpath([file.parent for file in files.values()])
        return coco(
            (
                {
                    "file_name": files[summary.image].relative_to(above).as_posix(),
                    "width": one.width,
                    "height": one.height,
                },
                one.coco(),
            )
            for summary, one in measurement.good
        )


def _claimed(file: Path) -> str | None:
    try:
        return _Claim.model_validate_json(file.read_bytes()).key
    except (OSError, ValueError):
        return None


def _hash(file: Path) -> str | None:
    """Return the hash of a file; None where it cannot be read, which the worker will say."""
    try:
        return file_sha256(file)
    except OSError:
        return None


def _message(outcome: Outcome) -> str:
    return f"{outcome.failure.type}: {outcome.failure.message}" if outcome.failure else outcome.status


def _told(model: Model, job: SegmentJob, outcome: Outcome) -> str:
    return f"{model.method.name} cannot segment: {_message(outcome)}; see {job.folder / 'log.txt'}"
