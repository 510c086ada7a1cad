"""From the probability of boundaries to crystals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.segmentation import expand_labels

from crystalbench.evaluation import centre_lines, skeletonize, widen_lines
from crystalbench.segmenter import Labels

Mask = NDArray[np.bool_]

HALF_PX = 3
"""Pixels from the centre of a boundary of 5 px to the first pixel beside it."""


@dataclass(frozen=True)
class Boundaries:
    """What the network says of an image, and what its training chose.

    Attributes
    ----------
    probability
        H x W float32, that a pixel lies on a boundary.
    foreground
        H x W bool, the grain.
    threshold, regrow_px
        What the null of :class:`~._boundary_parameters.BoundaryDecode` stands for.
    """

    probability: NDArray[np.float32]
    foreground: Mask
    threshold: float
    regrow_px: int


def find_lines(probability: NDArray[np.float32], threshold: float) -> Mask:
    """Return the centre lines of what reaches the threshold, H x W bool, 1 px wide.

    A skeleton ends before its mask does; the frame is moved out so that lines reach the image's own.
    """
    framed = np.pad(probability >= threshold, HALF_PX, mode="edge")
    return skeletonize(framed)[HALF_PX:-HALF_PX, HALF_PX:-HALF_PX]


def enclosed(lines: Mask, foreground: Mask, regrow_px: int, min_size: int) -> Labels:
    """Return what lines of 5 px cut the foreground into, H x W int32.

    Parameters
    ----------
    lines
        Centre lines, H x W bool.
    regrow_px, min_size
        As :class:`~._boundary_parameters.BoundaryDecode` has them.
    """
    pieces = connected_components(foreground & ~widen_lines(lines), connectivity=1)
    large = np.bincount(pieces.ravel()) >= min_size
    large[0] = False
    numbers = np.cumsum(large, dtype=np.int32) * large
    labels: Labels = numbers[pieces]
    if not regrow_px or not labels.any():
        return labels
    return np.where(foreground, expand_labels(labels, regrow_px), 0).astype(np.int32)


def missing_px(label_maps: Iterable[NDArray[np.int32]]) -> int:
    """Return how far crystals must grow over a boundary of 5 px to be as far apart as in label maps.

    That is the mean over the boundaries' centre lines of the distance to the nearest pixel beside 5 px, less that to
    the nearest crystal: (5 - line) / 2 for a line of so many pixels. 0 where no map has a boundary.
    """
    values = np.concatenate([np.zeros(0), *(_missing(labels) for labels in label_maps)])
    return max(0, round(float(values.mean()))) if values.size else 0


def _missing(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    lines = centre_lines(labels)
    drawn, gap = (ndimage.distance_transform_edt(mask)[lines] for mask in (widen_lines(lines), labels == 0))
    return np.asarray(drawn - gap)
