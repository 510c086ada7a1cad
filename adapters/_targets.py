"""What the networks are taught: flow fields and attention maps, from label maps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import _diffusion

EXACT_LENGTH = 1000
"""Length in pixels above which a crystal's flow is computed at a reduced scale."""

COARSE_LENGTH = 200
"""The longest a crystal is at that scale."""

SPLIT_LENGTH = 300
"""Length in pixels above which all threads work on one crystal."""

LEAST_SHARE = 0.1
"""Share of its crystal's pixels that a separate piece needs to have a centre of its own."""


def flow_targets(
    labels: NDArray[np.int32], *, threads: int = 1, exact_length: int = EXACT_LENGTH
) -> NDArray[np.float32]:
    """Return the flow field of a label map, as Cellpose defines it.

    Heat is set free at the pixel nearest to a crystal's mean position and spreads inside the crystal for
    ``2 (height + width)`` steps of a 3 x 3 mean; the flow is the direction of its gradient (Stringer et al.
    2021, Methods; ``cellpose.dynamics.masks_to_flows`` of version 3.1, with which it agrees to 1e-5 on
    4-connected crystals). It departs from the library in three ways. Heat does not pass a diagonal between
    two pixels of other crystals, as no path along the flow could. Each 4-connected piece that has at least a
    tenth of its crystal's pixels has a centre of its own, where the library leaves all pieces but one
    without flow. And a piece longer than ``exact_length`` is computed at 1/2, 1/3 ... of its scale, at most
    200 px long, and enlarged.

    Parameters
    ----------
    labels
        H x W integer label map, 0 is background.
    threads
        Crystals are computed side by side in so many threads, and those over 300 px by all together; the
        result does not depend on it.
    exact_length
        In pixels. With 0 all crystals are computed at a reduced scale: the mean error is then
        0.6 degrees on a crystal of 800 px, 1.4 on crystals of 50 px, and 2.1 on images of smaller ones.

    Returns
    -------
    2 x H x W float32: (dy, dx), of unit length inside crystals (zero where the heat has no gradient, as in a
    crystal of one pixel, and in pieces under a tenth of their crystal), zero outside.
    """
    found = pieces_of(labels, exact_length)
    split = found.exact & (_diffusion.lengths_of(found.measures)[found.chosen] > SPLIT_LENGTH)
    flow = np.zeros((2, *labels.shape), np.float32)

    def write(first: int) -> None:
        found.write_flows(flow, found.chosen[~split][first::threads])

    with ThreadPoolExecutor(threads) as pool:
        for piece in found.chosen[split]:
            one = found.measures[piece]
            share, y, x, steps = _diffusion.stencil_of(found.numbers, piece, one, found.centres[piece], 1)
            pinches = _diffusion.pinches_of(share)
            heat = _diffusion.spread_in_bands(share, y, x, steps, pinches, pool, threads)
            _diffusion.write_directions(flow, heat, found.numbers, piece, one)
        list(pool.map(write, range(threads)))
    return flow


class Pieces(NamedTuple):
    """The 4-connected pieces of a label map's crystals.

    Attributes
    ----------
    numbers
        H x W int32, the piece of each pixel; 0 is background.
    measures, centres
        Of each number (see :mod:`._diffusion`).
    factors
        1 / the scale that each is computed at.
    chosen
        The numbers of those with a fair share of their crystal, the longest first.
    """

    numbers: NDArray[np.int32]
    measures: NDArray[np.int64]
    centres: NDArray[np.int64]
    factors: NDArray[np.int64]
    chosen: NDArray[np.intp]

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Which of the chosen are computed at full scale."""
        return np.asarray(self.factors[self.chosen] == 1)

    def write_flows(self, flow: NDArray[np.float32], chosen: NDArray[np.intp]) -> None:
        """Write into ``flow`` (2 x H x W) that of some pieces."""
        _diffusion.write_flows(flow, self.numbers, chosen, self.factors, self.measures, self.centres)


def pieces_of(labels: NDArray[np.int32], exact_length: int) -> Pieces:
    """Find the pieces of crystals (H x W, 0 is background); those over ``exact_length`` px are reduced."""
    numbers = cc3d.connected_components(np.ascontiguousarray(labels), connectivity=4, out_dtype=np.uint32)
    numbers = numbers.view(np.int32)
    measures = _diffusion.measure(numbers, int(numbers.max(initial=0)))
    centres = _diffusion.centres_of(numbers, measures, 0)
    lengths = _diffusion.lengths_of(measures)
    factors = np.where(lengths > exact_length, np.maximum(2, -(-lengths // COARSE_LENGTH)), 1)
    chosen = np.flatnonzero(_has_share(labels, measures[:, 4], centres))
    return Pieces(numbers, measures, centres, factors, chosen[np.argsort(-lengths[chosen], kind="stable")])


def _has_share(labels: NDArray[np.int32], areas: NDArray[np.int64], centres: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which pieces have a fair share of their crystal; the background, number 0, has none."""
    _, owner = np.unique(labels[centres[:, 0], centres[:, 1]], return_inverse=True)
    share = areas / np.maximum(1, np.bincount(owner, weights=areas)[owner])
    return np.asarray(share >= LEAST_SHARE)


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
    lengths = np.array([max(side.stop - side.start for side in window) for window in windows])
    maps = (lengths[:, None] <= np.asarray(thresholds[1:]) * side).sum(axis=1)
    maps[values == 0] = len(thresholds)
    chosen = maps[numbers.reshape(labels.shape)]
    return np.asarray(chosen == np.arange(len(thresholds) + 1)[:, None, None], np.uint8)
