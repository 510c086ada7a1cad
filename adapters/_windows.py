"""Overlapping windows over a micrograph, and one label map from theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crystalbench.segmenter import Image, Labels

Window = tuple[slice, slice]
"""Rows and columns of an image."""


def windows(shape: tuple[int, int], side: int, stride: int) -> list[Window]:
    """Return the windows that cover an image, row by row.

    Parameters
    ----------
    shape
        Height and width of the image, in pixels.
    side
        Side of a window, in pixels. Where the image is smaller, the window ends with it; see :func:`cut`.
    stride
        Pixels from one window to the next. The last one lies flush with the border.
    """
    rows, columns = (_spans(length, side, stride) for length in shape)
    return [(row, column) for row in rows for column in columns]


def _spans(length: int, side: int, stride: int) -> list[slice]:
    starts = [*range(0, length - side, stride), max(0, length - side)]
    return [slice(start, min(start + side, length)) for start in starts]


def cut(image: Image, window: Window, side: int) -> Image:
    """Cut a window out of an image (H x W x 3): side x side x 3, black below and right of a smaller image."""
    pixels = image[window]
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)))


def join(labels: Iterable[tuple[Window, Labels]], shape: tuple[int, int], min_size: int = 1) -> Labels:
    """Join the label maps of windows into one.

    Instances of two windows are the same crystal where their intersection over union, within what both windows
    see, is over 1/2. A pixel belongs to the first window that claims it; where other crystals of earlier windows
    cover more than half of an instance, nothing is left of it.

    Parameters
    ----------
    labels
        Each window, in the order of :func:`windows`, with its label map (height and width of the window), numbered
        from 1, gaps allowed.
    shape
        Height and width of the whole, in pixels.
    min_size
        Pixels of the smallest instance of the whole that is kept.

    Returns
    -------
    Labels
        H x W int32, numbered from 1 without gaps.
    """
    found = list(labels)
    joined = np.zeros(shape, np.int32)
    for (window, label), numbers in zip(found, _numbers(found), strict=True):
        region, proposed = joined[window], numbers[label]
        others = (region > 0) & (region != proposed)
        covered = np.bincount(label[others], minlength=len(numbers))
        stays = 2 * covered <= np.bincount(label.ravel(), minlength=len(numbers))
        np.copyto(region, proposed, where=(region == 0) & stays[label])
    return _drop_small(joined, min_size)


def _numbers(found: Sequence[tuple[Window, Labels]]) -> list[NDArray[np.int32]]:
    """Return for each window the number in the whole that each of its labels has."""
    ends = np.cumsum([int(label.max()) + 1 for _, label in found], dtype=np.int64)
    starts = np.append(0, ends[:-1])
    links = [starts[[[i], [j]]] + _same(found[i], found[j]) for i, j in _overlapping([window for window, _ in found])]
    first, second = np.concatenate([np.zeros((2, 0), np.int64), *links], axis=1)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(ends[-1], ends[-1]))
    numbers = connected_components(graph, directed=False)[1].astype(np.int32) + 1
    numbers[starts] = 0
    return np.split(numbers, ends[:-1])


def _overlapping(places: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of windows that share pixels; of an image's many windows these are few."""
    for i, (rows, columns) in enumerate(places):
        for j in range(i + 1, len(places)):
            below, beside = places[j]
            if below.start >= rows.stop:
                break
            if beside.start < columns.stop and columns.start < beside.stop:
                yield i, j


def _same(one: tuple[Window, Labels], other: tuple[Window, Labels]) -> NDArray[np.int64]:
    """Return the pairs of labels (2 x n) of two windows that are the same crystal."""
    both = [_intersection(a, b) for a, b in zip(one[0], other[0], strict=True)]
    first, second = (_seen(both, window, label) for window, label in (one, other))
    width = int(second.max()) + 1
    table = np.bincount((first.astype(np.int64) * width + second).ravel(), minlength=(int(first.max()) + 1) * width)
    table = table.reshape(-1, width)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0) - table
    return np.stack(np.nonzero(2 * table[1:, 1:] > union[1:, 1:])) + 1


def _intersection(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def _seen(spans: Sequence[slice], window: Window, label: Labels) -> Labels:
    """Return the part of a window's label map that lies in ``spans`` of the whole."""
    rows, columns = (slice(s.start - w.start, s.stop - w.start) for s, w in zip(spans, window, strict=True))
    return label[rows, columns]


def _drop_small(labels: Labels, min_size: int) -> Labels:
    """Drop instances of fewer pixels and number the rest from 1 without gaps."""
    large = np.bincount(labels.ravel()) >= max(1, min_size)
    large[0] = False
    return np.where(large, np.cumsum(large), 0).astype(np.int32)[labels]
