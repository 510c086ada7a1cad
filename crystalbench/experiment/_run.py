"""The driver: does the trainings and experiments of a request, each once, and keeps a record of each."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_json
from crystalbench.config import flatten
from crystalbench.evaluation import ImageScores, summarize
from crystalbench.experiment._executors import Executor, Local, side_by_side
from crystalbench.experiment._jobs import (
    OVERLAYS_FOLDER,
    RECORD_FILE,
    PredictJob,
    TrainingResult,
    read_training,
)
from crystalbench.experiment._keys import source_sha256
from crystalbench.experiment._latency import TOLD, UNTIMED, latency
from crystalbench.experiment._log import log_tail
from crystalbench.experiment._plan import Experiment, identity_sha256
from crystalbench.experiment._predict import is_current, read_images
from crystalbench.experiment._progress import Reporter
from crystalbench.experiment._provenance import command_line, now, provenance, read_place
from crystalbench.experiment._record import (
    DataReference,
    Failure,
    ImageRecord,
    Latency,
    Outcome,
    Record,
    SplitReference,
    TrainingRecord,
)
from crystalbench.experiment._trainings import Trainer
from crystalbench.experiment._watch import Limits
from crystalbench.registry import find_methods

_PROTOCOL = "run-1: one call an image after one warm-up call"
_TUNED_BEFORE = "tuned once, on the fixed split, whose images are tested here too; --nested tunes in each fold"


@dataclass
class Run:
    """A run of several experiments. Whatever it is killed in, the same run goes on from there.

    Parameters
    ----------
    experiments
        As planned, in order.
    reporter
        Told what is being done.
    retrain
        Train again also what is trained.
    limits
        What one worker may take.
    executor
        Where jobs run, and how many at once.
    """

    experiments: Sequence[Experiment]
    reporter: Reporter
    retrain: bool = False
    limits: Limits = field(default_factory=Limits)
    executor: Executor = field(default_factory=Local)

    def __call__(self) -> list[Record]:
        """Do everything that is not done; return one record for each experiment, failed ones too."""
        train = Trainer(self.reporter, self.limits, self.retrain, self.executor)
        # Threads only wait: one that waits for a training which another does must not keep a third from its turn.
        threads = len(self.experiments) if self.executor.width > 1 else 1
        calls = [partial(self._experiment, experiment, train) for experiment in self.experiments]
        return side_by_side(calls, threads, self.executor)

    def _experiment(self, experiment: Experiment, train: Trainer) -> Record:
        start = now()
        for training in experiment.trainings.values():
            with self._recorded(experiment, None, start):
                outcome = train(training)
            if outcome.status != "ok":
                return self._finish(experiment, None, outcome, start)
        try:
            job = experiment.job(checkpoints(experiment), timed=self.executor.is_alone)
        except Exception as error:
            # The method says which files it reads, and these are read: either can fail.
            failure = Failure(type=type(error).__name__, message=str(error), log_tail=traceback.format_exc())
            return self._finish(experiment, None, Outcome("failed", failure), start)
        before = read_record(experiment.folder)
        if before is not None and _is_complete(before, job) and _tells_of_choices(before, experiment):
            self.reporter.say(f"{_title(experiment)}: done before, nothing to do")
            return before
        with self._recorded(experiment, job, start), self.reporter.task(f"{_title(experiment)}: predict") as update:
            outcome = self.executor(job, update, self.limits, experiment.method.python)
        return self._finish(experiment, job, outcome, start)

    @contextmanager
    def _recorded(self, experiment: Experiment, job: PredictJob | None, start: str) -> Iterator[None]:
        """Leave a record also where Ctrl-C ends the run."""
        try:
            yield
        except KeyboardInterrupt:
            failure = Failure(type="KeyboardInterrupt", message="the same command goes on from here")
            self._finish(experiment, job, Outcome("interrupted", failure), start)
            raise

    def _finish(self, experiment: Experiment, job: PredictJob | None, outcome: Outcome, start: str) -> Record:
        record = _record(experiment, job, outcome, start)
        write_json(experiment.folder / RECORD_FILE, record.model_dump(mode="json", by_alias=True))
        if record.error:
            self.reporter.say(f"{_title(experiment)}: {record.status}: {record.error.type}: {record.error.message}")
        return record


def read_record(folder: Path) -> Record | None:
    """Read the record in ``folder``; None where there is none or it is of another form."""
    try:
        return Record.model_validate_json((folder / RECORD_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def _title(experiment: Experiment) -> str:
    name, dataset = experiment.method.name, experiment.request.dataset.name
    return f"{name} on {dataset}, seed {experiment.seed}{experiment.parts.suffix}"


def checkpoints(experiment: Experiment) -> dict[str, str]:
    """Return the sha256 of each trained component of an experiment whose trainings are done."""
    return {name: result.checkpoint_sha256 for name, result in _trainings(experiment).items()}


def _is_complete(record: Record, job: PredictJob) -> bool:
    """Say whether ``record`` holds a good result of every planned image, under today's keys."""
    results = {image.image: image for image in record.images}
    return record.status == "ok" and all(
        planned.image in results
        and results[planned.image].score_key == planned.score_key
        and is_current(results[planned.image], planned, job.folder)
        for planned in job.images
    )


