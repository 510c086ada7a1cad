"""Timing methods in turn, so that whatever changes on the machine meanwhile hits all of them alike."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_json
from crystalbench.config import Tree
from crystalbench.data import Sample
from crystalbench.experiment._jobs import TIMES_FILE, TURNS_PIPE, PredictJob, Progress, TimeJob, Times
from crystalbench.experiment._keys import key_of, prediction_base
from crystalbench.experiment._latency import (
    LATENCY_FILE,
    PROTOCOL_VERSION,
    REFERENCE,
    REFERENCE_FILE,
    TOLD,
    ImageTimes,
    Timing,
    latency,
    read_timing,
    spread_warnings,
)
from crystalbench.experiment._local import Worker, start_worker
from crystalbench.experiment._plan import Experiment
from crystalbench.experiment._progress import Reporter, Update
from crystalbench.experiment._provenance import command_line, machine, now, provenance
from crystalbench.experiment._record import Failure, Outcome
from crystalbench.experiment._run import checkpoints
from crystalbench.experiment._trainings import Trainer
from crystalbench.experiment._watch import Limits

WARM_UP = 10
"""Calls that are not counted, before one more for each shape of image."""

ROUNDS = 3
"""How often each image is counted."""

_PROTOCOL = f"time-{PROTOCOL_VERSION}: {ROUNDS} calls an image, in turn with the other methods"


@dataclass(frozen=True)
class _Subject:
    """What is timed: an experiment's predictions, with its own ``values`` or those of its library's own backend."""

    experiment: Experiment
    values: Tree
    file: Path

    @property
    def title(self) -> str:
        backend = f" ({REFERENCE} backend)" if self.file.name == REFERENCE_FILE else ""
        return f"{self.experiment.method.name}{backend}, seed {self.experiment.seed}"

    @cached_property
    def key(self) -> str:
        """The latency key; the trainings must be done."""
        method, request = self.experiment.method, self.experiment.request
        trained = checkpoints(self.experiment)
        base = prediction_base(method, self.values, trained, device=request.device, threads=request.threads)
        return key_of(prediction=base, machine=machine(request.device), protocol=PROTOCOL_VERSION)

    @cached_property
    def predictions(self) -> PredictJob:
        """What a run of the experiment predicts; the trainings must be done."""
        return self.experiment.job(checkpoints(self.experiment))

    @cached_property
    def job(self) -> TimeJob:
        """The job for a worker."""
        common = self.predictions.model_dump(exclude={"kind", "images", "folder", "values", "timed"})
        samples = self.experiment.samples
        return TimeJob(
            **common,
            values=self.values,
            folder=self.file.resolve().with_suffix(""),
            warm_up=warm_up_images(samples),
            images=tuple(sample.name for sample in samples) * ROUNDS,
        )


def warm_up_images(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the images of the calls that are not counted: ten, and one more for each distinct shape."""
    shapes = {sample.shape: sample.name for sample in reversed(samples)}
    return (*islice(cycle(sample.name for sample in samples), WARM_UP), *shapes.values())


@dataclass(frozen=True)
class Timed:
    """An experiment's timings: as its parameters say, and with the library's own backend where it has one."""

    experiment: Experiment
    own: Timing
    reference: Timing | None

    @property
    def is_ok(self) -> bool:
        """Say whether all of it could be timed."""
        return all(timing.status == "ok" for timing in (self.own, self.reference) if timing)


