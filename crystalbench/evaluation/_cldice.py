"""How well the boundaries between crystals are found."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.morphology import octagon, skeletonize
from skimage.segmentation import expand_labels

from crystalbench._exceptions import LabelError
from crystalbench.evaluation._overlaps import _label_map, _renumber, _size

Mask = NDArray[np.bool_]

WIDEST_GAP_PX = 8
"""Crystals that lie further apart have no boundary in common."""

_PEN = octagon(3, 1)
"""What draws a boundary: 5 px across. A diamond would draw slanted ones thinner, a square wider."""


def cldice(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Score the boundaries of a segmentation by the centre-line Dice coefficient, clDice (Shit et al. 2021).

    The harmonic mean of two shares: that of the prediction's centre lines which lies inside the truth's
    boundaries, and the other way round.

    Parameters
    ----------
    truth, prediction
        Label maps of one shape H x W, of any integer dtype up to 64 bit; 0 is background.

    Returns
    -------
    float
        Between 0 and 1; NaN where neither has a boundary, 0 where one alone has none.

    Raises
    ------
    LabelError
        Where one is not a label map, or their shapes differ.
    """
    return line_cldice(centre_lines(truth), centre_lines(prediction))


def line_cldice(truth: Mask, prediction: Mask) -> float:
    """Score centre lines (H x W bool, 1 px wide) as :func:`cldice` does those of label maps.

    Raises
    ------
    LabelError
        Where their shapes differ.
    """
    if truth.shape != prediction.shape:
        raise LabelError(f"the truth is {_size(truth)} pixels and the prediction {_size(prediction)}; not one shape")
    lengths = int(truth.sum()), int(prediction.sum())
    if not any(lengths):
        return math.nan
    if not all(lengths):
        return 0.0
    sensitivity = int((truth & widen_lines(prediction)).sum()) / lengths[0]
    precision = int((prediction & widen_lines(truth)).sum()) / lengths[1]
    both = sensitivity + precision
    return 2 * sensitivity * precision / both if both else 0.0


def centre_lines(labels: ArrayLike) -> Mask:
    """Return the centre lines of the boundaries between crystals, H x W bool, 1 px wide.

    Crystals are grown over gaps of at most 8 px; a boundary is where the 3 x 3 neighbourhood of one of their
    pixels then holds two of them. The outline of a grain is none.

    Parameters
    ----------
    labels
        H x W label map of any integer dtype up to 64 bit; 0 is background.

    Raises
    ------
    LabelError
        Where it is no label map.
    """
    array = _label_map("map", labels)
    numbers = _renumber(array.ravel())[1].reshape(array.shape).astype(np.int32)
    if not array.any():
        return np.zeros(array.shape, bool)
    grown = expand_labels(numbers, WIDEST_GAP_PX / 2)
    lowest = ndimage.minimum_filter(np.where(grown > 0, grown, np.iinfo(np.int32).max), 3)
    meeting = (ndimage.maximum_filter(grown, 3) > lowest) & (grown > 0)
    return np.asarray(skeletonize(meeting), bool)


def widen_lines(lines: Mask) -> Mask:
    """Draw centre lines (H x W bool) 5 px wide."""
    return np.asarray(ndimage.binary_dilation(lines, _PEN), bool)
