"""What the networks are taught: flow fields and attention maps, from label maps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as connected_components

COARSE_ABOVE = 600
"""Length in pixels above which a crystal's flow is computed at a reduced scale."""

COARSE_LENGTH = 400
"""The longest a crystal is at that scale."""

LEAST_SHARE = 0.1
"""Share of its crystal's pixels that a separate piece needs to have a centre of its own."""

Window = tuple[slice, slice]


def flow_targets(labels: NDArray[np.int32], *, threads: int = 1) -> NDArray[np.float32]:
    """Return the flow field of a label map, as Cellpose defines it.

    Heat is set free at the pixel nearest to a crystal's mean position and spreads inside the crystal for
    ``2 (height + width)`` steps of a 3 x 3 mean; the flow is the direction of its gradient (Stringer et al.
    2021, Methods; ``cellpose.dynamics.masks_to_flows`` of version 3.1, with which it agrees to 1e-5 on
    4-connected crystals). It departs from the library in three ways. Heat does not pass a diagonal between
    two pixels of other crystals, as no path along the flow could. Each 4-connected piece that has at least a
    tenth of its crystal's pixels has a centre of its own, where the library leaves all pieces but one
    without flow. And a piece longer than 600 px is computed at 1/2, 1/3 ... of its scale, at most 400 px
    long, and enlarged.

    Parameters
    ----------
    labels
        H x W integer label map, 0 is background.
    threads
        Crystals are computed side by side in so many threads; the result does not depend on it.

    Returns
    -------
    2 x H x W float32: (dy, dx), of unit length inside crystals (zero where the heat has no gradient, as in a
    crystal of one pixel, and in pieces under a tenth of their crystal), zero outside.
    """
    pieces = _main_pieces(labels)
    flow = np.zeros((2, *labels.shape), np.float32)
    found = [(number, window) for number, window in enumerate(ndimage.find_objects(pieces), 1) if window]
    windows = sorted(found, key=lambda item: -_length(item[1]))

    def fill(item: tuple[int, Window]) -> None:
        number, window = item
        inside = pieces[window] == number
        flow[:, *window][:, inside] = _piece_flow(inside)[:, inside]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, windows))
    return flow


def _length(window: Window) -> int:
    return max(int(side.stop - side.start) for side in window)


