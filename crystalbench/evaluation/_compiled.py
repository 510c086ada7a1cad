"""The loops over pixels, compiled by numba. The caller of each has a twin of it without numba, with the same result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 2**14
"""Pixels whose comparison stays in the cache."""

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
        The labels of N pixels, unsigned.

    Returns
    -------
    truth, prediction, pixels
        The labels of each pair that was met, and how often.
    stop
        The first pixel that was not counted.
    """
    table = np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int64)
    words, ends = np.zeros(BLOCK // 8, np.uint64), np.empty(BLOCK + 1, np.int64)
    differs = words.view(np.uint8)
    free = SLOTS // 2
    for left in range(start + 1, truth.size + 1, BLOCK):
        right = min(truth.size, left + BLOCK)
        differs[right - left :] = 0
        _compare(truth[left - 1 : right], prediction[left - 1 : right], differs)
        count = _positions(words, left, ends)
        if right == truth.size:
            ends[count] = right
            count += 1
        start, free = _add_runs(truth, prediction, start, ends[:count], table, free)
        if not free:
            break
    met = np.flatnonzero(table[2])
    return table[0][met], table[1][met], table[2][met], start


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _compare(truth: NDArray[Any], prediction: NDArray[Any], differs: NDArray[np.uint8]) -> None:
    """Write 1 for each pixel in which a map differs from the pixel before."""
    # Slices of one length, without a branch: the compiler vectorises.
    truth_before, prediction_before, truth, prediction = truth[:-1], prediction[:-1], truth[1:], prediction[1:]
    for i in range(truth.size):
        differs[i] = np.uint8((truth[i] != truth_before[i]) | (prediction[i] != prediction_before[i]))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _positions(words: NDArray[np.uint64], offset: int, found: NDArray[np.int64]) -> int:
    """Write down where the bytes of ``words`` are 1, and return how many are."""
    count = 0
    for place in range(0, BLOCK // 8, 8):
        bits = np.uint64(0)
        for i in range(8):
            # The product gathers the lowest bits of eight bytes in the highest byte.
            bits |= (words[place + i] * np.uint64(0x0102040810204080)) >> np.uint64(56) << np.uint64(8 * i)
        while bits:
            found[count] = offset + 8 * place + np.int64(_trailing_zeros(bits))
            count += 1
            bits &= bits - np.uint64(1)
    return count


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(typing: Any, bits: Any) -> Any:
    """Return how many bits of a uint64 are 0 below its lowest 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_runs(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    start: int,
    ends: NDArray[np.int64],
    table: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]],
    free: int,
) -> tuple[int, int]:
    """Add the runs from ``start`` to the pixels of their pairs; return where it stopped, and how many may follow."""
    firsts, seconds, pixels = table
    for end in ends:
        first, second = np.uint64(truth[start]), np.uint64(prediction[start])
        mixed = first * np.uint64(0x9E3779B97F4A7C15) + second * np.uint64(0xC2B2AE3D27D4EB4F)
        slot = mixed >> np.uint64(64 - SLOT_BITS)
        while firsts[slot] != first or seconds[slot] != second:
            if not pixels[slot]:
                firsts[slot], seconds[slot] = first, second
                free -= 1
                break
            slot = (slot + np.uint64(1)) % np.uint64(SLOTS)
        pixels[slot] += end - start
        start = end
        if not free:
            break
    return start, free


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
