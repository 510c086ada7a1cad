"""Where jobs run: on this machine or on a Ray cluster. Files are the only protocol, so the same jobs run on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from threading import Condition
from typing import Literal, Protocol, TypeVar

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench.experiment._jobs import PredictJob, Progress, ScoreJob, TrainJob
from crystalbench.experiment._local import run_job
from crystalbench.experiment._record import Outcome
from crystalbench.experiment._watch import Limits

Kind = Literal["local", "ray"]
Runnable = TrainJob | PredictJob | ScoreJob
OnProgress = Callable[[Progress], None]

_T = TypeVar("_T")
_ROUNDING = 1e-9


class Executor(Protocol):
    """Runs jobs, each in a worker process of its own; called by several threads at once."""

    @property
    def width(self) -> int:
        """How many jobs it is of use to ask for at once."""

    @property
    def is_alone(self) -> bool:
        """Whether a job has the machine to itself, so that its seconds say something."""

    def device(self, name: str) -> str:
        """Turn ``auto``, ``cpu`` or ``cuda`` into the device that jobs will use.

        Raises
        ------
        ConfigurationError
            For ``cuda`` where there is no GPU.
        """

    def __call__(self, job: Runnable, on_progress: OnProgress, limits: Limits, python: Path) -> Outcome:
        """Run ``job`` when there is room, and return how it ended; ``on_progress`` is first called when it begins.

        Raises
        ------
        KeyboardInterrupt
            Where :meth:`stop` ended the job.
        CancelledError
            Where it came before the job had begun.
        """

    def stop(self) -> None:
        """End all jobs."""


class Slots:
    """Room for so many jobs at once and, where they use GPUs, for so many as these hold.

    Of the jobs that wait, predictions go first, since each is the end of an experiment, then the one that came first.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()) -> None:
        self.stopped = False
        self._free = jobs
        self._room = dict.fromkeys(gpus, 1.0)
        self._waiting: list[tuple[bool, int]] = []
        self._numbers = count()
        self._changed = Condition()

    @contextmanager
    def taken(self, job: Runnable) -> Iterator[str | None]:
        """Wait for room and hold it; yield the GPU that the job shall use, None where it is told none."""
        with self._changed:
            turn = (isinstance(job, TrainJob), next(self._numbers))
            heappush(self._waiting, turn)
            self._changed.wait_for(lambda: self.stopped or (self._waiting[0] == turn and self._has_room(job)))
            if self.stopped:
                raise CancelledError("stopped before it had begun")
            heappop(self._waiting)
            gpu = self._widest if job.gpus else None
            self._take(gpu, job.gpus, 1)
        try:
            yield gpu
        finally:
            with self._changed:
                self._take(gpu, -job.gpus, -1)

    def stop(self) -> None:
        """Let no job begin any more."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    @property
    def _widest(self) -> str | None:
        return max(self._room, key=lambda gpu: self._room[gpu], default=None)

    def _has_room(self, job: Runnable) -> bool:
        gpu = self._widest
        return self._free > 0 and (gpu is None or job.gpus <= self._room[gpu] + _ROUNDING)

    def _take(self, gpu: str | None, share: float, jobs: int) -> None:
        self._free -= jobs
        if gpu is not None:
            self._room[gpu] -= share
        self._changed.notify_all()


@dataclass
class Local:
    """Worker processes on this machine, ``jobs`` at once; ``gpus`` are shared out among them, or seen by all."""

    jobs: int = 1
    gpus: Sequence[str] = ()
    _slots: Slots = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._slots = Slots(self.jobs, self.gpus)

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        return self.jobs

    @property
    def is_alone(self) -> bool:
        """Whether jobs run one after the other."""
        return self.jobs == 1

    def device(self, name: str) -> str:
        """Return the device that jobs on this machine use."""
        return _devices.resolve_device(name)

    def __call__(self, job: Runnable, on_progress: OnProgress, limits: Limits, python: Path) -> Outcome:
        """Run ``job`` in a worker process; see :class:`Executor`."""

        def update(progress: Progress) -> None:
            if self._slots.stopped:
                raise KeyboardInterrupt
            on_progress(progress)

        with self._slots.taken(job) as gpu:
            return run_job(job, update, limits, python, gpu)

    def stop(self) -> None:
        """End all jobs."""
        self._slots.stop()


def open_executor(kind: Kind, jobs: int | None, address: str | None, say: Callable[[str], None]) -> Executor:
    """Return what runs jobs: on this machine ``jobs`` at once, one without a number, or on the cluster at ``address``.

    ``say`` is told what a cluster waits for.

    Raises
    ------
    ConfigurationError
        For an address without a cluster, or one that cannot be reached; where Ray is not installed.
    """
    if kind == "ray":
        from crystalbench.experiment._ray import Ray

        return Ray(address or "auto", jobs, say)
    if address is not None:
        raise ConfigurationError("--address is that of a Ray cluster: add --executor ray, or leave it out")
    return Local() if jobs is None else Local(jobs, _devices.gpus())


def side_by_side(calls: Sequence[Callable[[], _T]], threads: int, executor: Executor) -> list[_T]:
    """Make all ``calls`` in so many threads, which wait for jobs of ``executor``; return what they return, in order.

    Where one fails, or Ctrl-C is pressed, all jobs are ended, and what has not begun does not begin.
    """
    if not calls:
        return []
    with ThreadPoolExecutor(min(threads, len(calls))) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            executor.stop()
            raise
    return [future.result() for future in futures]
