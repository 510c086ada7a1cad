"""Heat that spreads inside one mask from its centre: what flow fields are made of."""

from __future__ import annotations

import math
from concurrent.futures import Executor

import numpy as np
from numba import njit
from numpy.typing import NDArray

DEPTH = 8
"""Steps of time taken in one sweep over the rows, so that they are read from memory once for all of these."""

BETWEEN = 3 * DEPTH + 1
"""Rows that a sweep needs for itself: three of each step, and one of sums."""

SMALL = 8192
"""Up to so many pixels a mask's box stays in the cache, and each step is taken over all of it at once."""

SMALLEST = 1e-290
"""Less heat counts as none: numbers with a denormal exponent are some hundred times slower."""

FRONT = 1.2
"""Steps at a reduced scale, in height + width: enough that heat reaches every cell."""

LATER = 1.2
"""Times the steps that are as long a time at a reduced scale as at full scale: found to come nearest to full scale."""

LAST = 10
"""Steps at least at the end that all cells take part in at half scale (see :func:`_spread_thinly`)."""

SMALLEST_REDUCED = np.float32(1e-36)
"""The same of single precision, which is enough at a reduced scale."""


@njit(cache=True, nogil=True)
def measure(labels, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return box (top, bottom, left, right), area, sum of y and sum of x of each label 0 ... ``count``.

    Bottom and right are the first row and column behind the label; label 0 is left out, and so all zero.
    """
    height, width = labels.shape
    measures = np.zeros((count + 1, 7), np.int64)
    for y in range(height):
        x = 0
        while x < width:
            label, start = labels[y, x], x
            while x < width and labels[y, x] == label:
                x += 1
            if label == 0:
                continue
            one = measures[label]
            if one[4] == 0:
                one[0], one[2] = y, start
            one[1], one[2], one[3] = y + 1, min(one[2], start), max(one[3], x)
            one[4] += x - start
            one[5] += y * (x - start)
            one[6] += (start + x - 1) * (x - start) // 2
    return measures


def lengths_of(measures: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the longer side of each label's box."""
    return np.maximum(measures[:, 1] - measures[:, 0], measures[:, 3] - measures[:, 2])


@njit(cache=True, nogil=True)
def centres_of(labels, measures, origin):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return (y, x) of the pixel of each label nearest to its mean position, the first in reading order of several.

    Coordinates count from ``origin`` at the corner of the label's box, which decides on the last bit of a distance,
    and so between pixels at the same one. A label without pixels has (0, 0).
    """
    centres = np.zeros((len(measures), 2), np.int64)
    for label in range(1, len(measures)):
        if measures[label, 4]:
            centres[label] = _centre(labels, label, measures[label], origin)
    return centres


@njit(cache=True, nogil=True)
def _centre(labels, label, one, origin):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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
def steps_of(one):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the steps that heat spreads for at full scale, of a label's measures or, transposed, of many labels'."""
    return 2 * (one[1] - one[0] + one[3] - one[2] + 4)


@njit(cache=True, nogil=True)
def stencil_of(labels, label, one, centre, factor):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return what :func:`spread` needs of a label at 1 / ``factor`` of its scale: share, row, column and steps.

    ``share`` has a cell for each factor x factor pixels and a margin of one cell: a ninth of the root of the part
    that lies inside, so a ninth or zero at full scale. (The root was found to come nearest to it at the border.)
    """
    top, bottom, left, right = one[0], one[1], one[2], one[3]
    share = np.zeros((-(-(bottom - top) // factor) + 2, -(-(right - left) // factor) + 2))
    shares = np.sqrt(np.arange(factor * factor + 1)) / factor / 9.0
    column = np.empty(factor * (share.shape[1] - 2), np.int32)
    for row in range(len(share) - 2):
        # Pixels of a column first, without an index that the compiler cannot vectorise.
        column[:] = 0
        for y in range(top + row * factor, min(bottom, top + (row + 1) * factor)):
            for x in range(np.uintp(right - left)):
                column[x] += np.int32(labels[y, np.uintp(left) + x] == label)
        for cell in range(share.shape[1] - 2):
            count = 0
            for x in range(np.uintp(cell * factor), np.uintp((cell + 1) * factor)):
                count += column[x]
            share[row + 1, cell + 1] = shares[count]
    steps = steps_of(one)
    if factor > 1:
        # As long a time as at full scale, or what the front needs.
        steps = max(steps // (factor * factor), int(FRONT * (share.shape[0] + share.shape[1])))
    return share, (centre[0] - top) // factor + 1, (centre[1] - left) // factor + 1, steps


@njit(cache=True, nogil=True)
def pinches_of(share):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return K x 4 (y, x, step along y, along x) of pixels that touch another at a corner alone, row by row.

    Both other pixels of the 2 x 2 lie outside.
    """
    found = [(0, 0, 0, 0) for _ in range(0)]
    height, width = share.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if share[y, x] == 0:
                continue
            for down, along in ((-1, -1), (1, 1), (-1, 1), (1, -1)):
                if share[y + down, x] == 0 and share[y, x + along] == 0 and share[y + down, x + along] > 0:
                    found.append((y, x, down, along))
    pinches = np.zeros((len(found), 4), np.int64)
    for index, (y, x, down, along) in enumerate(found):
        pinches[index, 0], pinches[index, 1], pinches[index, 2], pinches[index, 3] = y, x, down, along
    return pinches


@njit(cache=True, nogil=True)
def spread(share, centre_y, centre_x, steps, pinches):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the heat after ``steps`` steps: one unit set free at the centre, then the sum of 3 x 3 times ``share``.

    No heat passes the ``pinches`` (see :func:`pinches_of`; there may be none).
    """
    if share.size <= SMALL:
        return _spread_small(share, centre_y, centre_x, steps, pinches, SMALLEST)
    height = len(share)
    rows, spans = _rows_for(share, centre_y, centre_x, 1), _spans_of(share)
    for done in range(0, steps, DEPTH):
        _sweep(rows, share, spans, centre_y, centre_x, pinches, done, steps, 1, height - 2, 0)
    return _heat_of(rows, height, steps)


@njit(cache=True, nogil=True)
def _spread_small(share, centre_y, centre_x, steps, pinches, smallest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """In the precision of ``share`` and ``smallest``."""
    return _spread_on(np.zeros_like(share), share, centre_y, centre_x, steps, pinches, smallest)


@njit(cache=True, nogil=True)
def _spread_thinly(share, centre_y, centre_x, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return about what :func:`_spread_small` does in single precision, for a quarter of the work.

    Until the last steps heat goes from a cell to the next but one: only every other of every other row is computed, and
    a step is as long a time as four.
    """
    wide, no_pinches = max(0, steps - LAST) // 4, np.zeros((0, 4), np.int64)
    top, left = centre_y % 2, centre_x % 2
    thinned = share[top::2, left::2]
    framed = np.zeros((thinned.shape[0] + 2, thinned.shape[1] + 2), np.float32)
    framed[1:-1, 1:-1] = thinned
    thin = _spread_small(framed, centre_y // 2 + 1, centre_x // 2 + 1, wide, no_pinches, SMALLEST_REDUCED)
    heat = np.zeros_like(share)
    heat[top::2, left::2] = 4 * thin[1:-1, 1:-1]
    return _spread_on(heat, share, centre_y, centre_x, steps - 4 * wide, no_pinches, SMALLEST_REDUCED)


@njit(cache=True, nogil=True)
def _spread_on(heat, share, centre_y, centre_x, steps, pinches, smallest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return what becomes of ``heat``, which is written over."""
    now, then, columns = heat.ravel(), np.zeros(share.size, share.dtype), np.zeros(share.size, share.dtype)
    width, flat = share.shape[1], share.ravel()
    for _ in range(steps):
        now[centre_y * width + centre_x] += 1.0
        _step(now, flat, columns, then, width, smallest)
        for y, x, down, along in pinches:
            place = y * width + x
            then[place] = max(0.0, then[place] - now[place + down * width + along] / 9.0)
        now, then = then, now
    return now.reshape(share.shape)


@njit(cache=True, nogil=True)
def _step(now, share, columns, then, width, smallest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill in the sum of 3 x 3 times ``share``; images as one row of all rows, whose margins are zero."""
    # A pixel's neighbours beyond a row's end are of the margin. Unsigned, so that the compiler sees no index that could
    # wrap round, and vectorises.
    width, size, one, none = np.uintp(width), np.uintp(now.size), np.uintp(1), smallest - smallest
    for x in range(width, size - width):
        columns[x] = now[x - width] + now[x] + now[x + width]
    for x in range(width, size - width):
        value = (columns[x - one] + columns[x] + columns[x + one]) * share[x]
        then[x] = value if value > smallest else none


def spread_in_bands(
    share: NDArray[np.float64],
    centre_y: int,
    centre_x: int,
    steps: int,
    pinches: NDArray[np.int64],
    pool: Executor,
    bands: int,
) -> NDArray[np.float64]:
    """Return what :func:`spread` does, to the last bit, from so many threads at once."""
    height = len(share)
    rows, spans = _rows_for(share, centre_y, centre_x, bands), _spans_of(share)
    edges = [1 + (height - 2) * band // bands for band in range(bands + 1)]

    def advance(done: int, band: int) -> None:
        top, bottom = edges[band], edges[band + 1] - 1
        _sweep(rows, share, spans, centre_y, centre_x, pinches, done, steps, top, bottom, band)

    for done in range(0, steps, DEPTH):
        list(pool.map(advance, [done] * bands, range(bands)))
    return np.asarray(_heat_of(rows, height, steps))


@njit(cache=True, nogil=True)
def _rows_for(share, centre_y, centre_x, bands):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the rows that sweeps work on: heat, heat, and for each band those that a sweep needs for itself."""
    height, width = share.shape
    rows = np.zeros((2 * height + bands * BETWEEN, width))
    rows[centre_y, centre_x] = 1.0
    return rows


@njit(cache=True, nogil=True)
def _heat_of(rows, height, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the heat after all steps: sweeps take it to and fro."""
    return rows[height : 2 * height] if -(-steps // DEPTH) % 2 else rows[:height]


@njit(cache=True, nogil=True)
def _spans_of(share):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return H x 2: the first column of each row inside the mask, and the one behind the last."""
    height, width = share.shape
    spans = np.zeros((height, 2), np.int64)
    for y in range(height):
        spans[y, 0] = width
        for x in range(width):
            if share[y, x] > 0:
                spans[y, 0], spans[y, 1] = min(spans[y, 0], x), x + 1
    return spans


@njit(cache=True, nogil=True)
def _sweep(rows, share, spans, centre_y, centre_x, pinches, done, steps, top, bottom, band):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take the next ``DEPTH`` steps for rows ``top`` to ``bottom``, each row as soon as the step before allows.

    Of the steps between, three rows each are kept; for each step but the last, they are computed for so many rows
    above and below the band as the later ones need.
    """
    height = len(share)
    depth = min(DEPTH, steps - done)
    now, then = (height, 0) if done // DEPTH % 2 else (0, height)
    between = 2 * height + band * BETWEEN
    columns = between + BETWEEN - 1
    rows[between:columns] = 0.0
    for front in range(max(1, top - depth + 1), min(height - 2, bottom) + depth):
        for step in range(depth):
            y, later = front - step, depth - 1 - step
            if y < max(1, top - later) or y > min(height - 1, bottom + later):
                continue
            before, after = between + 3 * (step - 1), between + 3 * step
            if y == height - 1:
                rows[after + y % 3] = 0.0
                continue
            above, here, below = before + (y - 1) % 3, before + y % 3, before + (y + 1) % 3
            if step == 0:
                above, here, below = now + y - 1, now + y, now + y + 1
            target = then + y if later == 0 else after + y % 3
            # What is left of the row three above is written over.
            old = max(0, y - 3)
            left, right = min(spans[y, 0], spans[old, 0]), max(spans[y, 1], spans[old, 1])
            if right > left:
                _row(rows, above, here, below, target, columns, share, y, left, right)
            if len(pinches):
                _mend(rows, above, below, target, pinches, y)
            if y == centre_y and done + step + 1 < steps:
                rows[target, centre_x] += 1.0


@njit(cache=True, nogil=True)
def _row(rows, above, here, below, target, columns, share, y, left, right):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    # Unsigned, which is as good as slices and costs less on short rows.
    above, here, below, target = np.uintp(above), np.uintp(here), np.uintp(below), np.uintp(target)
    columns, y, one = np.uintp(columns), np.uintp(y), np.uintp(1)
    for x in range(np.uintp(left - 1), np.uintp(right + 1)):
        rows[columns, x] = rows[above, x] + rows[here, x] + rows[below, x]
    for x in range(np.uintp(left), np.uintp(right)):
        value = (rows[columns, x - one] + rows[columns, x] + rows[columns, x + one]) * share[y, x]
        rows[target, x] = value if value > SMALLEST else 0.0


@njit(cache=True, nogil=True)
def _mend(rows, above, below, target, pinches, y):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take back what came through the pinches of row ``y``."""
    index = np.searchsorted(pinches[:, 0], y)
    while index < len(pinches) and pinches[index, 0] == y:
        x, other = pinches[index, 1], above if pinches[index, 2] < 0 else below
        rows[target, x] = max(0.0, rows[target, x] - rows[other, x + pinches[index, 3]] / 9.0)
        index += 1


@njit(cache=True, nogil=True)
def write_flows(flow, labels, chosen, factors, measures, centres):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the flow of the chosen labels, each computed at 1 / its factor of its scale."""
    for label in chosen:
        one = measures[label]
        if factors[label] == 1:
            share, centre_y, centre_x, steps = stencil_of(labels, label, one, centres[label], 1)
            heat = spread(share, centre_y, centre_x, steps, pinches_of(share))
            write_directions(flow, heat, labels, label, one)
        else:
            _write_reduced(flow, labels, label, one, centres[label], factors[label])


@njit(cache=True, nogil=True)
def write_directions(flow, heat, labels, label, one):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the unit vectors along the gradient of a label's heat, h + 2 x w + 2."""
    for y in range(one[0], one[1]):
        row = y - one[0] + 1
        for x in range(one[2], one[3]):
            if labels[y, x] == label:
                column = x - one[2] + 1
                dy, dx = heat[row + 1, column] - heat[row - 1, column], heat[row, column + 1] - heat[row, column - 1]
                length = math.hypot(dy, dx) + SMALLEST
                flow[0, y, x], flow[1, y, x] = dy / length, dx / length


@njit(cache=True, nogil=True)
def _write_reduced(flow, labels, label, one, centre, factor):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the flow of a label, computed at a reduced scale in single precision.

    In double where too little heat comes to some cells, and with more steps until it comes to all, as in a meander.
    """
    share, centre_y, centre_x, enough = stencil_of(labels, label, one, centre, factor)
    single, no_pinches = share.astype(np.float32), np.zeros((0, 4), np.int64)
    steps = int(LATER * steps_of(one) / (factor * factor)) + 1
    if factor == 2:
        # No more: in crystals over 400 px, whose ends next to no heat comes to, the error would rise two- or threefold.
        heat = _spread_thinly(single, centre_y, centre_x, steps)
    else:
        heat = _spread_small(single, centre_y, centre_x, steps, no_pinches, SMALLEST_REDUCED)
    if _is_everywhere(heat, single):
        _write_enlarged(flow, heat, labels, label, one, factor, SMALLEST_REDUCED)
        return
    heat_in_double = spread(share, centre_y, centre_x, enough, no_pinches)
    while enough < share.size and not _is_everywhere(heat_in_double, share):
        enough *= 2
        heat_in_double = spread(share, centre_y, centre_x, enough, no_pinches)
    _write_enlarged(flow, heat_in_double, labels, label, one, factor, SMALLEST)


@njit(cache=True, nogil=True)
def _is_everywhere(heat, share):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    flat, part, cold = heat.ravel(), share.ravel(), 0
    for x in range(np.uintp(flat.size)):
        cold += (part[x] > 0) & (flat[x] == 0)
    return cold == 0


@njit(cache=True, nogil=True, error_model="numpy")
def _write_enlarged(flow, heat, labels, label, one, factor, smallest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the directions of a label's heat: bilinear between cells, then one step, which settles it at the border.

    In the precision of ``heat`` and ``smallest``.
    """
    warm = _enlarged(heat, labels, label, one, factor)
    height, width = warm.shape
    settled, whole = np.zeros_like(warm), warm.dtype.type(1)
    _step(warm.ravel(), np.sign(warm).ravel(), np.zeros(warm.size, warm.dtype), settled.ravel(), width, smallest)
    top, left, after = np.uintp(one[0] - 1), np.uintp(one[2] - 1), np.uintp(1)
    for y in range(after, np.uintp(height - 1)):
        for x in range(after, np.uintp(width - 1)):
            dy, dx = settled[y + after, x] - settled[y - after, x], settled[y, x + after] - settled[y, x - after]
            # Scaled first, as squares of what is small are none.
            scale = whole / (max(abs(dy), abs(dx)) + smallest)
            dy, dx = dy * scale, dx * scale
            scale = whole / (np.sqrt(dy * dy + dx * dx) + smallest)
            if warm[y, x] > 0:
                flow[0, top + y, left + x], flow[1, top + y, left + x] = dy * scale, dx * scale


@njit(cache=True, nogil=True)
def _enlarged(heat, labels, label, one, factor):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return a label's heat between the cells, h + 2 x w + 2: above zero inside, zero outside."""
    height, width = one[1] - one[0] + 2, one[3] - one[2] + 2
    rows, portions = _between_cells(height, factor, heat.dtype)
    cells, parts = _between_cells(width, factor, heat.dtype)
    stretched, warm = np.empty((len(heat), width), heat.dtype), np.zeros((height, width), heat.dtype)
    top, left, after = np.uintp(one[0] - 1), np.uintp(one[2] - 1), np.uintp(1)
    for row in range(len(heat)):
        for x in range(np.uintp(width)):
            cell = cells[x]
            stretched[row, x] = heat[row, cell] + (heat[row, cell + after] - heat[row, cell]) * parts[x]
    for y in range(after, np.uintp(height - 1)):
        row, portion = rows[y], portions[y]
        for x in range(after, np.uintp(width - 1)):
            value = stretched[row, x] + (stretched[row + after, x] - stretched[row, x]) * portion
            warm[y, x] = value if labels[top + y, left + x] == label else 0.0
    return warm


@njit(cache=True, nogil=True)
def _between_cells(size, factor, dtype):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the cell before each pixel, and how far from its middle to the next one's the pixel lies; with margins."""
    cells, parts = np.empty(size, np.uintp), np.empty(size, dtype)
    for pixel in range(size):
        place = max(0.0, (pixel - 0.5) / factor + 0.5)
        cells[pixel] = int(place)
        parts[pixel] = place - cells[pixel]
    return cells, parts
