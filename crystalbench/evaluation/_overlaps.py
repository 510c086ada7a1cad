"""How many pixels each crystal of the truth shares with each crystal of the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array

from crystalbench._exceptions import LabelError

Counts = NDArray[np.int64]


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
    g = _label_map("truth", truth)
    p = _label_map("prediction", prediction)
    if g.shape != p.shape:
        raise LabelError(f"the truth is {_size(g)} pixels and the prediction {_size(p)}; they must be of one shape")
    return _table(*_runs(g, p))


def _label_map(name: str, labels: ArrayLike) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise LabelError(f"the {name} holds {array.dtype} values; a label map holds integers, one for each crystal")
    if array.ndim != 2:
        raise LabelError(f"the {name} has {array.ndim} dimensions; a label map has two, height and width")
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        raise LabelError(f"the {name} holds the negative value {array.min()}; labels are 0 (background) or above")
    return array


def _size(array: NDArray[Any]) -> str:
    return " x ".join(str(length) for length in array.shape)


def _runs(g: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], Counts]:
    """Return the labels of each run of pixels over which both maps are constant, and the runs' lengths."""
    order: Literal["C", "F"] = "F" if g.flags.f_contiguous and p.flags.f_contiguous else "C"
    g, p = g.ravel(order), p.ravel(order)
    first = np.ones(g.size, dtype=bool)
    np.not_equal(g[1:], g[:-1], out=first[1:])
    first[1:] |= p[1:] != p[:-1]
    starts = np.flatnonzero(first)
    return g[starts], p[starts], np.diff(starts, append=g.size)


def _table(g: NDArray[Any], p: NDArray[Any], lengths: Counts) -> Overlaps:
    n_truth, rows = _renumber(g)
    n_prediction, columns = _renumber(p)
    table = coo_array((lengths, (rows, columns)), shape=(n_truth + 1, n_prediction + 1)).tocsr()
    pairs = table[1:, 1:].tocoo()
    return Overlaps(
        areas_truth=table.sum(axis=1)[1:],
        areas_prediction=table.sum(axis=0)[1:],
        truth=pairs.row.astype(np.int64),
        prediction=pairs.col.astype(np.int64),
        intersection=pairs.data,
    )


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
