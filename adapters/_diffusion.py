"""Heat that spreads inside one mask from its centre: what flow fields are made of."""

from __future__ import annotations

import numpy as np
from numba import njit

DEPTH = 8
"""Steps of time taken in one sweep over the rows, so that they are read from memory once for all of these."""

SMALLEST = 1e-290
"""Less heat counts as none: numbers with a denormal exponent are some hundred times slower."""


@njit(cache=True, nogil=True)
def measure(labels, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return box (top, bottom, left, right), area, sum of y and sum of x of each label 0 ... ``count``.

    Bottom and right are the first row and column behind the label; label 0 is left out, and so all zero.
    """
    height, width = labels.shape
    found = np.zeros((count + 1, 7), np.int64)
    for y in range(height):
        x = 0
        while x < width:
            label, start = labels[y, x], x
            while x < width and labels[y, x] == label:
                x += 1
            if label == 0:
                continue
            one = found[label]
            if one[4] == 0:
                one[0], one[2] = y, start
            one[1], one[2], one[3] = y + 1, min(one[2], start), max(one[3], x)
            one[4] += x - start
            one[5] += y * (x - start)
            one[6] += (start + x - 1) * (x - start) // 2
    return found


@njit(cache=True, nogil=True)
def nearest_to_mean(labels, label, one, origin):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return (y, x) of the pixel of ``label`` nearest to its mean position, the first in reading order of several.

    ``one`` is its row of :func:`measure`. Coordinates count from ``origin`` at the corner of the box, which decides on
    the last bit of a distance, and so between pixels at the same one.
    """
    top, left = one[0] - origin, one[2] - origin
    mean_y, mean_x = (one[5] - one[4] * top) / one[4], (one[6] - one[4] * left) / one[4]
    best, best_y, best_x = np.inf, one[0], one[2]
    row = top + int(mean_y)
    for distance in range(one[1] - one[0] + 1):
        for y in (row - distance, row + distance + 1):
            away = (y - top - mean_y) ** 2
            if y < one[0] or y >= one[1] or away > best:
                continue
            for x in range(one[2], one[3]):
                if labels[y, x] != label:
                    continue
                square = (x - left - mean_x) ** 2 + away
                if square < best or (square == best and (y < best_y or (y == best_y and x < best_x))):
                    best, best_y, best_x = square, y, x
    return best_y, best_x


@njit(cache=True, nogil=True)
def spread(share, centre_y, centre_x, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the heat after ``steps`` steps: one unit set free at the centre, then the sum of 3 x 3 times ``share``.

    ``share`` is H x W float64, zero on its outermost pixels: a ninth inside the mask.
    """
    height, width = share.shape
    spans = spans_of(share)
    now, then = np.zeros((height, width)), np.zeros((height, width))
    now[centre_y, centre_x] = 1.0
    for done in range(0, steps, DEPTH):
        sweep(now, then, share, spans, centre_y, centre_x, done, min(DEPTH, steps - done), steps)
        now, then = then, now
    return now


@njit(cache=True, nogil=True)
def spans_of(share):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return H x 2: the first column of each row inside the mask, and the one behind the last."""
    height, width = share.shape
    spans = np.zeros((height, 2), np.int64)
    for y in range(height):
        inside = np.nonzero(share[y])[0]
        spans[y, 0] = inside[0] if inside.size else width
        spans[y, 1] = inside[-1] + 1 if inside.size else 0
    return spans


@njit(cache=True, nogil=True)
def sweep(now, then, share, spans, centre_y, centre_x, done, depth, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take ``depth`` steps from ``now`` to ``then``, row by row: each row of a step as soon as the one before allows.

    Of the steps between, three rows each are kept. Only the square that the front can have reached is visited.
    """
    height, width = share.shape
    between, columns = np.zeros((depth, 3, width)), np.empty(width)
    reach = done + depth
    first, last = max(1, centre_y - reach), min(height - 2, centre_y + reach)
    near, far = max(1, centre_x - reach), min(width - 1, centre_x + reach + 1)
    for front in range(first, last + depth):
        for step in range(depth):
            y = front - step
            if y < first or y > last + 1:
                continue
            if y == last + 1:
                between[step, y % 3] = 0.0
                continue
            # What is left of the row three above is written over.
            above = spans[max(0, y - 3)]
            left, right = max(near, min(spans[y, 0], above[0])), min(far, max(spans[y, 1], above[1]))
            if right <= left:
                continue
            if step == 0:
                rows = (now[y - 1], now[y], now[y + 1])
            else:
                rows = (between[step - 1, (y - 1) % 3], between[step - 1, y % 3], between[step - 1, (y + 1) % 3])
            target = then[y] if step == depth - 1 else between[step, y % 3]
            _row(rows[0], rows[1], rows[2], share[y], target, columns, left, right)
            if y == centre_y and done + step + 1 < steps:
                target[centre_x] += 1.0


@njit(cache=True, nogil=True)
def _row(above, here, below, share, target, columns, left, right):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    # Slices, so that the compiler sees no index that could wrap round, and vectorises.
    above, here, below = above[left - 1 : right + 1], here[left - 1 : right + 1], below[left - 1 : right + 1]
    target, share = target[left:right], share[left:right]
    count = target.size
    for x in range(count + 2):
        columns[x] = above[x] + here[x] + below[x]
    first, second, third = columns[:count], columns[1 : count + 1], columns[2 : count + 2]
    for x in range(count):
        value = (first[x] + second[x] + third[x]) * share[x]
        target[x] = value if value > SMALLEST else 0.0
