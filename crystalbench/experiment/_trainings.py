"""Trainings, each done once however many experiments share it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from threading import Lock

from crystalbench.data import Fold
from crystalbench.experiment._executors import Executor, Local
from crystalbench.experiment._plan import Training
from crystalbench.experiment._progress import Reporter
from crystalbench.experiment._record import Outcome
from crystalbench.experiment._watch import Limits


@dataclass
class Trainer:
    """Trains components; parameters as of :class:`crystalbench.experiment.Run`."""

    reporter: Reporter
    limits: Limits
    retrain: bool = False
    executor: Executor = field(default_factory=Local)
    _ended: dict[str, Outcome] = field(default_factory=dict)
    _locks: dict[str, Lock] = field(default_factory=dict)

    def __call__(self, training: Training) -> Outcome:
        """Train one component, unless this or an earlier run has done it; wait where another thread is at it."""
        with self._locks.setdefault(training.key, Lock()):
            if training.key not in self._ended:
                if self.retrain:
                    shutil.rmtree(training.folder, ignore_errors=True)
                self._ended[training.key] = self._train(training)
            return self._ended[training.key]

    def _train(self, training: Training) -> Outcome:
        fold = f", {training.split}" if isinstance(training.split, Fold) else ""
        title = f"{training.method.name}: train {training.component}, seed {training.seed}{fold}"
        if training.is_done:
            self.reporter.say(f"{title}: done before ({training.folder})")
            return Outcome("ok")
        with self.reporter.task(title) as update:
            return self.executor(training.job(), update, self.limits, training.method.python)
