"""What a search scores: passes (one trained model each), their points, and the record that each point leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from crystalbench._exceptions import ConfigurationError, UnknownNameError
from crystalbench._files import file_sha256, write_json
from crystalbench.config import Tree, merge
from crystalbench.data import Sample
from crystalbench.evaluation import EVALUATOR_VERSION
from crystalbench.evaluation._scores import nan_to_none
from crystalbench.evaluation._summary import mean_and_std
from crystalbench.experiment._grid import Choice, Grid, Stage, chosen
from crystalbench.experiment._jobs import PlannedPoint, ScoreJob, TrainingResult, read_training
from crystalbench.experiment._keys import isolation, key_of, prediction_base
from crystalbench.experiment._plan import (
    Parts,
    Request,
    Training,
    checkpoint_files,
    job_basis,
    plan_trainings,
)
from crystalbench.experiment._provenance import now
from crystalbench.experiment._record import Failure, Outcome, Status
from crystalbench.experiment._score import PointImage, keep_good_rows, read_rows
from crystalbench.registry import Method

TUNE_FOLDER = "tune"


class PointTraining(BaseModel):
    """The training of one component that a point stands on."""

    key: str
    checkpoint_sha256: str
    seconds: float


class PointRecord(BaseModel):
    """What one point scored, whole or failed: a file ``point-<key12>.json``.

    ``parameters`` are those that its stage searched, by dotted name, ``state`` is the key of all else that the scores
    depend on, except the checkpoints; ``pq`` is the mean over the images, and null where some were pruned. ``infer_s``
    and ``decode_s`` are summed over the images.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    key: str
    state: str
    method: str
    dataset: str
    preset: str
    stage: str
    parameters: Choice
    values: Tree
    trainings: dict[str, PointTraining]
    status: Status
    error: Failure | None = None
    pq: float | None = None
    pq_std: float | None = None
    images: list[PointImage] = []
    infer_s: float = 0.0
    decode_s: float = 0.0
    end: str

    @property
    def is_pruned(self) -> bool:
        """Whether the point was left out before all images were scored."""
        return _is_pruned(self.images)


@dataclass(frozen=True)
class Point:
    """One setting of all parameters; ``choice`` are those of its stage."""

    key: str
    choice: Choice
    values: Tree


@dataclass(frozen=True)
class Search:
    """A method's search on the validation images ``samples``; each point is laid over the values ``base``.

    ``given`` are those that the user set, which are not searched. With ``prune`` points that are significantly worse
    than the best are not scored to the end.
    """

    method: Method
    request: Request
    grid: Grid
    parts: Parts
    samples: tuple[Sample, ...]
    base: Tree
    given: Tree
    prune: bool = False

    @property
    def seed(self) -> int:
        """The seed of all trainings."""
        return self.request.seeds[0]

    @property
    def folder(self) -> Path:
        """Where the records of points, their logs and the study lie."""
        return self.request.out / self.request.dataset.name / self.method.name / TUNE_FOLDER

    @property
    def title(self) -> str:
        """What it is called where it is told of: the method, and the fold where there are folds."""
        return f"{self.method.name}{self.parts.suffix}"

    @cached_property
    def key(self) -> str:
        """The key of what is searched, and on what."""
        return key_of(**self._searched, **self._common)

    def how_key(self, **more: object) -> str:
        """Return the key of what is searched on whatever images, so that it is the same in all folds."""
        method = {"method": self.method.name, "class_name": self.method.config.class_name}
        how = {"seed": self.seed, "limit": self.request.limit, "prune": self.prune}
        return key_of(**self._searched, **method, **how, **more)

    @property
    def _searched(self) -> Tree:
        grid = {"lists": dict(self.grid.lists), "fixed": self.grid.fixed}
        return {**grid, "preset": self.request.preset, "base": self.base}

    @cached_property
    def state(self) -> str:
        """The key of what scores depend on beside the point itself and its checkpoints."""
        request, values = self.request, {"infer": None, "decode": None}
        base = prediction_base(self.method, values, {}, device=request.device, threads=request.threads)
        reads = self.method.reads(merge(self.base, chosen(self.grid.fixed)))
        files = {sample.name: {file.name: file_sha256(file) for file in reads(sample)} for sample in self.samples}
        return key_of(base=base, reads=files, evaluator=EVALUATOR_VERSION)

    @cached_property
    def _common(self) -> Tree:
        return {
            "method": self.method.name,
            "class_name": self.method.config.class_name,
            "images": {sample.name: sample.hashes for sample in self.samples},
            "training_data": self.parts.training,
            "seed": self.seed,
            "device": self.request.device.split(":")[0],
            "threads": self.request.threads,
            **isolation(self.method),
        }

    def plan(self, stage: Stage, choice: Choice, won: Choice) -> Pass | ConfigurationError:
        """Return the pass of one setting of a stage, with what earlier stages have ``won``.

        Points whose parameters do not go together, as the method says, are left out; where none is left, what it says
        is returned in place of a pass.

        Raises
        ------
        UnknownNameError
            For a parameter that does not exist.
        """
        found, refused = [], ConfigurationError("no point")
        for infer, decode in product(self.grid.infer, self.grid.decode):
            point = {**choice, **infer, **decode}
            try:
                values = self.method.parameters(merge(self.base, chosen({**self.grid.fixed, **won, **point})))
            except UnknownNameError:
                raise
            except ConfigurationError as error:
                refused = error
                continue
            found.append((point, values))
        return self._pass(stage, choice, found) if found else refused

    def _pass(self, stage: Stage, choice: Choice, found: Sequence[tuple[Choice, Tree]]) -> Pass:
        trainings = plan_trainings(self.request, self.method, found[0][1], self.seed, self.parts)
        keys = {name: training.key for name, training in trainings.items()}
        key = key_of(trainings=keys, train=found[0][1]["train"], **self._common)
        points = [
            Point(key_of(model=key, infer=values["infer"], decode=values["decode"]), point, values)
            for point, values in found
        ]
        # A list may hold one value twice, as 1 and 1.0.
        distinct = {point.key: point for point in points}
        return Pass(self, stage.name, choice, trainings, tuple(distinct.values()), key)


