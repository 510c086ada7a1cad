"""Runs jobs on the nodes of a Ray cluster: a task is :func:`run_job` on whatever node has room."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench.experiment._executors import OnProgress, Runnable, Slots
from crystalbench.experiment._jobs import JOB_FILE, read_progress
from crystalbench.experiment._local import is_done, run_job
from crystalbench.experiment._record import Failure, Outcome
from crystalbench.experiment._watch import Limits

MOST_JOBS = 1000
"""How many jobs Ray is asked for at once where the user names no number; it has them wait for room."""

_ROOT = Path(__file__).parents[2]
_POLL_S = 0.5
_RETRIES = 3
_LAG_S = 90.0
"""How long a network file system may take to show what another machine has written."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Where its node runs out of memory a job is tried again, but not for ever as by default.
    "RAY_task_oom_retries": str(_RETRIES),
    # Under `uv run` Ray would pack the current folder and send it to all nodes.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass
class Ray:
    """Jobs on the Ray cluster at ``address``, at most ``jobs`` at once; ``say`` is told what they wait for.

    ``local`` is a cluster of this machine alone, which ends with this process.

    Raises
    ------
    ConfigurationError
        Where Ray is not installed, or the cluster cannot be reached.
    """

    address: str
    jobs: int | None
    say: Callable[[str], None]
    is_alone: bool = field(init=False, default=False)
    _has_room: dict[tuple[int, float], bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._slots = Slots(self.width)
        self._ray = _connected(self.address)
        self._task = self._ray.remote(_run_on_node)

    @property
    def width(self) -> int:
        """How many jobs the cluster is asked for at once."""
        return self.jobs or MOST_JOBS

    def device(self, name: str) -> str:
        """Return the device that jobs use: ``auto`` is ``cuda`` where a node has a GPU.

        Raises
        ------
        ConfigurationError
            For ``cuda`` where none has.
        """
        if name != "cpu" and self._ray.cluster_resources().get("GPU"):
            return "cuda"
        if name == "cuda":
            raise ConfigurationError("--device cuda: no node of the Ray cluster has a GPU; use --device cpu")
        return "cpu"

    def __call__(self, job: Runnable, on_progress: OnProgress, limits: Limits, python: Path) -> Outcome:
        """Run ``job`` on a node; see :class:`crystalbench.experiment._executors.Executor`.

        Raises
        ------
        ConfigurationError
            Where no node can ever have room for the job, or one does not see the files that this machine does.
        """
        job.folder.mkdir(parents=True, exist_ok=True)
        # A node that does not see this file has a folder of the same name on a disk of its own.
        with self._slots.taken(job), NamedTemporaryFile(dir=job.folder, prefix=".sent-") as file:
            before = _inode(job)
            resources = {"num_cpus": job.threads, "num_gpus": job.gpus, "max_retries": _RETRIES}
            task = self._task.options(**resources)
            running = task.remote(job, limits, python, Path.cwd(), Path(file.name))
            try:
                self._follow(running, job, before, on_progress)
            except BaseException:
                # Not of one that has ended: where a cancellation meets its last reply, Ray ends this process.
                self._ray.cancel(running, force=True)
                raise
            return self._outcome(running, job)

    def stop(self) -> None:
        """End all jobs."""
        self._slots.stop()

    def _follow(self, running: Any, job: Runnable, before: int | None, on_progress: OnProgress) -> None:
        """Wait until a task has ended."""
        has_begun = False
        while not self._ray.wait([running], timeout=_POLL_S)[0]:
            # The first that is done on a node is to write the job's file anew.
            has_begun = has_begun or _inode(job) != before
            if self._slots.stopped:
                raise KeyboardInterrupt if has_begun else CancelledError
            if has_begun:
                on_progress(read_progress(job.folder))
            else:
                self._check_room(job)
        on_progress(read_progress(job.folder))

    def _check_room(self, job: Runnable) -> None:
        """See that some node is large enough: Ray waits for ever where none is."""
        need = (job.threads, job.gpus)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= job.threads and node.get("GPU", 0) >= job.gpus for node in nodes):
            self._has_room[need] = True
            return
        wanted = f"{job.threads} CPUs" + (" and a GPU" if job.gpus else "")
        if need not in self._has_room:
            most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
            raise ConfigurationError(
                f"a job takes {wanted}, and no node of the Ray cluster has as many (the largest has {most} CPUs): "
                "give --threads"
            )
        if self._has_room[need]:
            self.say(f"no node of the Ray cluster with {wanted} is left: waiting for one")
        self._has_room[need] = False

    def _outcome(self, running: Any, job: Runnable) -> Outcome:
        errors = self._ray.exceptions
        try:
            outcome: Outcome | str = self._ray.get(running)
        except errors.RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise error.cause from None
            why = str(error.cause).strip().splitlines()[-1]
            raise ConfigurationError(
                f"a node cannot run jobs: {why}; start Ray there in the environment that this command runs in"
            ) from error
        except errors.OutOfMemoryError as error:
            return Outcome("oom", Failure(type="OutOfMemory", message=_first_line(error)))
        except errors.RayError as error:
            message = f"its node was lost {_RETRIES + 1} times: {type(error).__name__}: {_first_line(error)}"
            return Outcome("crashed", Failure(type="LostNode", message=message))
        if isinstance(outcome, str):
            raise ConfigurationError(outcome)
        if outcome.status == "ok" and not _within(_LAG_S, lambda: is_done(job)):
            raise ConfigurationError(_unshared("this machine", job.folder, "a node"))
        return outcome


def _run_on_node(job: Runnable, limits: Limits, python: Path, folder: Path, sent: Path) -> Outcome | str:
    """Run a job for a driver that stands in ``folder`` and has made the file ``sent``; a string says what lacks."""
    here = f"node {platform.node()}"
    for path in (python, folder, folder / job.dataset, job.folder):
        if not path.exists():
            return _unshared(here, path, "the driver")
    if not _within(_LAG_S, sent.exists):
        return _unshared(here, sent, "the driver")
    # Adapters and weights may be named by relative paths.
    os.chdir(folder)
    return run_job(job, lambda _: None, limits, python)


def _unshared(blind: str, path: Path, other: str) -> str:
    return (
        f"{blind} does not see {path} as {other} does: data, --out, the folder that you stand in and the environment "
        "must lie on a file system that all nodes share, at the same paths"
    )


def _within(seconds: float, check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _inode(job: Runnable) -> int | None:
    file = job.folder / JOB_FILE
    return file.stat().st_ino if file.exists() else None


def _connected(address: str) -> Any:
    """Return the module ``ray``, connected to the cluster at ``address``."""
    if "://" in address:
        raise ConfigurationError(
            f"--address {address}: Ray's client protocol is not used; on a node of the cluster give auto or HOST:PORT"
        )
    os.environ.update(_SETTINGS)
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError("--executor ray needs Ray: pip install 'crystalbench[ray]'") from error
    own = {"num_cpus": _devices.cores(), "include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        # What Ray's workers import first lies in the folder where it is called: that must be what is imported here.
        with chdir(_ROOT):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"--address {address}: no Ray cluster can be reached there: {_first_line(error)}; this command must be "
            "given on a node of it, with its versions of Ray and Python; --address local starts one here"
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise ``OSError`` where nothing answers at HOST:PORT: Ray would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10.0).close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
