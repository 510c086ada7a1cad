"""The loops over pixels, compiled by numba. The caller of each has a twin of it without numba, with the same result."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 64
"""Labels that are compared at once: one bit of a word each."""

SLOT_BITS = 13
SLOTS = 2**SLOT_BITS
"""Of the hash table of pairs. It is handed over when half of them are taken."""

# Which pixels thinning removes, by their neighbours: the bits are N, NE, E, SE, S, SW, W, NW, the digits in which of
# its two alternating passes (3: both). Zhang & Suen's rule as scikit-image has it, which also takes the corners of
# stairs; found from the skeletons of random images, and held against them by a test.
REMOVED = np.array(
    [
        int(passes)
        for passes in "0001031100002233000030000000203200000000000000002000202030003032"
        "0301000000000000300000002000000021010000000000002000000030002020"
        "0103010300000003000000000000000200000000000000000000000000000000"
        "0103000100000001100000000000000033030001000000003101000031002000"
    ],
    np.uint8,
)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_pairs(
    truth: NDArray[Any], prediction: NDArray[Any], start: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], int]:
    """Count pairs of labels from pixel ``start`` to the end, or until many different ones have been met.

    Parameters
    ----------
    truth, prediction
        The labels of N pixels, unsigned, C-contiguous.

    Returns
    -------
    truth, prediction, pixels
        The labels of each pair that was met, and how often.
    stop
        The first pixel that was not counted.
    """
    table = np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int64)
    free = SLOTS // 2
    for left in range(start + 1, truth.size, LANES):
        if truth.size - left >= LANES:
            ends = _changes(truth, left) | _changes(prediction, left)
        else:
            ends = _last_changes(truth, left) | _last_changes(prediction, left)
        while ends:
            end = left + np.int64(_trailing_zeros(ends))
            free -= _add(table, truth[start], prediction[start], end - start)
            start = int(end)
            ends &= ends - np.uint64(1)
        if free <= 0:
            break
    else:
        if start < truth.size:
            _add(table, truth[start], prediction[start], truth.size - start)
        start = truth.size
    met = np.flatnonzero(table[2])
    return table[0][met], table[1][met], table[2][met], start


@intrinsic  # type: ignore[untyped-decorator]
def _changes(typing: Any, labels: Any, place: Any) -> Any:
    """Return, one bit each, which of the 64 labels from ``place`` on differ from the label before them.

    numba has no vectors of its own, and a loop that gathers the bits is not made one by the compiler.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, first = context.make_array(signature.args[0])(context, builder, arguments[0]), arguments[1]
        bits = signature.args[0].dtype.bitwidth
        vector = ir.VectorType(ir.IntType(bits), LANES)

        def load(index: Any) -> Any:
            lanes = builder.load(builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer()))
            lanes.align = bits // 8
            return lanes

        differs = builder.icmp_unsigned("!=", load(first), load(builder.sub(first, first.type(1))))
        return builder.bitcast(differs, ir.IntType(LANES))

    return types.uint64(labels, place), generate


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _last_changes(labels: NDArray[Any], place: int) -> np.uint64:
    """Return the same where fewer than 64 labels are left."""
    bits = np.uint64(0)
    for i in range(place, labels.size):
        bits |= np.uint64(labels[i] != labels[i - 1]) << np.uint64(i - place)
    return bits


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(typing: Any, bits: Any) -> Any:
    """Return how many bits of a uint64 are 0 below its lowest 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(
    table: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]], truth: Any, prediction: Any, pixels: int
) -> bool:
    """Add to the pixels of a pair, and return whether it is a new one."""
    truths, predictions, counts = table
    first, second = np.uint64(truth), np.uint64(prediction)
    mixed = first * np.uint64(0x9E3779B97F4A7C15) + second * np.uint64(0xC2B2AE3D27D4EB4F)
    slot = mixed >> np.uint64(64 - SLOT_BITS)
    while counts[slot] and (truths[slot] != first or predictions[slot] != second):
        slot = (slot + np.uint64(1)) % np.uint64(SLOTS)
    is_new = not counts[slot]
    truths[slot], predictions[slot] = first, second
    counts[slot] += pixels
    return is_new


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def boundaries(labels: NDArray[np.int32], reach: int) -> NDArray[np.bool_]:
    """Return which pixels of crystals have another among their eight neighbours, once they have grown ``reach`` px."""
    found: NDArray[np.bool_] = _meeting(_grow(labels, reach))
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _grow(labels: NDArray[np.int32], reach: int) -> NDArray[np.int32]:
    """Give background within ``reach`` px of a crystal the label of the nearest.

    Of equally near pixels the leftmost counts, and of those the topmost, as in SciPy's distance transform.
    """
    height, width = labels.shape
    rows = _nearest_rows(labels, reach)
    grown = labels.copy()
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                continue
            nearest = np.int64(reach * reach + 1)
            for column in range(max(0, x - reach), min(width, x + reach + 1)):
                row = np.int64(rows[y, column])
                distance = row * row + (column - x) * (column - x)
                if distance < nearest:
                    nearest = distance
                    grown[y, x] = labels[y + row, column]
    return grown


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _nearest_rows(labels: NDArray[np.int32], reach: int) -> NDArray[np.int8]:
    """Return how many rows below each pixel the nearest crystal of its column is; of two the upper; or reach + 1."""
    height, width = labels.shape
    rows = np.empty((height, width), np.int8)
    distance = np.full(width, reach + 1, np.int8)
    for y in range(height):
        for x in range(width):
            distance[x] = 0 if labels[y, x] else min(distance[x] + 1, reach + 1)
            rows[y, x] = -distance[x]
    distance[:] = reach + 1
    for y in range(height - 1, -1, -1):
        for x in range(width):
            distance[x] = 0 if labels[y, x] else min(distance[x] + 1, reach + 1)
            rows[y, x] = distance[x] if distance[x] < -rows[y, x] else rows[y, x]
    return rows


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _meeting(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    height, width = labels.shape
    framed = np.zeros((height + 2, width + 2), np.int32)
    framed[1:-1, 1:-1] = labels
    found = np.zeros((height, width), np.bool_)
    for y in range(height):
        for dy in range(3):
            for dx in range(3):
                _others(framed[y + 1, 1:-1], framed[y + dy, dx : dx + width], found[y])
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _others(labels: NDArray[np.int32], neighbours: NDArray[np.int32], found: NDArray[np.bool_]) -> None:
    """Mark where both are crystals and not the same."""
    for i in range(labels.size):
        found[i] |= (labels[i] != neighbours[i]) & (labels[i] != 0) & (neighbours[i] != 0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def thin(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a mask as Zhang & Suen (1984) do, and look only at pixels round which something changed.

    In each pass a pixel is judged by its neighbours before the pass. One whose neighbours are as they were when a
    pass last judged it stays; the others wait, for each of the two passes in a queue of its own.
    """
    height, width = mask.shape
    framed = np.zeros((height + 2, width + 2), np.bool_)
    framed[1:-1, 1:-1] = mask
    left = framed.ravel()
    places = np.flatnonzero(left)
    queues, lengths = np.stack((places, places)), np.array([places.size, places.size])
    waits = left.astype(np.uint8) * np.uint8(3)
    around = np.array([-width - 2, -width - 1, 1, width + 3, width + 2, width + 1, -1, -width - 3])
    removed = np.empty(places.size, np.int64)
    while lengths.any():
        for turn in range(2):
            count = 0
            for place in queues[turn, : lengths[turn]]:
                waits[place] &= ~np.uint8(1 << turn)
                if left[place] and REMOVED[_neighbours(left, place, around)] >> turn & 1:
                    removed[count] = place
                    count += 1
            lengths[turn] = 0
            for place in removed[:count]:
                left[place] = False
            for place in removed[:count]:
                _call(place + around, left, waits, queues, lengths)
    return left.reshape(framed.shape)[1:-1, 1:-1].copy()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _neighbours(mask: NDArray[np.bool_], place: int, around: NDArray[np.int64]) -> np.int64:
    bits = np.int64(0)
    for bit in range(8):
        bits |= np.int64(mask[place + around[bit]]) << bit
    return bits


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _call(
    places: NDArray[np.int64],
    left: NDArray[np.bool_],
    waits: NDArray[np.uint8],
    queues: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Put the pixels that are left at ``places`` into the queues in which they do not wait yet."""
    for place in places:
        for turn in range(2):
            if left[place] and not waits[place] >> turn & 1:
                waits[place] |= np.uint8(1 << turn)
                queues[turn, lengths[turn]] = place
                lengths[turn] += 1
