"""The worker process: does one job and leaves files.

``python -m crystalbench.experiment._worker FOLDER/job.json PIPE`` trains one component, predicts and scores
images, scores the points of a search, times predictions, segments images without a truth, or describes a method. It
may be killed at any moment: the next worker with the same job goes on where this one stood, or begins again where only
the whole is of use.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from filelock import FileLock

from crystalbench._files import file_sha256, write_atomic, write_json
from crystalbench.data import open_dataset
from crystalbench.experiment._jobs import (
    CHECKPOINT_FILE,
    DESCRIPTION_FILE,
    ERROR_FILE,
    LOCK_FILE,
    PLACE_FILE,
    PROGRESS_FILE,
    TRAINING_FILE,
    WARNINGS_FILE,
    DescribedComponent,
    DescribeJob,
    Description,
    Job,
    PredictJob,
    Progress,
    ScoreJob,
    SegmentJob,
    TimeJob,
    TrainingResult,
    TrainJob,
    read_job,
    read_progress,
    read_training,
)
from crystalbench.experiment._keys import init_sha256, source_sha256
from crystalbench.experiment._predict import predict
from crystalbench.experiment._provenance import now, place, provenance
from crystalbench.experiment._score import score
from crystalbench.experiment._segment import segment
from crystalbench.experiment._turns import take_turns
from crystalbench.registry import Method, find_method
from crystalbench.segmenter import Segmenter

_REPORT_EVERY_S = 0.2

# A process, not a thread: a method may hold the interpreter's lock for ever.
_WARDEN = "import os, signal, sys; sys.stdin.buffer.read(); os.killpg(0, signal.SIGKILL)"


def main(job_file: Path, pipe: int) -> int:
    """Do the job of ``job_file`` for the process that holds the other end of ``pipe``; return the exit status."""
    _end_with(pipe)
    _offer_to_the_kernel()
    job = read_job(job_file)
    try:
        # A worker of a killed run may still be busy in this folder.
        with FileLock(job.folder / LOCK_FILE):
            _do(job)
    except BaseException as error:
        # Also sys.exit, and whatever else a method raises.
        traceback.print_exc()
        write_json(job.folder / ERROR_FILE, {"type": type(error).__name__, "message": str(error)})
        return 1
    return 0


def _do(job: Job) -> None:
    if isinstance(job, TrainJob):
        _train(job)
    elif isinstance(job, PredictJob):
        _predict(job)
    elif isinstance(job, ScoreJob):
        _score(job)
    elif isinstance(job, TimeJob):
        _time(job)
    elif isinstance(job, SegmentJob):
        _segment(job)
    else:
        _describe(job)


@dataclass
class _JobContext:
    """What :meth:`Segmenter.fit` is told, and how its reports reach the driver."""

    seed: int
    device: str
    threads: int
    folder: Path
    checkpoints: Mapping[str, Path]
    unpickle: bool = False
    weights: str | None = None
    warnings: list[str] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    _begun: float = field(default_factory=time.monotonic)
    _seconds_before: float = 0.0
    _reported: float = float("-inf")

    def __post_init__(self) -> None:
        self.progress = read_progress(self.folder)
        self._seconds_before = self.progress.seconds
        file = self.folder / WARNINGS_FILE
        if file.exists() and self.progress.step:
            # What the first attempt said of the weights to start from: a resumed training does not read them again.
            self.warnings = json.loads(file.read_bytes())

    def report(self, step: int, total: int, **scalars: float) -> None:
        elapsed = time.monotonic()
        seconds = self._seconds_before + elapsed - self._begun
        self.progress = Progress(step=step, total=total, seconds=seconds, scalars=scalars)
        if step == total or elapsed - self._reported >= _REPORT_EVERY_S:
            self._reported = elapsed
            write_atomic(self.folder / PROGRESS_FILE, self.progress.model_dump_json().encode())

    def initial_weights(self, origin: str) -> None:
        self.weights = origin

    def warn(self, message: str) -> None:
        print(f"warning: {message}", flush=True)
        if message not in self.warnings:
            self.warnings.append(message)
            write_json(self.folder / WARNINGS_FILE, self.warnings)


def _train(job: TrainJob) -> None:
    if read_training(job.folder) is not None:
        return
    method = find_method(job.method, job.adapters)
    start = now()
    context = _JobContext(job.seed, job.device, job.threads, job.folder, job.checkpoints, job.unpickle)
    init = init_sha256(job.values["train"][job.component])
    split = open_dataset(job.dataset).split(job.split)
    method.build(job.values).fit(job.component, split.train, split.val, context)
    result = TrainingResult(
        key=job.key,
        method=job.method,
        component=job.component,
        weights=context.weights,
        init_sha256=init,
        seconds=context.progress.seconds,
        steps=context.progress.total,
        checkpoint_sha256=file_sha256(job.folder / CHECKPOINT_FILE),
        source_sha256=source_sha256(method),
        warnings=context.warnings,
        provenance=provenance(method, job.device, start),
    )
    write_json(job.folder / TRAINING_FILE, result.model_dump())


def _predict(job: PredictJob) -> None:
    method = find_method(job.method, job.adapters)
    context = _JobContext(job.seed, job.device, job.threads, job.folder, job.checkpoints)
    write_json(job.folder / PLACE_FILE, place(job.device))
    dataset = open_dataset(job.dataset)
    predict(job, _loaded(method, job), dataset, context.report)


def _score(job: ScoreJob) -> None:
    context = _JobContext(job.seed, job.device, job.threads, job.folder, job.checkpoints)
    score(job, find_method(job.method, job.adapters), open_dataset(job.dataset), context.report)


def _time(job: TimeJob) -> None:
    take_turns(job, _loaded(find_method(job.method, job.adapters), job), open_dataset(job.dataset))


def _segment(job: SegmentJob) -> None:
    context = _JobContext(job.seed, job.device, job.threads, job.folder, job.checkpoints)
    segment(job, _loaded(find_method(job.method, job.adapters), job), context.report)


def _loaded(method: Method, job: PredictJob | TimeJob | SegmentJob) -> Segmenter:
    segmenter = method.build(job.values)
    segmenter.load(job.checkpoints, job.device)
    return segmenter


def _describe(job: DescribeJob) -> None:
    method = find_method(job.method, job.adapters)
    components = [
        DescribedComponent(
            name=part.name, fit_version=part.fit_version, requires=part.requires, model=method.model_name(part.name)
        )
        for part in method.components.values()
    ]
    description = Description(
        info=method.info,
        components=tuple(components),
        parameters={} if job.values is None else method.parameters(job.values),
        python=platform.python_version(),
        libraries=method.library_versions,
        packages={package.name: package.version for package in distributions() if package.name != "crystalbench"},
    )
    write_json(job.folder / DESCRIPTION_FILE, description.model_dump(mode="json"))


def _end_with(pipe: int) -> None:
    """Have the whole process group end when the driver does, however that ended: orphans would go on unseen."""
    subprocess.Popen([sys.executable, "-I", "-S", "-c", _WARDEN], stdin=pipe)
    os.close(pipe)


def _offer_to_the_kernel() -> None:
    """Where memory runs out all the same, this process is to be ended by the kernel before the driver."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