def _tells_of_choices(record: Record, experiment: Experiment) -> bool:
    """Say whether ``record`` tells of tuning and trainings as they are: one may have been done again since."""
    trainings = _trainings(experiment)
    told = {name: _training_record(result) for name, result in trainings.items()}
    known = (record.tuning, record.trainings) == (experiment.tuning, told)
    return known and record.warnings == _warnings(experiment, trainings, record.images)


def _record(experiment: Experiment, job: PredictJob | None, outcome: Outcome, start: str) -> Record:
    request = experiment.request
    images = _images(job)
    failed = next((image for image in images if image.status == "failed"), None)
    if outcome.status == "ok" and failed is not None:
        message = f"{failed.image}: {failed.error}"
        tail = log_tail(experiment.folder)
        outcome = Outcome("failed", Failure(type="ImageFailed", message=message, log_tail=tail))
    trainings = _trainings(experiment)
    place = read_place(experiment.folder) if job else None
    about = provenance(experiment.method, request.device, start, place)
    return Record(
        key=experiment.key,
        method=experiment.method.name,
        info=experiment.method.info,
        preset=request.preset,
        parameters=experiment.values,
        changes=_changes(experiment),
        dataset=DataReference(
            name=request.dataset.name,
            line_px=request.dataset.line_px,
            class_px=request.dataset.class_px,
            identity_sha256=identity_sha256(request.dataset),
        ),
        train_dataset=request.train_dataset.name if request.train_dataset else None,
        split=_split(experiment),
        seed=experiment.seed,
        device=request.device.split(":")[0],
        device_name=about["device_name"],
        threads=request.threads,
        limit=request.limit,
        tuning=experiment.tuning,
        nested=experiment.nested,
        status=outcome.status,
        error=outcome.failure,
        trainings={name: _training_record(result) for name, result in trainings.items()},
        n_planned=len(experiment.samples),
        images=images,
        summary=summarize([ImageScores.from_row(i.scores) for i in images if i.scores]).to_json(),
        latency=_latency(images),
        overlays=_overlays(experiment.folder),
        warnings=_warnings(experiment, trainings, images),
        provenance={
            "command": command_line(),
            "isolated": experiment.method.environment,
            "source_sha256": source_sha256(experiment.method),
            **about,
        },
    )


def _split(experiment: Experiment) -> SplitReference:
    parts = experiment.parts
    number, count = parts.fold or (None, None)
    name = "all" if experiment.request.train_dataset else parts.split_name
    return SplitReference(name=name, sha256=parts.sha256, fold=number, folds=count)


def _changes(experiment: Experiment) -> dict[str, Any]:
    """Return the parameters that are not the preset's."""
    method, name = experiment.method, experiment.request.preset
    try:
        preset = dict(flatten(method.preset(name)))
    except ConfigurationError:
        # It lacks what a user has to give.
        preset = dict(flatten(method.config.values(name)))
    return {name: value for name, value in flatten(experiment.values) if value != preset.get(name)}


def _images(job: PredictJob | None) -> list[ImageRecord]:
    """Return the results in the order of the plan, so that a resumed run writes the same record.

    Results under other keys are left out: a worker may have ended before it could put them away.
    """
    if job is None:
        return []
    results = {(image.image, image.score_key): image for image in read_images(job.folder)}
    planned = [(image.image, image.score_key) for image in job.images]
    return [results[key] for key in planned if key in results]


def _trainings(experiment: Experiment) -> dict[str, TrainingResult]:
    return {
        name: result
        for name, training in experiment.trainings.items()
        if (result := read_training(training.folder)) is not None
    }


def _training_record(result: TrainingResult) -> TrainingRecord:
    return TrainingRecord.model_validate(result.model_dump())


def _latency(images: Sequence[ImageRecord]) -> Latency | None:
    calls = [(image.seconds, image.stages) for image in images if image.seconds is not None]
    if not calls or any(map(_is_untimed, images)):
        return None
    protocol = TOLD if any(image.latency_told for image in images) else _PROTOCOL
    return latency(protocol, [seconds for seconds, _ in calls], [stages for _, stages in calls])


def _is_untimed(image: ImageRecord) -> bool:
    """Say whether an image was predicted beside other jobs."""
    return image.status == "ok" and image.seconds is None and not image.latency_told


def _overlays(folder: Path) -> list[str]:
    return sorted(f"{OVERLAYS_FOLDER}/{file.name}" for file in (folder / OVERLAYS_FOLDER).glob("*.png"))


def _warnings(
    experiment: Experiment, trainings: Mapping[str, TrainingResult], images: Sequence[ImageRecord]
) -> list[str]:
    own = [f"{name}: {warning}" for name, result in trainings.items() for warning in result.warnings]
    changed = [
        f"{name}: the source of {result.method} has changed since this was trained; --retrain trains it again"
        for name, result in trainings.items()
        if _source_has_changed(result, experiment.request.adapters)
    ]
    tuned = [_TUNED_BEFORE] if experiment.tuning and experiment.parts.fold and not experiment.nested else []
    untimed = [UNTIMED] if any(map(_is_untimed, images)) else []
    return own + changed + tuned + untimed


def _source_has_changed(result: TrainingResult, adapters: Sequence[str]) -> bool:
    method = find_methods(adapters).get(result.method)
    return method is not None and source_sha256(method) != result.source_sha256
