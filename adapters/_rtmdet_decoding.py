"""From what RTMDet-Ins finds in windows to one label map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mmcv.ops
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import _windows
from ._windows import Window

if TYPE_CHECKING:
    from crystalbench.segmenter import Labels

    from .rtmdet import RtmdetDecode

STRIDE = 8
"""Pixels of the network's input for one value of its masks, along each axis."""

CHUNK = 32
"""How many masks are computed at a time."""

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """What was found in one window, before non-maximum suppression.

    Parameters
    ----------
    window
        The part of the image.
    scale
        Pixels of the network's input for one of the image (y, x).
    boxes
        n x 4: left, top, right, bottom in the network's input, in pixels.
    scores
        n, between 0 and 1.
    masks
        From indices (m) to mask logits (m x h x w) at stride ``STRIDE`` of the input.
    """

    window: Window
    scale: tuple[float, float]
    boxes: Tensor
    scores: Tensor
    masks: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Raw:
    """What was found in all windows of an image of ``shape`` (height, width)."""

    shape: tuple[int, int]
    windows: tuple[Detections, ...]


def decode(raw: Raw, parameters: RtmdetDecode) -> Labels:
    """Turn detections into H x W int32 labels, numbered from 1 without gaps.

    In each window: the score threshold, non-maximum suppression of boxes, masks where the probability is over the
    mask threshold; where masks overlap the higher score wins. Masks are computed a few at a time, and enlarged
    one at a time within their extent, so that memory does not grow with the number of crystals.
    """
    labels = ((found.window, _label(found, parameters)) for found in raw.windows)
    return _windows.join(labels, raw.shape, parameters.min_size)


def _label(found: Detections, parameters: RtmdetDecode) -> Labels:
    """Return the label map of one window, numbered by falling score."""
    rows, columns = (span.stop - span.start for span in found.window)
    labels = np.zeros((rows, columns), np.int32)
    threshold = np.log(parameters.mask_threshold / (1 - parameters.mask_threshold))
    kept = _suppress(found, parameters.score_threshold, parameters.nms_iou_threshold)
    for number, logits in enumerate(_masks(found, kept), start=1):
        extent, mask = enlarge(logits, (rows, columns), found.scale, threshold)
        np.copyto(labels[extent], number, where=mask & (labels[extent] == 0))
    return labels


def _suppress(found: Detections, score: float, iou: float) -> Tensor:
    """Return the indices of the detections that non-maximum suppression leaves, by falling score."""
    candidates = torch.nonzero(found.scores > score)[:, 0]
    if not len(candidates):
        return candidates
    _, kept = mmcv.ops.nms(found.boxes[candidates], found.scores[candidates], iou)
    return candidates[kept]


def _masks(found: Detections, chosen: Tensor) -> Iterator[Plane]:
    with torch.inference_mode():
        for some in torch.split(chosen, CHUNK):
            yield from found.masks(some).float().cpu().numpy()


def enlarge(
    logits: Plane, shape: tuple[int, int], scale: tuple[float, float], threshold: float
) -> tuple[Window, NDArray[np.bool_]]:
    """Enlarge one mask bilinearly to the window's resolution, where it may be over the threshold.

    Parameters
    ----------
    logits
        h x w at stride ``STRIDE`` of the network's input.
    shape
        Height and width of the window, in pixels of the image.
    scale
        Pixels of the network's input for one of the image (y, x).

    Returns
    -------
    The extent within the window, and the mask there (bool).
    """
    over = logits > threshold
    spans = [_span(over.any(axis=1)), _span(over.any(axis=0))]
    axes = [_interpolation(*axis) for axis in zip(spans, logits.shape, shape, scale, strict=True)]
    (rows, down), (columns, across) = axes
    return (rows, columns), down @ logits[spans[0], spans[1]] @ across.T > threshold


def _span(over: NDArray[np.bool_]) -> slice:
    """Return the positions from before the first to after the last that is over the threshold."""
    (found,) = np.nonzero(over)
    return slice(max(0, found[0] - 1), found[-1] + 2) if len(found) else slice(0, 0)


def _interpolation(span: slice, cells: int, length: int, scale: float) -> tuple[slice, Plane]:
    """Return which of ``length`` pixels lie between the centres of the cells in ``span``, and their weights.

    Outside of these at most, a mask of which ``span`` holds all cells over the threshold stays under it. Weights
    are pixels x cells; beyond the centres of the first and the last cell of all their values are continued.
    """
    centres = np.clip((np.arange(length) + 0.5) * scale / STRIDE - 0.5, 0, cells - 1)
    last = min(span.stop, cells) - 1
    first = np.searchsorted(centres, span.start)
    inside = centres[first : np.searchsorted(centres, last, side="right")]
    distance = np.abs(inside[:, None] - np.arange(span.start, last + 1))
    return slice(int(first), int(first) + len(inside)), np.maximum(0, 1 - distance).astype(np.float32)
