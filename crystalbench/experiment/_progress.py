"""How far a run is: bars on a terminal, plain lines elsewhere. Always on standard error; several jobs at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from crystalbench.experiment._jobs import Progress

Update = Callable[[Progress], None]


class Reporter:
    """Lines of text: at the start of a task and then at most every ``every_s`` seconds."""

    def __init__(self, console: Console, every_s: float = 15.0) -> None:
        self._console = console
        self._every_s = every_s

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str) -> Iterator[Update]:
        """Print a line with the first update, which is when the job begins, and now and then while it goes on."""
        last: float | None = None

        def update(progress: Progress) -> None:
            nonlocal last
            if last is None:
                last = time.monotonic()
                self.say(f"{title} ...")
            if time.monotonic() - last >= self._every_s:
                last = time.monotonic()
                scalars = "".join(f"  {name} {value:.3g}" for name, value in progress.scalars.items())
                self.say(f"{title}: {progress.step}/{progress.total}{scalars}")

        yield update


class BarReporter(Reporter):
    """A bar for each job while it goes on; what is left of it afterwards is a line."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scalars]}", markup=False),
        )
        # Drawn when there is news, not by a thread of its own: that would run while something is timed.
        self._bars = Bars(*columns, console=console, auto_refresh=False, transient=True)
        self._lock = Lock()

    @contextmanager
    def task(self, title: str) -> Iterator[Update]:
        """Draw a bar with the steps done, the time passed and the time left, from the first update on."""
        task: Task | None = None

        def update(progress: Progress) -> None:
            nonlocal task
            task = task or self._begin(title)
            scalars = " ".join(f"{name} {value:.3g}" for name, value in progress.scalars.items())
            total = progress.total or None
            self._bars.update(task.id, completed=progress.step, total=total, scalars=scalars, refresh=True)

        try:
            yield update
        finally:
            if task is not None:
                self._end(task)

    def _begin(self, title: str) -> Task:
        with self._lock:
            self._bars.start()
            number = self._bars.add_task(title, total=None, scalars="")
            return next(task for task in self._bars.tasks if task.id == number)

    def _end(self, task: Task) -> None:
        with self._lock:
            self._bars.stop_task(task.id)
            self._console.print(self._bars.make_tasks_table([task]))
            self._bars.remove_task(task.id)
            if not self._bars.tasks:
                self._bars.stop()


def reporter(console: Console) -> Reporter:
    """Return what suits the console."""
    return BarReporter(console) if console.is_terminal else Reporter(console)
