"""How far a run is: bars on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
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
        """Print a line when the job starts, and now and then while it goes on."""
        self.say(f"{title} ...")
        last = time.monotonic()

        def update(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= self._every_s:
                last = time.monotonic()
                scalars = "".join(f"  {name} {value:.3g}" for name, value in progress.scalars.items())
                self.say(f"{title}: {progress.step}/{progress.total}{scalars}")

        yield update


class BarReporter(Reporter):
    """A bar for each job while it goes on."""

    @contextmanager
    def task(self, title: str) -> Iterator[Update]:
        """Draw a bar with the steps done, the time passed and the time left."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scalars]}", markup=False),
        )
        # Drawn when there is news, not by a thread of its own: that would run while something is timed.
        with Bars(*columns, console=self._console, auto_refresh=False) as bars:
            task = bars.add_task(title, total=None, scalars="")

            def update(progress: Progress) -> None:
                scalars = " ".join(f"{name} {value:.3g}" for name, value in progress.scalars.items())
                bars.update(task, completed=progress.step, total=progress.total or None, scalars=scalars, refresh=True)

            yield update


def reporter(console: Console) -> Reporter:
    """Return what suits the console."""
    return BarReporter(console) if console.is_terminal else Reporter(console)
