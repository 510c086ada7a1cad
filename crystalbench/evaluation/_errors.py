"""Which crystals of a segmentation are wrong, and how."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench.evaluation._extras import held_in_divided
from crystalbench.evaluation._overlaps import Overlaps, count_overlaps

Mask = NDArray[np.bool_]


class CrystalErrors(NamedTuple):
    """What became of each crystal, by the order of the labels; one of ``merged``, ``split``, ``spurious`` at most.

    Attributes
    ----------
    merged
        Crystals of the prediction that hold several of the truth, shape (n_prediction,).
    split
        Crystals of the prediction that are, with others, parts of one of the truth.
    spurious
        Crystals of the prediction without a match that are neither.
    missed
        Crystals of the truth without a match that are neither merged nor split, shape (n_truth,).
    """

    merged: Mask
    split: Mask
    spurious: Mask
    missed: Mask


def crystal_errors(truth: ArrayLike, prediction: ArrayLike) -> CrystalErrors:
    """Say which crystals are wrong, by the definitions of :func:`evaluate` (match) and :func:`evaluate_extras`.

    Parameters
    ----------
    truth, prediction
        Label maps as for :func:`evaluate`.

    Raises
    ------
    LabelError
        As :func:`evaluate`.
    """
    overlaps = count_overlaps(truth, prediction)
    areas = overlaps.areas_truth[overlaps.truth], overlaps.areas_prediction[overlaps.prediction]
    matched = 2 * overlaps.intersection > overlaps.union
    parts = held_in_divided(overlaps.truth, *areas, overlaps.intersection)
    merges = held_in_divided(overlaps.prediction, *areas[::-1], overlaps.intersection)
    merged = _of_prediction(overlaps, merges)
    split = _of_prediction(overlaps, parts) & ~merged
    explained = _of_truth(overlaps, matched | parts | merges)
    return CrystalErrors(merged, split, ~(_of_prediction(overlaps, matched) | merged | split), ~explained)


def _of_truth(overlaps: Overlaps, pairs: Mask) -> Mask:
    return _members(overlaps.truth[pairs], overlaps.areas_truth.size)


def _of_prediction(overlaps: Overlaps, pairs: Mask) -> Mask:
    return _members(overlaps.prediction[pairs], overlaps.areas_prediction.size)


def _members(numbers: NDArray[np.integer[Any]], size: int) -> Mask:
    found = np.zeros(size, bool)
    found[numbers] = True
    return found