@dataclass(frozen=True)
class Pass:
    """One trained model, and the points that are scored in one pass of it over the validation images."""

    search: Search
    stage: str
    choice: Choice
    trainings: Mapping[str, Training]
    points: tuple[Point, ...]
    key: str

    @property
    def folder(self) -> Path:
        """Where the records of its points and the log lie."""
        return self.search.folder / self.key[:12]

    def job(self) -> ScoreJob:
        """Return the job for a worker; the trainings are done."""
        search = self.search
        return ScoreJob(
            **job_basis(search.request, search.method, self.points[0].values, search.seed),
            dataset=search.parts.trained.root,
            checkpoints=checkpoint_files(self.trainings),
            folder=self.folder.resolve(),
            points=tuple(PlannedPoint(key=point.key, values=point.values) for point in self.points),
            images=tuple(sample.name for sample in search.samples),
            state=self._state,
            prune=search.prune,
        )

    @property
    def _state(self) -> str:
        checkpoints = {name: result.checkpoint_sha256 for name, result in self._results().items()}
        return key_of(state=self.search.state, checkpoints=checkpoints)

    def _results(self) -> dict[str, TrainingResult]:
        found = {name: read_training(training.folder) for name, training in self.trainings.items()}
        return {name: result for name, result in found.items() if result is not None}

    def read(self) -> dict[str, PointRecord]:
        """Return the records of its points that stand, by key: of today's data, code and checkpoints.

        Where a checkpoint has gone, what was scored with it stands.
        """
        checkpoints = {name: result.checkpoint_sha256 for name, result in self._results().items()}
        records = [record for point in self.points if (record := read_point(self._file(point.key))) is not None]
        return {record.key: record for record in records if self._stands(record, checkpoints)}

    def _stands(self, record: PointRecord, checkpoints: Mapping[str, str]) -> bool:
        told = {name: training.checkpoint_sha256 for name, training in record.trainings.items()}
        if record.is_pruned and not self.search.prune:
            return False
        return record.state == self.search.state and {**checkpoints, **told} == {**told, **checkpoints}

    def forget_failed(self) -> None:
        """Remove what has failed, so that it is tried again."""
        failed = [record for record in self.read().values() if record.status != "ok"]
        if failed:
            keep_good_rows(self.folder)
        for record in failed:
            self._file(record.key).unlink(missing_ok=True)

    def write(self, outcome: Outcome) -> None:
        """Leave a record of each point, from the rows that its worker has left, and from how it ended."""
        before, rows = self.read(), read_rows(self.folder, self._state, pruned=self.search.prune)
        results = self._results()
        trainings = {
            name: PointTraining(key=result.key, checkpoint_sha256=result.checkpoint_sha256, seconds=result.seconds)
            for name, result in results.items()
        }
        for point in self.points:
            if point.key not in before:
                names = (sample.name for sample in self.search.samples)
                images = [row for name in names if (row := rows.get((point.key, name))) is not None]
                record = self._record(point, images, outcome, trainings)
                write_json(self._file(point.key), record.model_dump(mode="json"))

    def _record(
        self, point: Point, rows: Sequence[PointImage], outcome: Outcome, trainings: dict[str, PointTraining]
    ) -> PointRecord:
        request = self.search.request
        images = [PointImage.model_validate(row.model_dump()) for row in rows]
        status, error = _ending(images, len(self.search.samples), outcome)
        scored = [] if _is_pruned(images) else images
        pq, pq_std = mean_and_std(image.pq for image in scored if image.pq is not None)
        return PointRecord(
            key=point.key,
            state=self.search.state,
            method=self.search.method.name,
            dataset=self.search.parts.trained.name,
            preset=request.preset,
            stage=self.stage,
            parameters=point.choice,
            values=point.values,
            trainings=trainings,
            status=status,
            error=error,
            pq=nan_to_none(pq),
            pq_std=nan_to_none(pq_std),
            images=images,
            infer_s=sum(image.infer_s for image in images),
            decode_s=sum(image.decode_s for image in images),
            end=now(),
        )

    def _file(self, key: str) -> Path:
        return self.folder / f"point-{key[:12]}.json"


def read_point(file: Path) -> PointRecord | None:
    """Read the record of a point; None where there is none or it is of another form."""
    try:
        return PointRecord.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def best(records: Sequence[PointRecord]) -> PointRecord | None:
    """Return the record of the highest PQ among those without a failure, the first of equals; None without any."""
    scored = [record for record in records if record.status == "ok" and record.pq is not None]
    return max(scored, key=lambda record: record.pq or 0.0, default=None)


def _is_pruned(images: Iterable[PointImage]) -> bool:
    return any(image.status == "pruned" for image in images)


def _ending(images: Sequence[PointImage], planned: int, outcome: Outcome) -> tuple[Status, Failure | None]:
    failed: Iterator[PointImage] = (image for image in images if image.status == "failed")
    first = next(failed, None)
    if first is not None:
        return "failed", Failure(type="ImageFailed", message=f"{first.image}: {first.error}")
    if len(images) == planned:
        return "ok", None
    return outcome.status, outcome.failure
