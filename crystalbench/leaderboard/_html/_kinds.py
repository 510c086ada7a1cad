"""What each crystal of a picture is: right, or wrong in which way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalbench.evaluation._errors import crystal_errors
from crystalbench.evaluation._overlaps import _renumber

Labels = NDArray[np.integer[Any]]
Kinds = NDArray[np.uint8]


class ErrorKind(IntEnum):
    """What a crystal is; 0 is the background. ``SPLIT`` is a piece of a crystal that is split."""

    MATCHED = 1
    MISSED = 2
    SPURIOUS = 3
    SPLIT = 4
    MERGED = 5


@dataclass(frozen=True)
class ErrorKinds:
    """The kinds of the crystals of an image, by :func:`~crystalbench.evaluation._errors.crystal_errors`.

    Attributes
    ----------
    prediction, missed
        The kind of the crystal of the prediction, and of the one of the truth that is missed, which each pixel is of,
        shape (H, W).
    counts
        Crystals by kind, in lower case.
    """

    prediction: Kinds
    missed: Kinds
    counts: dict[str, int]


def error_kinds(truth: Labels, prediction: Labels) -> ErrorKinds:
    """Return the kinds of the crystals of two label maps of one shape (H, W)."""
    errors = crystal_errors(truth, prediction)
    found = np.full(errors.spurious.size, ErrorKind.MATCHED, np.uint8)
    masks = {ErrorKind.SPURIOUS: errors.spurious, ErrorKind.SPLIT: errors.split, ErrorKind.MERGED: errors.merged}
    for kind, mask in masks.items():
        found[mask] = kind
    missed = np.where(errors.missed, np.uint8(ErrorKind.MISSED), np.uint8(0))
    crystals = np.append(found, missed)
    counts = {kind.name.lower(): int((crystals == kind).sum()) for kind in ErrorKind}
    return ErrorKinds(_painted(prediction, found), _painted(truth, missed), counts)


def _painted(labels: Labels, kinds: Kinds) -> Kinds:
    painted: Kinds = np.append(np.uint8(0), kinds)[_renumber(labels.ravel())[1]]
    return painted.reshape(labels.shape)
