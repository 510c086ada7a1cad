"""How many pixels each crystal of the truth shares with each crystal of the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench._exceptions import LabelError
from crystalbench.evaluation._backend import frozen, kernels_for_overlaps

Counts = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]
Pairs = tuple[NDArray[Any], NDArray[Any], Counts]


@dataclass(frozen=True)
class Overlaps:
    """The overlap table of two label maps, without the background.

    Crystals are numbered from 0 in the order of their labels, whatever gaps the labels have.

    Attributes
    ----------
    areas_truth, areas_prediction
        Area of each crystal in pixels, shapes (n_truth,) and (n_prediction,).
    truth, prediction
        The two crystals of each pair that overlaps, shape (n_pairs,), sorted by truth, then prediction.
    intersection
        Pixels that the pair shares, shape (n_pairs,), at least 1.
    """

    areas_truth: Counts
    areas_prediction: Counts
    truth: Counts
    prediction: Counts
    intersection: Counts

    @property
    def union(self) -> Counts:
        """Pixels that either crystal of the pair has, shape (n_pairs,)."""
        return self.areas_truth[self.truth] + self.areas_prediction[self.prediction] - self.intersection


def count_overlaps(truth: ArrayLike, prediction: ArrayLike) -> Overlaps:
    """Count the pixels that crystals of two label maps share.

    Parameters
    ----------
    truth, prediction
        Label maps of one shape H x W, of any integer dtype and memory order; 0 is background.

    Raises
    ------
    LabelError
        Where one is not a label map, or their shapes differ.
    """
    g, p = _in_one_order(*_label_maps(truth, prediction))
    compiled = kernels_for_overlaps(g.size)
    g, p, pixels = _pairs(compiled, g, p) if compiled else _runs(g, p)
    # Each label is in some run: looking at these alone finds a negative one.
    _refuse_negative("truth", g)
    _refuse_negative("prediction", p)
    return _table(g, p, pixels)


def _label_maps(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    g = _label_map("truth", truth)
    p = _label_map("prediction", prediction)
    if g.shape != p.shape:
        raise LabelError(f"the truth is {_size(g)} pixels and the prediction {_size(p)}; they must be of one shape")
    return g, p


def _label_map(name: str, labels: ArrayLike) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise LabelError(f"the {name} holds {array.dtype} values; a label map holds integers, one for each crystal")
    if array.ndim != 2:
        raise LabelError(f"the {name} has {array.ndim} dimensions; a label map has two, height and width")
    return array


def _refuse_negative(name: str, labels: NDArray[Any]) -> None:
    lowest = labels.min(initial=0)
    if lowest < 0:
        raise LabelError(f"the {name} holds the negative value {lowest}; labels are 0 (background) or above")


def _size(array: NDArray[Any]) -> str:
    return " x ".join(str(length) for length in array.shape)


def _in_one_order(g: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pixels of both maps in one order, in the machine's byte order."""
    order: Literal["C", "F"] = "F" if g.flags.f_contiguous and p.flags.f_contiguous else "C"
    g, p = g.ravel(order), p.ravel(order)
    return g.astype(g.dtype.newbyteorder("="), copy=False), p.astype(p.dtype.newbyteorder("="), copy=False)


def _runs(g: NDArray[Any], p: NDArray[Any]) -> Pairs:
    """Return the labels of each run of pixels over which both maps are constant, and the runs' lengths."""
    first = np.ones(g.size, dtype=bool)
    np.not_equal(g[1:], g[:-1], out=first[1:])
    first[1:] |= p[1:] != p[:-1]
    starts = np.flatnonzero(first)
    return g[starts], p[starts], np.diff(starts, append=g.size)


def _pairs(compiled: ModuleType, g: NDArray[Any], p: NDArray[Any]) -> Pairs:
    """Return the labels of pairs and the pixels in which they meet; a pair may be there more than once."""
    unsigned = [frozen(labels.view(labels.dtype.str.replace("i", "u"))) for labels in (g, p)]
    parts = [(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    start = 0
    while start < g.size:
        *part, start = compiled.count_pairs(*unsigned, start)
        parts.append(part)
    truth, prediction, pixels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return truth.astype(g.dtype), prediction.astype(p.dtype), pixels


def _table(g: NDArray[Any], p: NDArray[Any], pixels: Counts) -> Overlaps:
    n_truth, rows = _renumber(g)
    n_prediction, columns = _renumber(p)
    shape = n_truth + 1, n_prediction + 1
    row, column, sums = _sum_cells(rows, columns, pixels, shape)
    crystals = (row > 0) & (column > 0)
    return Overlaps(
        areas_truth=_sums(row, sums, shape[0])[1:],
        areas_prediction=_sums(column, sums, shape[1])[1:],
        truth=row[crystals] - 1,
        prediction=column[crystals] - 1,
        intersection=sums[crystals],
    )


def _sum_cells(
    rows: Numbers, columns: Numbers, pixels: Counts, shape: tuple[int, int]
) -> tuple[Counts, Counts, Counts]:
    """Return row, column and pixels of each cell of the table that is not empty, by row, then column."""
    if shape[0] * shape[1] <= 4 * pixels.size:
        table = _sums(rows.astype(np.int64) * shape[1] + columns, pixels, shape[0] * shape[1])
        cells = np.flatnonzero(table)
        return *np.divmod(cells, shape[1]), table[cells]
    from scipy.sparse import coo_array

    sparse = coo_array((pixels, (rows, columns)), shape=shape).tocsr().tocoo()
    return sparse.row.astype(np.int64), sparse.col.astype(np.int64), sparse.data


def _sums(places: Numbers, pixels: Counts, length: int) -> Counts:
    # The sums are floats, which are exact up to 2^53.
    return np.bincount(places, pixels, length).astype(np.int64)


def _renumber(labels: NDArray[Any]) -> tuple[int, NDArray[np.integer[Any]]]:
    """Return how many crystals there are, and 1 to n for the labels in their order; 0 stays 0."""
    highest = int(labels.max(initial=0))
    if highest > 4 * labels.size + 2**16:
        known, index = np.unique(np.append(labels, labels.dtype.type(0)), return_inverse=True)
        return known.size - 1, index[:-1]
    present = np.zeros(highest + 1, dtype=bool)
    present[labels] = True
    present[0] = False
    numbers = np.cumsum(present, dtype=np.int32)
    return int(present.sum()), numbers[labels]
