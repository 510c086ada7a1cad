"""The log of a job: the beginning and the end of what its workers print, however much that is."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import IO, Self

from crystalbench.experiment._jobs import LOG_FILE

KEPT_BYTES = 1 << 20
"""How much of the beginning, and how much at least of the end, of what one worker prints is kept."""

_NEXT_ATTEMPT = b"\n--- the next attempt ---\n"
_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = 1 << 14
_TAIL_LINES = 30


class CappedLog:
    """Appends what one worker prints to a file, and leaves out the middle where it is long.

    The file is on the disk and complete up to the last chunk at any moment: nothing is lost when the driver is killed.
    """

    def __init__(self, file: Path) -> None:
        file.touch()
        self._file = file.open("r+b", buffering=0)
        if self._file.seek(0, os.SEEK_END):
            self._file.write(_NEXT_ATTEMPT)
        self._begin = self._file.tell()
        self._printed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def copy(self, pipe: IO[bytes] | None, seconds: float) -> None:
        """Copy what lies in ``pipe`` and what comes within ``seconds``; take as long where the pipe has ended."""
        assert pipe is not None
        end = time.monotonic() + seconds
        while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
            self.write(chunk)
            if not chunk or time.monotonic() >= end:
                break
        time.sleep(max(0.0, end - time.monotonic()))

    def write(self, data: bytes) -> None:
        """Append ``data``; once there is too much, leave out what is between the beginning and the end."""
        self._file.write(data)
        self._printed += len(data)
        if self._file.tell() - self._begin > 3 * KEPT_BYTES:
            self._leave_out_the_middle()

    def _leave_out_the_middle(self) -> None:
        self._file.seek(-KEPT_BYTES, os.SEEK_END)
        tail = self._file.read(KEPT_BYTES)
        self._file.seek(self._begin + KEPT_BYTES)
        self._file.write(b"\n... %d bytes left out ...\n" % (self._printed - 2 * KEPT_BYTES))
        self._file.write(tail)
        self._file.truncate()


def log_tail(folder: Path) -> str:
    """Return the last lines of a job's last attempt as text that can be printed."""
    log = folder / LOG_FILE
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().rpartition(_NEXT_ATTEMPT)[2].decode(errors="replace").splitlines()
    return "\n".join(_printable(line) for line in lines[-_TAIL_LINES:])


def _printable(line: str) -> str:
    """Take out what would steer a terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
