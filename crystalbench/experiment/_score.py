"""Scoring all points of a trained model in one pass: an image is inferred once for all decode points."""

from __future__ import annotations

import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from crystalbench._devices import synchronize
from crystalbench._files import canonical_json, write_atomic
from crystalbench.data import Dataset, Sample
from crystalbench.evaluation import evaluate
from crystalbench.evaluation._scores import nan_to_none
from crystalbench.experiment._jobs import SCORES_FILE, PlannedPoint, ScoreJob
from crystalbench.experiment._predict import check_labels
from crystalbench.registry import Method
from crystalbench.segmenter import Image, Labels, Segmenter

_FIRST_TEST = 4
"""Images before a point can be pruned: with fewer no p is small enough."""


class PointImage(BaseModel):
    """What one point scores on one image.

    ``infer_s`` are the seconds of the forward pass, which points of the same ``infer`` parameters share. What was
    pruned was not predicted.
    """

    image: str
    status: Literal["ok", "failed", "pruned"]
    error: str | None = None
    pq: float | None = None
    tp: int | None = None
    fp: int | None = None
    fn: int | None = None
    aji: float | None = None
    acs_relative_error: float | None = None
    infer_s: float = 0.0
    decode_s: float = 0.0


class ScoreRow(PointImage):
    """A line of ``scores.jsonl``."""

    state: str
    point: str


Done = dict[tuple[str, str], ScoreRow]
"""Rows by point and image."""


def score(job: ScoreJob, method: Method, dataset: Dataset, report: Callable[[int, int], None]) -> None:
    """Score the points of ``job`` on its images, as far as that is not done.

    One model lies in memory at a time. A point that fails on an image is kept as failed there, and the others go on.
    Where ``job.prune`` says so, a point is left out as soon as it is significantly worse than the best so far.
    """
    done = read_rows(job.folder, job.state, pruned=job.prune)
    race = _Race() if job.prune else None
    samples = {sample.name: sample for sample in dataset.samples}
    passes = [_Pass(job, method, points) for points in _sharing(method, job.points)]
    warm = False
    for number, one in enumerate(passes):
        for count, name in enumerate(job.images):
            report(number * len(job.images) + count, len(passes) * len(job.images))
            missing = [point for point in one.points if (point.key, name) not in done]
            going = [point for point in missing if race is None or point.key not in race.pruned]
            rows = [one.pruned(point, name) for point in missing if point not in going]
            if going:
                warm = warm or one.warm_up(samples[name])
                rows += one.rows(samples[name], going)
            if rows:
                _append(job.folder / SCORES_FILE, rows)
                done |= {(row.point, row.image): row for row in rows}
            if race is not None:
                race.add([done[point.key, name] for point in one.points])
    report(len(passes) * len(job.images), len(passes) * len(job.images))


def read_rows(folder: Path, state: str, *, pruned: bool) -> Done:
    """Read the rows in ``folder`` that were scored in ``state``; a line torn by a kill is none.

    Without ``pruned`` what was pruned is not there, so that it is scored.
    """
    rows = [row for row in _parsed(folder) if row.state == state and (pruned or row.status != "pruned")]
    return {(row.point, row.image): row for row in rows}


def keep_good_rows(folder: Path) -> None:
    """Put away the rows that failed."""
    good = "".join(f"{row.model_dump_json()}\n" for row in _parsed(folder) if row.status == "ok")
    write_atomic(folder / SCORES_FILE, good.encode())


