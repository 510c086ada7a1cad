"""Runs a job in a worker process on this machine, and sees to it that the worker does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from crystalbench._files import write_atomic
from crystalbench.experiment._jobs import (
    DESCRIPTION_FILE,
    ERROR_FILE,
    JOB_FILE,
    LOCK_FILE,
    LOG_FILE,
    PROGRESS_FILE,
    TIMES_FILE,
    DescribeJob,
    Job,
    PredictJob,
    Progress,
    ScoreJob,
    SegmentJob,
    TimeJob,
    TrainJob,
    read_progress,
    read_training,
)
from crystalbench.experiment._log import CappedLog, log_tail
from crystalbench.experiment._predict import keep_current, read_images
from crystalbench.experiment._record import Failure, Outcome
from crystalbench.experiment._score import read_rows
from crystalbench.experiment._segment import keep_segmented, read_segmented
from crystalbench.experiment._watch import Limits, Watch

_POLL_S = 0.1
_FIRST_POLL_S = 0.005
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def run_job(
    job: Job, on_progress: Callable[[Progress], None], limits: Limits, python: Path, gpu: str | None = None
) -> Outcome:
    """Run ``job`` in a process of ``python`` and wait; what it prints goes to ``log.txt`` in its folder.

    However the worker ends, what it started ends with it; what it started in a session of its own does so only where
    the worker has to be ended. ``gpu`` is the one that it sees, None: all that this process does.
    """
    with start_worker(job, limits, python, gpu) as worker:
        worker.follow(on_progress)
        return worker.end()


@contextmanager
def start_worker(job: Job, limits: Limits, python: Path, gpu: str | None = None) -> Iterator[Worker]:
    """Start a worker for ``job``, and end it in any case."""
    write_atomic(job.folder / JOB_FILE, job.model_dump_json(indent=1).encode())
    (job.folder / ERROR_FILE).unlink(missing_ok=True)
    _forget_failures(job)
    with CappedLog(job.folder / LOG_FILE) as log, _process(job, python, gpu) as process:
        worker = Worker(job, process, log, Watch(process.pid, limits))
        try:
            yield worker
        finally:
            worker.end()


@dataclass
class Worker:
    """A process that does a job."""

    job: Job
    process: subprocess.Popen[bytes]
    log: CappedLog
    watch: Watch
    _verdict: Outcome | None = None
    _outcome: Outcome | None = None

    def follow(
        self, on_progress: Callable[[Progress], None], until: Callable[[Progress], bool] = lambda _: False
    ) -> bool:
        """Wait until the worker's progress is what ``until`` asks for; False where it ends, or has to end, before."""
        self.watch.restart()
        reached = self._follow(on_progress, until)
        if self._verdict is None:
            self.watch.rest()
        return reached

    def _follow(self, on_progress: Callable[[Progress], None], until: Callable[[Progress], bool]) -> bool:
        pause = _FIRST_POLL_S
        while self.process.poll() is None:
            progress = read_progress(self.job.folder)
            on_progress(progress)
            if until(progress):
                return True
            self._verdict = self.watch.verdict(progress)
            if self._verdict is not None:
                return False
            self.log.copy(self.process.stdout, pause)
            pause = min(2 * pause, _POLL_S)
        progress = read_progress(self.job.folder)
        on_progress(progress)
        return until(progress)

    def end(self) -> Outcome:
        """End the worker and all that it started; return how its job ended."""
        if self._outcome is None:
            _kill(self.process)
            self.watch.rest()
            self.log.copy(self.process.stdout, 0.0)
            self._outcome = _outcome(self.job, self.process.returncode, self._verdict)
        return self._outcome


def _forget_failures(job: Job) -> None:
    """Leave only results that stand: the failures of an earlier attempt would look like this one's."""
    if isinstance(job, TimeJob | ScoreJob):
        (job.folder / PROGRESS_FILE).unlink(missing_ok=True)
        (job.folder / TIMES_FILE).unlink(missing_ok=True)
    # Where a worker of a killed run is still busy in the folder, it and the next worker go on from what is there.
    if isinstance(job, PredictJob | SegmentJob):
        with suppress(Timeout), FileLock(job.folder / LOCK_FILE, timeout=0):
            keep_current(job) if isinstance(job, PredictJob) else keep_segmented(job)
            (job.folder / PROGRESS_FILE).unlink(missing_ok=True)


@contextmanager
def _process(job: Job, python: Path, gpu: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own; the pipe that it is told of ends with this process."""
    its_end, our_end = os.pipe()
    # -P: what lies in the folder that the user stands in must not shadow a library.
    command = [str(python), "-P", "-m", "crystalbench.experiment._worker", str(job.folder / JOB_FILE), str(its_end)]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(job.threads, gpu, own=python == Path(sys.executable)),
            pass_fds=(its_end,),
            start_new_session=True,
        ) as process:
            yield process
    finally:
        os.close(its_end)
        os.close(our_end)


def _environment(threads: int, gpu: str | None, *, own: bool) -> dict[str, str]:
    """Fix the threads: they are part of the key, since sums in another order give other last bits.

    Waiting threads give up spinning early: where cores are shared, they would take them from threads with work.
    """
    waiting = {"GOMP_SPINCOUNT": "10000"}
    variables = dict(os.environ) if own else foreign_environment()
    visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    fixed = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"PYTHONUNBUFFERED": "1"}
    return variables | fixed | waiting | visible


def foreign_environment() -> dict[str, str]:
    """Return the variables for another Python than ours: the paths that the user set are not for it."""
    return {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a worker and all that it started: its process group, and what has left the group but is still its child."""
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with suppress(psutil.Error):
            child.kill()
    process.wait()


def _outcome(job: Job, code: int, verdict: Outcome | None) -> Outcome:
    outcome = Outcome("ok") if is_done(job) else _error(job.folder) or verdict or _crash(code)
    if outcome.failure is None:
        return outcome
    return replace(outcome, failure=outcome.failure.model_copy(update={"log_tail": log_tail(job.folder)}))


def _error(folder: Path) -> Outcome | None:
    if not (folder / ERROR_FILE).exists():
        return None
    failure = Failure.model_validate_json((folder / ERROR_FILE).read_bytes())
    out_of_memory = failure.type == "MemoryError" or "OutOfMemory" in failure.type
    return Outcome("oom" if out_of_memory else "failed", failure)


def is_done(job: Job) -> bool:
    """Say whether the work was done: an exit status of 0 does not say so, and some libraries crash at the exit."""
    if isinstance(job, TrainJob):
        return read_training(job.folder) is not None
    if isinstance(job, TimeJob):
        return (job.folder / TIMES_FILE).exists()
    if isinstance(job, DescribeJob):
        return (job.folder / DESCRIPTION_FILE).exists()
    if isinstance(job, ScoreJob):
        done = read_rows(job.folder, job.state, pruned=job.prune)
        return all((point.key, image) in done for point in job.points for image in job.images)
    if isinstance(job, SegmentJob):
        return {image.name for image in job.images} <= read_segmented(job).keys()
    return {image.score_key for image in job.images} <= {image.score_key for image in read_images(job.folder)}


def _crash(code: int) -> Outcome:
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    if how == "SIGKILL":
        how += " (which a user sends, or the system where memory runs out)"
    return Outcome("crashed", Failure(type="Crash", message=f"the worker ended with {how} before its work was done"))
