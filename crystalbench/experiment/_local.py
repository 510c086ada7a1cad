"""Runs a job in a worker process on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crystalbench._files import write_atomic
from crystalbench.experiment._jobs import (
    ERROR_FILE,
    JOB_FILE,
    LOG_FILE,
    PredictJob,
    Progress,
    TrainJob,
    read_progress,
)
from crystalbench.experiment._record import Failure, Status

_POLL_S = 0.1
_TAIL_LINES = 30
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    failure: Failure | None = None


def run_job(job: TrainJob | PredictJob, on_progress: Callable[[Progress], None]) -> Outcome:
    """Run ``job`` in a process of its own and wait; its output goes to ``log.txt`` in its folder."""
    write_atomic(job.folder / JOB_FILE, job.model_dump_json(indent=1).encode())
    (job.folder / ERROR_FILE).unlink(missing_ok=True)
    # -P: what lies in the folder that the user stands in must not shadow a library.
    command = [
        sys.executable,
        "-P",
        "-m",
        "crystalbench.experiment._worker",
        str(job.folder / JOB_FILE),
        str(os.getpid()),
    ]
    with (job.folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(job.threads)
        )
        try:
            while process.poll() is None:
                on_progress(read_progress(job.folder))
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
    on_progress(read_progress(job.folder))
    return _outcome(job.folder, process.returncode)


def _environment(threads: int) -> dict[str, str]:
    """Fix the threads: they are part of the key, since sums in another order give other last bits.

    Waiting threads give up spinning early: where cores are shared, they would take them from threads with work.
    """
    waiting = {"GOMP_SPINCOUNT": "10000"}
    return os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)) | waiting | {"PYTHONUNBUFFERED": "1"}


def _outcome(folder: Path, code: int) -> Outcome:
    if code == 0:
        return Outcome("ok")
    tail = log_tail(folder)
    error = folder / ERROR_FILE
    if error.exists():
        failure = Failure.model_validate({"log_tail": tail} | _read_error(error))
        out_of_memory = failure.type == "MemoryError" or "OutOfMemory" in failure.type
        return Outcome("oom" if out_of_memory else "failed", failure)
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return Outcome("crashed", Failure(type="Crash", message=f"the worker ended with {how}", log_tail=tail))


def log_tail(folder: Path) -> str:
    """Return the last lines of a job's log."""
    log = folder / LOG_FILE
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])


def _read_error(file: Path) -> dict[str, str]:
    return dict(Failure.model_validate_json(file.read_bytes()).model_dump(exclude={"log_tail"}))
