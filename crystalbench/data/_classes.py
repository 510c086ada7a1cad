"""Crystal lengths, and the difficulty classes made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

DifficultyClass = Literal[1, 2, 3]
CLASSES: tuple[DifficultyClass, ...] = (1, 2, 3)

_SIZE_RATIO = 10


def compact(labels: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Renumber the crystals of ``labels`` (H x W) to 1, 2, ... in the order of their labels."""
    values = np.unique(labels)
    return np.searchsorted(values[values > 0], labels, side="right").astype(np.int32)


def as_int32(labels: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return ``labels`` (H x W) as int32, renumbered in their order where they do not fit."""
    fits = labels.size == 0 or int(labels.max()) <= np.iinfo(np.int32).max
    return labels.astype(np.int32) if fits else compact(labels)


def crystal_lengths(labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the length of each crystal in pixels, by ascending label.

    A crystal's length is the longer side of its axis-aligned bounding box, over all of its pieces.

    Parameters
    ----------
    labels
        H x W, 0 is background.
    """
    sparse = labels.size > 0 and int(labels.max()) > labels.size
    boxes = ndimage.find_objects(compact(labels) if sparse else labels.astype(np.int32))
    lengths = [max(side.stop - side.start for side in box) for box in boxes if box is not None]
    return np.array(lengths, dtype=np.int64)


def difficulty_class(labels: NDArray[np.integer[Any]], class_px: int) -> DifficultyClass:
    """Return the difficulty class of an image.

    1 where the longest crystal is shorter than ``class_px`` (or there is none), else 2 where the shortest is
    under a tenth of the longest, else 3 (Neubauer et al. 2024, "Dataset split").

    Parameters
    ----------
    labels
        H x W, 0 is background.
    class_px
        The network's input size in pixels.
    """
    return class_of_lengths(crystal_lengths(labels).tolist(), class_px)


def class_of_lengths(lengths: Sequence[int], class_px: int) -> DifficultyClass:
    """Return the difficulty class of an image whose crystals have these ``lengths`` in pixels, in any order."""
    longest = max(lengths, default=0)
    if not longest or longest < class_px:
        return 1
    return 2 if _SIZE_RATIO * min(lengths) < longest else 3
