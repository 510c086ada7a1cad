"""The errors a user can meet.

* CrystalbenchError
  - ConfigurationError      a method, parameter, preset or file of settings is not what it must be
    · UnknownNameError      a name that does not exist; says which one is nearest
  - DataError               an image, a label map or a data-set folder cannot be used; names the file
    · LabelError            a label map is not one: floats, negative values, wrong shape, several channels
    · SplitError            a split names images that are not there, or leaves a subset empty
  - WorkerError             a job ended without a result
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CrystalbenchError(Exception):
    """Base of every error that crystalbench raises on purpose."""


class ConfigurationError(CrystalbenchError):
    """Settings that cannot be used."""


class UnknownNameError(ConfigurationError):
    """A name that does not exist.

    Parameters
    ----------
    kind
        What was looked for, as a noun: ``"method"``.
    name
        What was given.
    known
        What exists; the nearest of these is suggested.
    note
        What else there is to know, said before the suggestion.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], note: str = "") -> None:
        known = sorted(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known) or 'none'}"
        super().__init__("; ".join(part for part in (f"unknown {kind} {name!r}", note, hint) if part))


class DataError(CrystalbenchError):
    """Data that cannot be used; the message names the file."""


class LabelError(DataError):
    """A label map that is not one."""


class SplitError(DataError):
    """A split that does not fit its data set."""


class WorkerError(CrystalbenchError):
    """A job that ended without a result."""
