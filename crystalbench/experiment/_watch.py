"""Ends workers that stand still or take more memory than there is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from crystalbench.experiment._jobs import Progress
from crystalbench.experiment._memory import find_groups, free_memory, held_memory
from crystalbench.experiment._record import Failure, Outcome

GB = 1e9
_LEAST_RESERVE = 0.5 * GB
_MOST_RESERVE = 2.0 * GB
_RESERVED_SHARE = 0.05
_COST = 0.005
_followed: set[Watch] = set()


@dataclass(frozen=True)
class Limits:
    """What a worker may take.

    Parameters
    ----------
    timeout
        Seconds without progress: no report of a training, no image. None: for ever.
    memory
        Resident bytes of the worker and all processes that it started. None: as many as leave the machine, or
        the container where that has less, a reserve of 5 %, at least 0.5 GB and at most 2 GB.
    """

    timeout: float | None = None
    memory: float | None = None


class Watch:
    """Looks at one worker and says when it has to end."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._pid = pid
        self._limits = limits
        self._groups = find_groups()
        self._reserve = reserve([int(psutil.virtual_memory().total), *(group.limit for group in self._groups)])
        self._next_count = 0.0
        self.restart()
        self.rest()

    def restart(self) -> None:
        """Count the seconds without progress from now on."""
        self._step: tuple[float, ...] = ()
        self._moved = time.monotonic()
        _followed.add(self)

    def rest(self) -> None:
        """Look no more, until the next :meth:`restart`."""
        _followed.discard(self)

    def verdict(self, progress: Progress) -> Outcome | None:
        """Return why the worker must end, None where it may go on. To be asked several times a second."""
        return self._overdue(progress) or self._over_limit() or self._out_of_memory()

    def _overdue(self, progress: Progress) -> Outcome | None:
        step = (progress.step, progress.total, progress.seconds)
        if step != self._step:
            self._step, self._moved = step, time.monotonic()
        timeout = self._limits.timeout
        if timeout is None or time.monotonic() - self._moved <= timeout:
            return None
        message = f"no progress for {timeout:g} s, at {progress.step} of {progress.total or 'unknown'}"
        return Outcome("timeout", Failure(type="Timeout", message=message))

    def _over_limit(self) -> Outcome | None:
        limit = self._limits.memory
        begin = time.monotonic()
        if limit is None or begin < self._next_count:
            return None
        held = held_memory(self._pid, limit)
        # On a machine with many processes counting takes long: it must not cost more than 0.5 % of the time.
        self._next_count = begin + (time.monotonic() - begin) / _COST
        if held <= limit:
            return None
        return _oom(f"the worker held {held / GB:.1f} GB; --max-memory allows {limit / GB:.1f} GB")

    def _out_of_memory(self) -> Outcome | None:
        free = free_memory(self._groups)
        if free >= self._reserve:
            return None
        # The plain sum: there is no time to find out what is shared.
        held = self._held()
        others = [other._held() for other in list(_followed) if other is not self]
        if held <= _LEAST_RESERVE or held < max(others, default=0):
            # Others have taken it: to end this worker would not help, or less.
            return None
        return _oom(
            f"the worker held {held / GB:.1f} GB when only {free / GB:.1f} GB of memory were left; "
            "it was ended before the system would have to"
        )

    def _held(self) -> int:
        return held_memory(self._pid, math.inf)


def reserve(totals: Sequence[int]) -> float:
    """Return the bytes that a worker must leave where the machine, and groups within it, have so many."""
    return min(max(_LEAST_RESERVE, _RESERVED_SHARE * min(totals)), _MOST_RESERVE)


def _oom(message: str) -> Outcome:
    return Outcome("oom", Failure(type="OutOfMemory", message=message))
