"""Cellpose's quality control of masks: those are bad whose shape would have another flow than was predicted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import _diffusion


class Look(NamedTuple):
    """A computation at a reduced scale.

    Attributes
    ----------
    longest
        Length in pixels that longer masks are reduced to.
    under, over
        By how much the root of a mask's error may come out below and above that of the exact one.
    """

    longest: int
    under: float
    over: float


LOOKS = (Look(32, under=0.2, over=0.6), Look(96, under=0.11, over=0.16))
"""Looks from the coarsest on; what they leave open is computed exactly.

The margins are on roots, which are distances between two flow fields: by the triangle inequality those at two scales
differ by no more than the flows of the shape at both scales do, whatever was predicted. They are 1.25 times the largest
differences seen on 9,512 masks of made and real label maps, some joined with their neighbours or cut in two, with
predicted flows from smooth to wrong (the reduced scale sees an error too large rather than too small).
"""


def bad_flows(
    labels: NDArray[np.int32], flow: NDArray[np.float32], threshold: float, *, threads: int = 1
) -> NDArray[np.bool_]:
    """Say which masks ``cellpose.dynamics.remove_bad_flow_masks`` (version 3.1, on a CPU) would remove.

    Parameters
    ----------
    labels
        H x W masks, 1 ... n; 0 is background.
    flow
        2 x H x W predicted flow (dy, dx): unit vectors times 5.
    threshold
        A mask is bad if the mean squared difference of its unit vectors from those that heat spreading from its
        centre gives (see :func:`._targets.flow_targets`) is larger.
    threads
        Masks are computed side by side in so many threads; the result does not depend on it.

    Returns
    -------
    n + 1 bool, by label; the background is not bad.
    """
    labels = np.ascontiguousarray(labels, np.int32)
    measures = _diffusion.measure(labels, int(labels.max(initial=0)))
    lengths = np.maximum(measures[:, 1] - measures[:, 0], measures[:, 3] - measures[:, 2])
    bad = np.zeros(len(measures), np.bool_)
    # The largest first, so that no thread is left alone with one.
    undecided = np.argsort(-lengths)[: np.count_nonzero(lengths)]
    for look in (*LOOKS, Look(int(lengths.max()), 0, 0)):
        errors = _errors(labels, flow, measures, undecided, look.longest, threads)
        bad[undecided] = errors > threshold
        beyond = np.sqrt(errors) - np.sqrt(threshold)
        undecided = undecided[(beyond > -look.under) & (beyond <= look.over) & (lengths[undecided] > look.longest)]
    return bad


def _errors(
    labels: NDArray[np.int32],
    flow: NDArray[np.float32],
    measures: NDArray[np.int64],
    chosen: NDArray[np.intp],
    longest: int,
    threads: int,
) -> NDArray[np.float64]:
    """Return the mean squared error of each chosen mask, at most ``longest`` pixels long."""
    errors = np.zeros(len(chosen))

    def fill(first: int) -> None:
        _fill_errors(labels, flow, measures, chosen[first::threads], longest, errors[first::threads])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(threads)))
    return errors


@njit(cache=True, nogil=True)
def _fill_errors(labels, flow, measures, chosen, longest, errors):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for index, label in enumerate(chosen):
        errors[index] = _error(labels, flow, label, measures[label], longest)


@njit(cache=True, nogil=True)
def _error(labels, flow, label, one, longest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the error of one mask, from sums of the predicted flow over the cells that it is reduced to."""
    top, bottom, left, right, area = one[0], one[1], one[2], one[3], one[4]
    factor = -(-max(bottom - top, right - left) // longest)
    height, width = -(-(bottom - top) // factor) + 2, -(-(right - left) // factor) + 2
    share, along_y, along_x = np.zeros((height, width)), np.zeros((height, width)), np.zeros((height, width))
    # A cell that the mask covers in part keeps as much less heat: so the border is where it is, not at a cell's side.
    pixel = 1 / (9.0 * factor * factor)
    squares = 0.0
    for y in range(top, bottom):
        row = (y - top) // factor + 1
        for x in range(left, right):
            if labels[y, x] == label:
                column = (x - left) // factor + 1
                dy, dx = float(flow[0, y, x] / np.float32(5)), float(flow[1, y, x] / np.float32(5))
                share[row, column] += pixel
                along_y[row, column] += dy
                along_x[row, column] += dx
                squares += dy * dy + dx * dx
    centre_y, centre_x = _diffusion.nearest_to_mean(labels, label, one, 1)
    steps = 2 * (bottom - top + right - left + 4)
    if factor > 1:
        # The same stretch of time, but enough for heat to reach every cell.
        steps = max(steps // (factor * factor), 6 * (height + width) // 5)
    heat = _diffusion.spread(share, (centre_y - top) // factor + 1, (centre_x - left) // factor + 1, steps)
    agreement = moving = 0.0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if share[y, x] > 0:
                dy, dx = heat[y + 1, x] - heat[y - 1, x], heat[y, x + 1] - heat[y, x - 1]
                # Cellpose's bound: weaker gradients have a shorter flow.
                length = np.sqrt(dy * dy + dx * dx) + 1e-60
                dy, dx = dy / length, dx / length
                agreement += dy * along_y[y, x] + dx * along_x[y, x]
                moving += (dy * dy + dx * dx) * share[y, x] / pixel
    return max(0.0, squares - 2 * agreement + moving) / area