def _main_pieces(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a number for each 4-connected piece that has a fair share of its crystal, 0 elsewhere."""
    pieces = connected_components(labels, background=0, connectivity=1)
    area = np.bincount(pieces.ravel())
    crystals, owner = np.unique(labels, return_inverse=True)
    of_crystal = np.bincount(owner.ravel(), minlength=crystals.size)
    share = area[pieces] / of_crystal[owner.reshape(labels.shape)]
    return np.where(share >= LEAST_SHARE, pieces, 0)


def _piece_flow(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the 2 x h x w unit flow of one connected piece."""
    factor = -(-max(inside.shape) // COARSE_LENGTH) if max(inside.shape) > COARSE_ABOVE else 1
    if factor == 1:
        return _unit(_heat_gradient(inside))
    padded = np.pad(inside, [(0, -side % factor) for side in inside.shape]).astype(np.float32)
    coarse = cv2.resize(padded, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA) >= 0.5
    gradient = _extend(_unit(_heat_gradient(coarse)))
    fine = [cv2.resize(part, padded.shape[::-1], interpolation=cv2.INTER_LINEAR) for part in gradient]
    return _unit(np.stack(fine)[:, : inside.shape[0], : inside.shape[1]])


def _extend(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give every pixel without flow that of the nearest one with flow."""
    still = ~flow.any(axis=0)
    nearest = ndimage.distance_transform_edt(still, return_distances=False, return_indices=True)
    return np.ascontiguousarray(flow[:, *nearest])


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    length = np.hypot(*vectors.astype(np.float64)) + 1e-290
    return np.asarray(vectors / length, np.float32)


def _heat_gradient(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the 2 x h x w gradient of the heat that spread from the centre of one piece."""
    ys, xs = np.nonzero(inside)
    nearest = ((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin()
    ninth = np.pad(inside, 1) / 9.0
    heat = _diffuse(ninth, _pinches(ninth > 0), ys[nearest] + 1, xs[nearest] + 1, 2 * sum(ninth.shape))
    return np.stack([heat[2:, 1:-1] - heat[:-2, 1:-1], heat[1:-1, 2:] - heat[1:-1, :-2]])


def _pinches(inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return K x 4: both ends (y, x, y, x) of each diagonal whose other two pixels lie outside."""
    first, second, third, fourth = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    falling = np.argwhere(first & fourth & ~second & ~third)
    rising = np.argwhere(second & third & ~first & ~fourth)
    ends = [np.hstack([falling, falling + 1]), np.hstack([rising + np.array([0, 1]), rising + np.array([1, 0])])]
    return np.concatenate(ends)


@njit(cache=True, nogil=True)
def _diffuse(ninth, pinches, centre_y, centre_x, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Spread heat inside a mask of ninths; only the square that the front can have reached is visited."""
    height, width = ninth.shape
    now, then = np.zeros((height, width)), np.zeros((height, width))
    columns = np.empty(width)
    for step in range(1, steps + 1):
        now[centre_y, centre_x] += 1.0
        left, right = max(1, centre_x - step), min(width - 1, centre_x + step + 1)
        count = right - left
        for y in range(max(1, centre_y - step), min(height - 1, centre_y + step + 1)):
            # Slices, so that the compiler sees no index that could wrap round, and vectorises.
            above = now[y - 1, left - 1 : right + 1]
            here = now[y, left - 1 : right + 1]
            below = now[y + 1, left - 1 : right + 1]
            for x in range(count + 2):
                columns[x] = above[x] + here[x] + below[x]
            first, second, third = columns[:count], columns[1 : count + 1], columns[2 : count + 2]
            target, share = then[y, left:right], ninth[y, left:right]
            for x in range(count):
                value = (first[x] + second[x] + third[x]) * share[x]
                # Denormal numbers are some hundred times slower.
                target[x] = value if value > 1e-290 else 0.0
        for index in range(len(pinches)):
            one_y, one_x = pinches[index, 0], pinches[index, 1]
            other_y, other_x = pinches[index, 2], pinches[index, 3]
            then[one_y, one_x] = max(0.0, then[one_y, one_x] - now[other_y, other_x] / 9.0)
            then[other_y, other_x] = max(0.0, then[other_y, other_x] - now[one_y, one_x] / 9.0)
        now, then = then, now
    return now


def attention_targets(labels: NDArray[np.int32], thresholds: Sequence[float], side: int) -> NDArray[np.uint8]:
    """Return the attention maps of a label map (Neubauer et al. 2024, section III-B1).

    Parameters
    ----------
    labels
        H x W integer label map, 0 is background.
    thresholds
        t, shares of ``side`` in decreasing order. A crystal, whose length is the longer side of its bounding
        box, belongs to map i where ``t[i] >= length / side > t[i + 1]``, or to the first if it is longer.
    side
        Length in pixels that the shares are of.

    Returns
    -------
    (N + 1) x H x W uint8 of 0 and 1 for N thresholds; the last map is the background.
    """
    values, numbers = np.unique(labels, return_inverse=True)
    windows = ndimage.find_objects(numbers.reshape(labels.shape) + 1)
    lengths = np.array([_length(window) for window in windows])
    maps = (lengths[:, None] <= np.asarray(thresholds[1:]) * side).sum(axis=1)
    maps[values == 0] = len(thresholds)
    chosen = maps[numbers.reshape(labels.shape)]
    return np.asarray(chosen == np.arange(len(thresholds) + 1)[:, None, None], np.uint8)
