"""The longest and the shortest diameter of each crystal."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench.evaluation._overlaps import _label_map, _refuse_negative, _renumber

Integers = NDArray[np.int64]


class Rows(NamedTuple):
    """The rows of all crystals, one crystal after the other, from top to bottom."""

    crystal: Integers
    y: Integers
    left: Integers
    right: Integers


class Sides(NamedTuple):
    """Integers from top to bottom, first on the left sides of all hulls, then on the right ones, which are mirrored.

    ``y`` and ``x`` are doubled, so that the middle of an edge is an integer too.
    """

    number: Integers
    y: Integers
    x: Integers


class FeretDiameters(NamedTuple):
    """Feret diameters in pixels, each of shape (n_crystals,), in the order of the labels."""

    longest: NDArray[np.float64]
    shortest: NDArray[np.float64]


def feret_diameters(labels: ArrayLike) -> FeretDiameters:
    """Measure the longest and the shortest Feret diameter of each crystal of a label map.

    A crystal's outline is, as in scikit-image's ``feret_diameter_max``, with which the longest agrees, that of its
    convex image: the pixels whose centres lie in the convex hull of the middles of its pixels' edges. The diameters
    are those of the hull of the middles of that image's edges: the largest distance of two of its points, and the
    smallest of two parallel lines that hold it between them.

    Parameters
    ----------
    labels
        H x W label map of any integer dtype up to 64 bit; 0 is background. Pieces of one label are one crystal.

    Raises
    ------
    LabelError
        Where it is no label map.
    """
    array = _label_map("map", labels)
    _refuse_negative("map", array)
    rows = _rows_of_crystals(array)
    corners = _corners(_sides(_convex(rows, _sides(rows))))
    return FeretDiameters(
        longest=np.array([_longest(hull) for hull in corners], np.float64),
        shortest=np.array([_shortest(hull) for hull in corners], np.float64),
    )


def _rows_of_crystals(labels: NDArray[Any]) -> Rows:
    y, first, last, label = _runs(labels)
    crystal = _renumber(label)[1] - 1
    # Stable: the runs of a crystal stay in the order of its pixels, so those of one row lie side by side.
    order = np.argsort(crystal, kind="stable")
    y, first, last, crystal = y[order], first[order], last[order], crystal[order].astype(np.int64)
    starts = np.flatnonzero((np.diff(y, prepend=-1) != 0) | (np.diff(crystal, prepend=-1) != 0))
    ends = np.append(starts[1:], y.size)[: starts.size] - 1
    return Rows(crystal[starts], y[starts], first[starts], last[ends])


def _runs(labels: NDArray[Any]) -> tuple[Integers, Integers, Integers, NDArray[Any]]:
    """Return y, first and last x, and the label of each run of pixels of one crystal in a row."""
    starts = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=starts[:, 1:])
    y, first = np.nonzero(starts)
    label = labels[y, first]
    last = np.where(np.append(y[1:], -1) == y, np.append(first[1:], 0), labels.shape[1]) - 1
    crystal = label != 0
    return y[crystal], first[crystal], last[crystal], label[crystal]


def _sides(rows: Rows) -> Sides:
    """Return both sides of the hull of the middles of the edges of rows' pixels."""
    count = rows.crystal.max(initial=-1) + 1
    number = np.repeat(np.append(rows.crystal, rows.crystal + count), 3)
    y = np.tile([-1, 0, 1], 2 * rows.y.size) + np.repeat(2 * np.tile(rows.y, 2), 3)
    x = np.tile([0, -1, 0], 2 * rows.y.size) + np.repeat(2 * np.append(rows.left, -rows.right), 3)
    return _outermost(Sides(number, y, x))


def _outermost(sides: Sides) -> Sides:
    """Leave the corners: in rounds, all points that do not lie left of the line between their two neighbours.

    A corner of the hull lies left of every such line, so none is lost, and where nothing is left to take the side
    bends one way.
    """
    while True:
        number, y, x = sides
        inner = (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]) >= (x[2:] - x[:-2]) * (y[1:-1] - y[:-2])
        inner &= (number[1:-1] == number[:-2]) & (number[1:-1] == number[2:])
        if not inner.any():
            return sides
        stays = np.ones(y.size, bool)
        stays[1:-1] = ~inner
        sides = Sides(number[stays], y[stays], x[stays])


def _convex(rows: Rows, sides: Sides) -> Rows:
    """Return the rows of the pixels whose centres lie between both sides."""
    tops = np.flatnonzero(np.diff(rows.crystal, prepend=-1))
    heights = rows.y[np.append(tops[1:], rows.y.size)[: tops.size] - 1] - rows.y[tops] + 1
    crystal = np.repeat(np.arange(tops.size), heights)
    y = np.arange(crystal.size) - np.repeat(np.cumsum(heights) - heights - rows.y[tops], heights)
    left, right = (_first_pixel(sides, number, y) for number in (crystal, crystal + tops.size))
    return Rows(crystal, y, left, -right)


def _first_pixel(sides: Sides, number: Integers, y: Integers) -> Integers:
    """Return x of the first pixel centre on or right of a side, in row ``y`` of side ``number``."""
    span = 2 * y.max(initial=0) + 2
    above = np.searchsorted(sides.number * span + sides.y, number * span + 2 * y, side="right") - 1
    height, width = (np.diff(ends)[above] for ends in (sides.y, sides.x))
    # In integers: a centre may lie exactly on the line.
    return np.asarray(-(-(sides.x[above] * height + width * (2 * y - sides.y[above])) // (2 * height)))


def _corners(sides: Sides) -> list[Integers]:
    """Return the corners of each hull, counterclockwise, y and x doubled."""
    count = (sides.number.max(initial=-1) + 1) // 2
    parts = np.split(np.stack((sides.y, sides.x), axis=1), np.flatnonzero(np.diff(sides.number)) + 1)
    pairs = zip(parts[:count], parts[count : 2 * count], strict=True)
    return [np.concatenate((left, right[::-1] * [1, -1])) for left, right in pairs]


def _longest(hull: Integers) -> float:
    return math.sqrt(((hull[:, None] - hull) ** 2).sum(axis=2).max()) / 2


def _shortest(hull: Integers) -> float:
    edges = np.roll(hull, -1, axis=0) - hull
    lengths = np.hypot(*edges.T)
    # The sides of a hull end in one point where its first or last row is one pixel.
    edges, starts, lengths = edges[lengths > 0], hull[lengths > 0], lengths[lengths > 0]
    (dy, dx), (y, x) = edges.T[..., None], hull.T
    across = dy * (x - starts[:, 1:]) - dx * (y - starts[:, :1])
    return float((across.max(axis=1) / lengths).min()) / 2
