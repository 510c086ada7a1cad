"""Records in files."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from crystalbench._exceptions import ConfigurationError
from crystalbench.evaluation import ImageExtras, ImageScores
from crystalbench.experiment._jobs import RECORD_FILE
from crystalbench.experiment._record import SCHEMA, Record

UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError)
"""What :func:`parse_record` raises on a file that is no whole record."""


def parse_record(path: Path) -> Record:
    """Read the record in the file ``path``, whose every score can then be computed."""
    record = Record.model_validate_json(path.read_bytes())
    if record.schema_version > SCHEMA:
        raise ValueError(f"schema {record.schema_version} needs a newer crystalbench")
    for image in record.images:
        if image.scores is not None:
            scores = ImageScores.from_row(image.scores)
            scores.to_json()
            if image.extras is not None:
                ImageExtras.from_row(scores, image.extras).to_json()
    return record


def open_record(path: Path) -> Record:
    """Read the record that a user means with ``path``: its file, or the folder of its experiment.

    Raises
    ------
    ConfigurationError
        Where there is none, or it is torn.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    if not file.is_file():
        below = next(path.rglob(RECORD_FILE), None) if path.is_dir() else None
        hint = f", such as {below.parent}" if below else ""
        raise ConfigurationError(f"{file} does not exist: name the folder of one experiment, or its record{hint}")
    try:
        return parse_record(file)
    except UNREADABLE as error:
        raise ConfigurationError(f"{file} is not a whole record ({reason(error)}): run it again") from error


def reason(error: Exception) -> str:
    """Return one line that says what is wrong with a record."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    return " ".join(f"{type(error).__name__}: {error}".split())
