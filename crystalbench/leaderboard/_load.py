"""Folders -> records."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crystalbench._exceptions import ConfigurationError
from crystalbench.experiment._jobs import LABELS_FOLDER, RECORD_FILE
from crystalbench.experiment._latency import LATENCY_FILE, REFERENCE_FILE, with_timings
from crystalbench.experiment._record import Record
from crystalbench.experiment._stored import UNREADABLE, parse_record, reason
from crystalbench.leaderboard._rows import finished_at

_logger = logging.getLogger("crystalbench")
_PUBLISHED_NAME = re.compile(r"[0-9a-f]{12}\.json")


@dataclass(frozen=True)
class Stored:
    """A record, and the file that it was read from."""

    file: Path
    record: Record

    @property
    def root(self) -> Path:
        """The folder of runs or of published records, below which the record is."""
        parents = list(self.file.resolve().parents)
        return parents[min(3 if self.file.name == RECORD_FILE else 2, len(parents) - 1)]

    @property
    def labels(self) -> Path:
        """Where the label maps of the record lie, if they are there."""
        if self.file.name == RECORD_FILE:
            return self.file.parent / LABELS_FOLDER
        published = self.file.resolve().relative_to(self.root).with_suffix("")
        return self.root.parent / LABELS_FOLDER / published


def load_records(roots: Sequence[Path]) -> list[Record]:
    """Read every record below some folders.

    Parameters
    ----------
    roots
        Folders of runs (``<data>/<method>/<key12>/record.json``) or of published records
        (``<data>/<method>/<key12>.json``), or folders above or below these.

    Returns
    -------
    list of Record
        One per key, the newest where a key is there twice. A file that is torn or not a record is left
        out, with a warning in the log that names it. What ``crystalbench time`` left beside a record takes the place
        of the latency of its run.

    Raises
    ------
    ConfigurationError
        Where one of ``roots`` is not a folder.
    """
    return [stored.record for stored in load_stored(roots)]


def load_stored(roots: Sequence[Path]) -> list[Stored]:
    """Read every record below some folders with its file; see :func:`load_records`."""
    newest: dict[str, Stored] = {}
    for stored in _readable(_files(roots)):
        key = stored.record.key
        if key not in newest or finished_at(stored.record) > finished_at(newest[key].record):
            newest[key] = stored
    return list(newest.values())


def _files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if not root.is_dir():
            raise ConfigurationError(f"{root}: there is no such folder of runs; check --runs")
        yield from sorted(path for path in root.rglob("*.json") if _is_named_as_record(path))


def _is_named_as_record(path: Path) -> bool:
    return path.name == RECORD_FILE or _PUBLISHED_NAME.fullmatch(path.name) is not None


def _readable(paths: Iterable[Path]) -> Iterator[Stored]:
    for path in paths:
        try:
            yield Stored(path, _read(path))
        except UNREADABLE as error:
            _logger.warning("%s: skipped, it is not a whole record (%s); run it again", path, reason(error))


def _read(path: Path) -> Record:
    return with_timings(parse_record(path), *(_beside(path, name) for name in (LATENCY_FILE, REFERENCE_FILE)))


def _beside(path: Path, name: str) -> Path:
    """Return the file ``name`` that belongs to a record; a published one has the record's key in front."""
    return path.with_name(name if path.name == RECORD_FILE else f"{path.stem}.{name}")
