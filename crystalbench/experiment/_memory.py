"""How much memory processes hold, and how much is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_TABLE = Path("/proc/self/cgroup")


def held_memory(pid: int, limit: float) -> int:
    """Return the resident bytes of a process and its descendants.

    Pages that several of them share count once where the plain sum is over ``limit``: to find them takes longer.
    """
    resident = _sum(pid, lambda process: int(process.memory_info().rss))
    return resident if resident <= limit else _sum(pid, _own_share)


@dataclass(frozen=True)
class Group:
    """A control group (of a container, a batch system) that limits the memory of this process, in bytes."""

    limit: int
    usage: Path
    statistics: Path
    cached: tuple[str, ...]

    def free(self) -> int:
        """Return what may still be taken; what is cached of files counts as free."""
        statistics = dict(line.split() for line in self.statistics.read_text().splitlines())
        cached = sum(int(statistics.get(name, 0)) for name in self.cached)
        return self.limit - int(self.usage.read_text()) + cached


def free_memory(groups: Iterable[Group]) -> int:
    """Return the bytes that may still be taken before the kernel ends a process: of the machine, or of a group."""
    return min([int(psutil.virtual_memory().available), *(group.free() for group in groups)])


def find_groups(root: Path = _GROUPS, table: Path = _TABLE) -> list[Group]:
    """Return the control groups over this process that allow it less than the machine has."""
    lines = table.read_text().splitlines() if table.exists() else []
    groups: list[Group] = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        inside = Path(path.strip("/"))
        for folder in [inside, *inside.parents]:
            if not controllers:
                groups += _group(root / folder, "memory.max", "memory.current", "")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
                groups += _group(root / "memory" / folder, *names)
    return [group for group in groups if group.limit < psutil.virtual_memory().total]


def _group(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[Group]:
    cached = (f"{prefix}active_file", f"{prefix}inactive_file")
    # No such file: another version of control groups, or none above this one. "max": no limit.
    with suppress(OSError, ValueError):
        yield Group(int((folder / limit).read_text()), folder / usage, folder / "memory.stat", cached)


def _sum(pid: int, measure: Callable[[psutil.Process], int]) -> int:
    total = 0
    with suppress(psutil.Error):
        worker = psutil.Process(pid)
        for process in [worker, *worker.children(recursive=True)]:
            with suppress(psutil.Error):
                total += measure(process)
    return total


def _own_share(process: psutil.Process) -> int:
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.uss))
