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


LOOKS = (Look(32, under=0.2, over=0.63), Look(96, under=0.1, over=0.19))
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
    centres = _diffusion.centres_of(labels, measures, 1)
    lengths = _diffusion.lengths_of(measures)
    bad = np.zeros(len(measures), np.bool_)
    # The largest first, so that no thread is left alone with one.
    undecided = np.argsort(-lengths)[: np.count_nonzero(lengths)]
    for look in (*LOOKS, Look(int(lengths.max()), 0, 0)):
        errors = _errors(labels, flow, measures, centres, undecided, look.longest, threads)
        bad[undecided] = errors > threshold
        beyond = np.sqrt(errors) - np.sqrt(threshold)
        undecided = undecided[(beyond > -look.under) & (beyond <= look.over) & (lengths[undecided] > look.longest)]
    return bad


def _errors(
    labels: NDArray[np.int32],
    flow: NDArray[np.float32],
    measures: NDArray[np.int64],
    centres: NDArray[np.int64],
    chosen: NDArray[np.intp],
    longest: int,
    threads: int,
) -> NDArray[np.float64]:
    """Return the mean squared error of each chosen mask, at most ``longest`` pixels long."""
    errors = np.zeros(len(chosen))

    def fill(first: int) -> None:
        _fill_errors(labels, flow, measures, centres, chosen[first::threads], longest, errors[first::threads])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(threads)))
    return errors


@njit(cache=True, nogil=True)
def _fill_errors(labels, flow, measures, centres, chosen, longest, errors):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for index, label in enumerate(chosen):
        errors[index] = _error(labels, flow, label, measures[label], centres[label], longest)


@njit(cache=True, nogil=True)
def _error(labels, flow, label, one, centre, longest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the error of one mask, from sums of the predicted flow over the cells that it is reduced to."""
    top, bottom, left, right = one[0], one[1], one[2], one[3]
    factor = -(-max(bottom - top, right - left) // longest)
    share, centre_y, centre_x, steps = _diffusion.stencil_of(labels, label, one, centre, factor)
    heat = _diffusion.spread(share, centre_y, centre_x, steps, np.zeros((0, 4), np.int64))
    shape_y, shape_x = np.zeros(share.shape), np.zeros(share.shape)
    for row in range(1, share.shape[0] - 1):
        for column in range(1, share.shape[1] - 1):
            dy = heat[row + 1, column] - heat[row - 1, column]
            dx = heat[row, column + 1] - heat[row, column - 1]
            # Cellpose's bound: weaker gradients have a shorter flow.
            length = np.sqrt(dy * dy + dx * dx) + 1e-60
            shape_y[row, column], shape_x[row, column] = dy / length, dx / length
    total = 0.0
    for y in range(top, bottom):
        row = (y - top) // factor + 1
        for x in range(left, right):
            if labels[y, x] == label:
                column = (x - left) // factor + 1
                total += (shape_y[row, column] - float(flow[0, y, x] / np.float32(5))) ** 2
                total += (shape_x[row, column] - float(flow[1, y, x] / np.float32(5))) ** 2
    return total / one[4]
