"""How well the boundaries between crystals are found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench._exceptions import LabelError
from crystalbench.evaluation._backend import frozen, kernels
from crystalbench.evaluation._overlaps import _label_map, _refuse_negative, _renumber, _size

Mask = NDArray[np.bool_]

WIDEST_GAP_PX = 8
"""Crystals that lie further apart have no boundary in common."""


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
    lengths = np.count_nonzero(truth), np.count_nonzero(prediction)
    if not any(lengths):
        return math.nan
    if not all(lengths):
        return 0.0
    sensitivity = np.count_nonzero(truth & widen_lines(prediction)) / lengths[0]
    precision = np.count_nonzero(prediction & widen_lines(truth)) / lengths[1]
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
    _refuse_negative("map", array)
    if not array.any():
        return np.zeros(array.shape, bool)
    return skeletonize(_boundaries(_as_int32(array)))


def widen_lines(lines: Mask) -> Mask:
    """Draw centre lines (H x W bool) 5 px wide.

    The pen is a square of 5 px without its corners: a diamond would draw slanted lines thinner, a square wider.
    """
    framed = np.pad(lines, 2)
    three = framed[:, 1:-3] | framed[:, 2:-2] | framed[:, 3:-1]
    five = three | framed[:, :-4] | framed[:, 4:]
    return np.asarray(three[:-4] | five[1:-3] | five[2:-2] | five[3:-1] | three[4:])


def skeletonize(mask: Mask) -> Mask:
    """Thin a mask (H x W bool) to lines of 1 px, as scikit-image does (Zhang & Suen 1984), pixel for pixel."""
    compiled = kernels()
    if compiled:
        return np.asarray(compiled.thin(frozen(np.ascontiguousarray(mask))))
    from skimage.morphology import skeletonize as scikit_skeletonize

    return np.asarray(scikit_skeletonize(mask), bool)


def _as_int32(labels: NDArray[Any]) -> NDArray[np.int32]:
    if labels.max() > np.iinfo(np.int32).max:
        labels = _renumber(labels.ravel())[1].reshape(labels.shape)
    return np.ascontiguousarray(labels, np.int32)


def _boundaries(labels: NDArray[np.int32]) -> Mask:
    """Return where crystals meet, once they have grown over gaps."""
    compiled = kernels()
    if compiled:
        return np.asarray(compiled.boundaries(frozen(labels), WIDEST_GAP_PX // 2))
    from scipy import ndimage
    from skimage.segmentation import expand_labels

    grown = expand_labels(labels, WIDEST_GAP_PX // 2)
    lowest = ndimage.minimum_filter(np.where(grown > 0, grown, np.iinfo(np.int32).max), 3)
    return np.asarray((ndimage.maximum_filter(grown, 3) > lowest) & (grown > 0))