@dataclass
class TimeRun:
    """Times several experiments; what was timed before on this machine is not timed again.

    Parameters
    ----------
    experiments
        As planned. What is not trained is trained first.
    reporter
        Told what is being done.
    again
        Time again also what is timed.
    limits
        What one worker may take.
    """

    experiments: Sequence[Experiment]
    reporter: Reporter
    again: bool = False
    limits: Limits = field(default_factory=Limits)
    _found: dict[Path, Timing] = field(default_factory=dict)

    def __call__(self) -> list[Timed]:
        """Do everything that is not done; return the timings of each experiment, failed ones too.

        Raises
        ------
        ConfigurationError
            Where methods are asked for with different backends.
        """
        _refuse_unlike_backends(self.experiments)
        train = Trainer(self.reporter, self.limits)
        subjects = [_subjects(experiment) for experiment in self.experiments]
        due = [subject for found in subjects for subject in found if self._is_due(subject, train)]
        if due:
            with _alone(self.reporter):
                self._time(due)
        timings = [[self._found[subject.file] for subject in found] for found in subjects]
        return [
            Timed(experiment, found[0], found[-1] if _has_reference(experiment) else None)
            for experiment, found in zip(self.experiments, timings, strict=True)
        ]

    def _is_due(self, subject: _Subject, train: Trainer) -> bool:
        """Train what ``subject`` needs; say whether it can be timed and has not been."""
        start = now()
        outcome = next((o for o in map(train, subject.experiment.trainings.values()) if o.status != "ok"), None)
        if outcome is None:
            outcome = _problem(subject)
        if outcome is not None:
            self._finish(subject, _timing(subject, outcome, start, []))
            return False
        before = read_timing(subject.file)
        if self.again or before is None or before.status != "ok" or before.key != subject.key:
            return True
        self.reporter.say(f"{subject.title}: timed before ({subject.file})")
        self._found[subject.file] = before
        return False

    def _time(self, due: Sequence[_Subject]) -> None:
        """Time all of ``due`` in turn; in blocks where memory does not hold all their workers."""
        while left := self._block(due):
            names = "; ".join(subject.title for subject in left)
            self.reporter.say(
                f"memory is short: timed in a block of their own, what drifts hits them otherwise: {names}"
            )
            due = left

    def _block(self, due: Sequence[_Subject]) -> list[_Subject]:
        """Time as many of ``due`` as memory holds; return the others."""
        start = now()
        with ExitStack() as stack:
            players, left = self._warmed_up(due, stack, start)
            left = self._pass_turns(players, start) + left
            for player in players:
                beside = [other.subject.title for other in players if other is not player]
                self._finish(player.subject, _timing(player.subject, player.worker.end(), start, beside))
        return left

    def _warmed_up(self, due: Sequence[_Subject], stack: ExitStack, start: str) -> tuple[list[_Player], list[_Subject]]:
        """Return players that are ready, and what memory has no room for beside them."""
        players: list[_Player] = []
        for count, subject in enumerate(due):
            player = stack.enter_context(_player(subject, self.limits))
            with self.reporter.task(f"{subject.title}: warm up") as update:
                is_ready = player.warm_up(update)
            if is_ready:
                players.append(player)
            elif self._lacks_memory(player, players, start):
                return players, list(due[count:])
        return players, []

    def _pass_turns(self, players: list[_Player], start: str) -> list[_Subject]:
        """Let ``players`` make all their calls; take out those that fail, and return which lacked memory."""
        if not players:
            return []
        left = []
        total = len(players[0].subject.job.images)
        with self.reporter.task(f"time {len(players)} in turn") as update:
            for turn in range(total):
                update(Progress(step=turn, total=total))
                for player in list(players):
                    if not player.take_turn():
                        players.remove(player)
                        left += [player.subject] if self._lacks_memory(player, players, start) else []
            update(Progress(step=total, total=total))
        return left

    def _lacks_memory(self, player: _Player, others: Sequence[_Player], start: str) -> bool:
        """End a player that failed; say whether it may do better without others beside it, else keep the failure."""
        outcome = player.worker.end()
        if outcome.status == "oom" and others:
            return True
        self._finish(player.subject, _timing(player.subject, outcome, start, []))
        return False

    def _finish(self, subject: _Subject, timing: Timing) -> None:
        write_json(subject.file, timing.model_dump(mode="json"))
        self._found[subject.file] = timing
        if timing.error:
            self.reporter.say(f"{subject.title}: {timing.status}: {timing.error.type}: {timing.error.message}")