@dataclass
class _Pass:
    """Points that share their ``infer`` parameters, and so the forward pass of each image."""

    job: ScoreJob
    method: Method
    points: Sequence[PlannedPoint]

    @cached_property
    def _segmenter(self) -> Segmenter:
        segmenter = self.method.build(self.points[0].values)
        segmenter.load(self.job.checkpoints, self.job.device)
        return segmenter

    def warm_up(self, sample: Sample) -> bool:
        """Predict once: the first call of a process loads libraries and compiles, and is not counted."""
        try:
            self._segmenter.predict_sample(sample)
        except (Exception, SystemExit):
            # The call that follows fails in the same way, and is where the failure is kept.
            return False
        return True

    def rows(self, sample: Sample, points: Iterable[PlannedPoint]) -> Iterator[ScoreRow]:
        """Yield the row of each point for one sample."""
        truth, image = sample.label, sample.image
        try:
            raw, infer_s = self._timed(self._first_call(sample, image))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            yield from (self._failed(point, sample, error) for point in points)
            return
        for point in points:
            try:
                labels, decode_s = self._timed(partial(self._decode, raw, point))
                scores = evaluate(truth, check_labels(labels, image.shape[:2]))
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                yield self._failed(point, sample, error)
                continue
            measures = {name: nan_to_none(getattr(scores, name)) for name in ("pq", "aji", "acs_relative_error")}
            counts = {"tp": scores.tp, "fp": scores.fp, "fn": scores.fn}
            yield self._row(point, sample, status="ok", infer_s=infer_s, decode_s=decode_s, **measures, **counts)

    def _first_call(self, sample: Sample, image: Image) -> Callable[[], Any]:
        """Return what the points share: the forward pass, or for one point alone the whole prediction."""
        if _has_decode(self.method):
            return partial(self._segmenter.infer, image)
        return partial(self._segmenter.predict_sample, sample)

    def _decode(self, raw: Any, point: PlannedPoint) -> Labels:
        if not _has_decode(self.method):
            return raw  # type: ignore[no-any-return]
        return self._segmenter.decode(raw, self.method.build(point.values).decode_parameters)

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        synchronize(self.job.device)
        start = time.perf_counter()
        result = call()
        synchronize(self.job.device)
        return result, time.perf_counter() - start

    def pruned(self, point: PlannedPoint, image: str) -> ScoreRow:
        """Return the row of a point that is left out."""
        return ScoreRow(state=self.job.state, point=point.key, image=image, status="pruned")

    def _failed(self, point: PlannedPoint, sample: Sample, error: BaseException) -> ScoreRow:
        return self._row(point, sample, status="failed", error=f"{type(error).__name__}: {error}")

    def _row(self, point: PlannedPoint, sample: Sample, **values: Any) -> ScoreRow:
        return ScoreRow(state=self.job.state, point=point.key, image=sample.name, **values)


@dataclass
class _Race:
    """Which points are ``pruned``: a test on the images so far says that they are worse than the best of them.

    The test is that of Optuna's ``WilcoxonPruner``: one-sided signed ranks of the PQ by image, p under its 0.1, which
    takes at least four images. What has failed neither prunes nor is pruned.
    """

    pruned: set[str] = field(default_factory=set)
    _pq: dict[str, list[float]] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)

    def add(self, rows: Sequence[ScoreRow]) -> None:
        """Take in the rows of one more image, of points that share their forward passes."""
        self._failed |= {row.point for row in rows if row.status == "failed"}
        self.pruned |= {row.point for row in rows if row.status == "pruned"}
        going = [row.point for row in rows if row.point not in self._failed | self.pruned]
        for row in rows:
            # An image without crystals in which none are found is undefined, and no bad case.
            self._pq.setdefault(row.point, []).append(1.0 if row.pq is None else row.pq)
        if not going:
            return
        n_images = len(self._pq[going[0]])
        known = {key: pq[:n_images] for key, pq in self._pq.items() if key not in self._failed | self.pruned}
        best = max(known.values(), key=statistics.fmean)
        self.pruned |= {key for key in going if known[key] is not best and _is_worse(known[key], best)}


def _is_worse(pq: Sequence[float], best: Sequence[float]) -> bool:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.WilcoxonPruner(n_startup_steps=_FIRST_TEST)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    values = dict(enumerate(best))
    study.add_trial(optuna.trial.create_trial(value=statistics.fmean(best), intermediate_values=values))
    trial = study.ask()
    for step, value in enumerate(pq):
        trial.report(value, step)
    return trial.should_prune()


def _sharing(method: Method, points: Iterable[PlannedPoint]) -> list[list[PlannedPoint]]:
    """Return the points in groups that share a forward pass; where nothing is decoded, none do."""
    groups: dict[bytes, list[PlannedPoint]] = {}
    for point in points:
        shared = point.values["infer"] if _has_decode(method) else point.values
        groups.setdefault(canonical_json(shared), []).append(point)
    return list(groups.values())


def _has_decode(method: Method) -> bool:
    """Say whether ``predict`` is ``decode`` after ``infer``."""
    cls = method.segmenter_class
    whole = cls.predict is Segmenter.predict and cls.predict_sample is Segmenter.predict_sample
    return whole and cls.infer is not Segmenter.infer


def _append(file: Path, rows: Iterable[ScoreRow]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        # A line that a kill has torn ends here.
        if stream.tell():
            stream.write("\n")
        stream.write("".join(f"{row.model_dump_json()}\n" for row in rows))
        stream.flush()
        os.fsync(stream.fileno())


def _parsed(folder: Path) -> list[ScoreRow]:
    file = folder / SCORES_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [row for line in lines if (row := _parse(line)) is not None]


def _parse(line: str) -> ScoreRow | None:
    try:
        return ScoreRow.model_validate_json(line)
    except ValueError:
        return None