@dataclass
class _Player:
    """A worker that makes one call whenever a byte is written into its ``pipe``."""

    subject: _Subject
    worker: Worker
    pipe: int
    steps: int = 0

    def warm_up(self, update: Update) -> bool:
        """Wait for the calls that are not counted; False where the worker fails."""
        return self._reach(len(self.subject.job.warm_up), update)

    def take_turn(self) -> bool:
        """Let the worker make its next call; False where it fails."""
        os.write(self.pipe, b".")
        return self._reach(self.steps + 1, lambda _: None)

    def _reach(self, steps: int, update: Update) -> bool:
        self.steps = steps
        return self.worker.follow(update, lambda progress: progress.step >= steps)


@contextmanager
def _player(subject: _Subject, limits: Limits) -> Iterator[_Player]:
    pipe = subject.job.folder / TURNS_PIPE
    pipe.parent.mkdir(parents=True, exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    # Open at both ends: the worker's own end is open only once it has warmed up.
    handle = os.open(pipe, os.O_RDWR)
    try:
        with start_worker(subject.job, limits, subject.experiment.method.python) as worker:
            yield _Player(subject, worker, handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(reporter: Reporter) -> Iterator[None]:
    """Wait until no other run times anything on this machine."""
    folder = platformdirs.user_cache_path("crystalbench")
    folder.mkdir(parents=True, exist_ok=True)
    # A home directory may be that of several machines.
    lock = FileLock(folder / f"time-{platform.node()}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.say("another `crystalbench time` is running on this machine; this one goes on when that has ended")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _subjects(experiment: Experiment) -> list[_Subject]:
    own = _Subject(experiment, experiment.values, experiment.folder / LATENCY_FILE)
    if not _has_reference(experiment) or experiment.values["decode"]["backend"] == REFERENCE:
        return [own]
    return [own, _Subject(experiment, _with_reference(experiment.values), experiment.folder / REFERENCE_FILE)]


def _has_reference(experiment: Experiment) -> bool:
    """Say whether the method's ``decode`` has a ``backend`` that may be that of its library."""
    if "backend" not in experiment.values["decode"]:
        return False
    try:
        experiment.method.parameters(_with_reference(experiment.values))
    except ConfigurationError:
        return False
    return True


def _with_reference(values: Tree) -> Tree:
    return {**values, "decode": {**values["decode"], "backend": REFERENCE}}


def _refuse_unlike_backends(experiments: Sequence[Experiment]) -> None:
    backends = {e.method.name: e.values["decode"]["backend"] for e in experiments if _has_reference(e)}
    if len(set(backends.values())) > 1:
        told = ", ".join(f"{name}: {backend}" for name, backend in backends.items())
        raise ConfigurationError(
            f"methods are timed with one decode.backend, not several ({told}): set the same for all; "
            f"{REFERENCE} is a column of its own anyway"
        )


def _problem(subject: _Subject) -> Outcome | None:
    """Return why there can be no job: the method says which files it reads, and these are read."""
    try:
        _ = subject.job, subject.key
    except Exception as error:
        failure = Failure(type=type(error).__name__, message=str(error), log_tail=traceback.format_exc())
        return Outcome("failed", failure)
    return None


def _timing(subject: _Subject, outcome: Outcome, start: str, beside: list[str]) -> Timing:
    method, request = subject.experiment.method, subject.experiment.request
    about = provenance(method, request.device, start)
    told = {"machine": machine(request.device), "provenance": {"command": command_line(), **about}}
    if outcome.status != "ok":
        return Timing(status=outcome.status, error=outcome.failure, **told)
    job = subject.job
    times = Times.model_validate_json((job.folder / TIMES_FILE).read_bytes())
    images = [
        ImageTimes(
            image=planned.image,
            prediction_key=planned.prediction_key,
            seconds=times.seconds[number :: len(job.images) // ROUNDS],
        )
        for number, planned in enumerate(subject.predictions.images)
    ]
    place = f"{told['machine']['device_name']}, {request.threads} threads, host {told['machine']['host']}"
    return Timing(
        key=subject.key,
        status="ok",
        latency=latency(TOLD if times.told else _PROTOCOL, times.seconds, times.stages, place, times.peak_gpu_bytes),
        warm_up=len(job.warm_up),
        images=images,
        beside=beside,
        warnings=[] if times.told else spread_warnings([image.seconds for image in images]),
        **told,
    )
