"""Further scores of one image, for which more than its overlap table is looked at."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench.evaluation._grain_size import GrainSize, GrainSizes, grain_size_of
from crystalbench.evaluation._outlines import outlines
from crystalbench.evaluation._overlaps import Counts, Overlaps, count_overlaps
from crystalbench.evaluation._scores import ImageScores, nan_to_none, scores_of

EXTRA_SCALARS = ("aji_plus", "splits", "merges", "dg")

# The most that shared pixels add to a sum of IoU: they decide between sums that are equal, or closer than this.
_TIE = 1e-6


@dataclass(frozen=True)
class ImageExtras:
    """Further counts of one image, and the scores that follow from them and from :class:`ImageScores`.

    Only integers are stored. A score that is undefined is NaN. A crystal's length is the longer side of its
    axis-aligned bounding box.

    Attributes
    ----------
    scores
        What :func:`evaluate` returns.
    aji_plus_intersection
        Numerator C of AJI+, in pixels.
    splits
        Crystals of the truth that are split: at least two of the prediction lie with more than half of their area
        inside, and cover at least 5 % of it each.
    merges
        Crystals of the prediction inside which crystals of the truth lie in that way.
    lengths_matched
        Length in pixels of the truth's crystal in each pair of ``scores.matches``, in their order.
    lengths_missed, lengths_surplus
        Lengths in pixels of the crystals of the truth, and of the prediction, without a match, ascending.
    grains
        Counts for the grain sizes of all crystals.
    """

    scores: ImageScores
    aji_plus_intersection: int
    splits: int
    merges: int
    lengths_matched: tuple[int, ...]
    lengths_missed: tuple[int, ...]
    lengths_surplus: tuple[int, ...]
    grains: GrainSizes

    @property
    def aji_plus_union(self) -> int:
        """Denominator W of AJI+, in pixels: what the pairs and the crystals left over cover together."""
        return sum(self.scores.areas_truth) + sum(self.scores.areas_prediction) - self.aji_plus_intersection

    @property
    def aji_plus(self) -> float:
        """AJI of pairs one to one with the highest sum of IoU, as in the code of HoVer-Net (Graham et al. 2019)."""
        return self.aji_plus_intersection / self.aji_plus_union if self.aji_plus_union else math.nan

    @property
    def dg(self) -> float:
        """ASTM E112's planimetric grain size number G of the prediction minus that of the truth."""
        return self.grains.dg

    def to_row(self) -> dict[str, Any]:
        """Return the integers that follow from no row of :meth:`ImageScores.to_row`, ready for JSON."""
        truth, prediction = self.grains.truth, self.grains.prediction
        return {
            "aji_plus_intersection": self.aji_plus_intersection,
            "splits": self.splits,
            "merges": self.merges,
            "lengths_matched": list(self.lengths_matched),
            "lengths_missed": list(self.lengths_missed),
            "lengths_surplus": list(self.lengths_surplus),
            "frame_px": truth.frame_px,
            "cut_truth": truth.cut,
            "cut_prediction": prediction.cut,
            "ends_truth": truth.ends,
            "ends_prediction": prediction.ends,
        }

    @classmethod
    def from_row(cls, scores: ImageScores, row: Mapping[str, Any]) -> ImageExtras:
        """Return the extras of an image's scores and of the row that :meth:`to_row` made."""
        truth = GrainSize(row["frame_px"], scores.areas_truth, row["cut_truth"], row["ends_truth"])
        prediction = GrainSize(row["frame_px"], scores.areas_prediction, row["cut_prediction"], row["ends_prediction"])
        return cls(
            scores=scores,
            aji_plus_intersection=row["aji_plus_intersection"],
            splits=row["splits"],
            merges=row["merges"],
            lengths_matched=tuple(row["lengths_matched"]),
            lengths_missed=tuple(row["lengths_missed"]),
            lengths_surplus=tuple(row["lengths_surplus"]),
            grains=GrainSizes(truth, prediction),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the scores by name, ready for JSON: None where one is undefined."""
        scalars = {name: nan_to_none(getattr(self, name)) for name in EXTRA_SCALARS}
        return {**scalars, **by_length_to_json([self])}


@dataclass(frozen=True)
class LengthScores:
    """Scores of the crystals of one octave of lengths; what is undefined is NaN.

    A pair counts, and a crystal that was missed, where the truth's crystal is of that octave; a crystal of the
    prediction without a match where it is itself.

    Attributes
    ----------
    shortest_px
        The octave holds lengths from this power of 2 to under its double.
    iou_sum
        Sum of the matches' IoU.
    """

    shortest_px: int
    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def pq(self) -> float:
        """Panoptic quality of the octave's crystals."""
        return self.iou_sum / (self.tp + self.fp / 2 + self.fn / 2)

    @property
    def recall(self) -> float:
        """Fraction of the truth's crystals that have a match; NaN without any."""
        return self.tp / (self.tp + self.fn) if self.tp or self.fn else math.nan


def evaluate_extras(truth: ArrayLike, prediction: ArrayLike) -> ImageExtras:
    """Score a segmentation against the truth, with the scores of :func:`evaluate` and further ones.

    Parameters
    ----------
    truth, prediction
        Label maps as for :func:`evaluate`.

    Raises
    ------
    LabelError
        As :func:`evaluate`.
    """
    overlaps = count_overlaps(truth, prediction)
    g, p = (outlines(np.asarray(labels)) for labels in (truth, prediction))
    areas_truth = overlaps.areas_truth[overlaps.truth]
    areas_prediction = overlaps.areas_prediction[overlaps.prediction]
    matched = 2 * overlaps.intersection > overlaps.union
    return ImageExtras(
        scores=scores_of(overlaps),
        aji_plus_intersection=_one_to_one(overlaps),
        splits=_divided(overlaps.truth, areas_truth, areas_prediction, overlaps.intersection),
        merges=_divided(overlaps.prediction, areas_prediction, areas_truth, overlaps.intersection),
        lengths_matched=_lengths_of_pairs(overlaps, matched, g.lengths),
        lengths_missed=_without(g.lengths, overlaps.truth[matched]),
        lengths_surplus=_without(p.lengths, overlaps.prediction[matched]),
        grains=GrainSizes(*(grain_size_of(outlined, np.size(truth)) for outlined in (g, p))),
    )


def scores_by_length(images: Iterable[ImageExtras]) -> list[LengthScores]:
    """Return the scores of the crystals of all images together, by octaves of their lengths.

    Octaves from the shortest; those without any crystal are left out.
    """
    matched: defaultdict[int, list[float]] = defaultdict(list)
    missed: Counter[int] = Counter()
    surplus: Counter[int] = Counter()
    for image in images:
        for length, (intersection, union) in zip(image.lengths_matched, image.scores.matches, strict=True):
            matched[_octave(length)].append(intersection / union)
        missed.update(map(_octave, image.lengths_missed))
        surplus.update(map(_octave, image.lengths_surplus))
    return [
        LengthScores(octave, len(matched[octave]), surplus[octave], missed[octave], math.fsum(matched[octave]))
        for octave in sorted({*matched, *missed, *surplus})
    ]


def by_length_to_json(images: Sequence[ImageExtras]) -> dict[str, dict[str, float | None]]:
    """Return PQ and recall by octave, named by its shortest length in pixels, ready for JSON."""
    octaves = scores_by_length(images)
    return {
        "pq_by_length": {str(octave.shortest_px): octave.pq for octave in octaves},
        "recall_by_length": {str(octave.shortest_px): nan_to_none(octave.recall) for octave in octaves},
    }


def _octave(length: int) -> int:
    return 1 << (length.bit_length() - 1)


def _one_to_one(overlaps: Overlaps) -> int:
    """Return the pixels that pairs share, each crystal in one at most, of the pairs with the highest sum of IoU.

    Of equal sums the one that shares more pixels is taken, so that numbering changes nothing.
    """
    if not overlaps.intersection.size:
        return 0
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n_truth, n_prediction = overlaps.areas_truth.size, overlaps.areas_prediction.size
    gain = overlaps.intersection / overlaps.union + _TIE * overlaps.intersection / overlaps.intersection.sum()
    # Each crystal of the truth has a column of its own besides, to stay alone in.
    alone = np.arange(n_truth)
    places = np.append(overlaps.truth, alone), np.append(overlaps.prediction, n_prediction + alone)
    costs = coo_array((np.append(2 - gain, np.full(n_truth, 2.0)), places), shape=(n_truth, n_prediction + n_truth))
    _, taken = min_weight_full_bipartite_matching(costs.tocsr())
    return int(overlaps.intersection[taken[overlaps.truth] == overlaps.prediction].sum())


def _divided(crystal: Counts, area: Counts, other_area: Counts, intersection: Counts) -> int:
    """Return how many crystals hold at least two of the other map; see :func:`held_in_divided`."""
    return len(np.unique(crystal[held_in_divided(crystal, area, other_area, intersection)]))


def held_in_divided(crystal: Counts, area: Counts, other_area: Counts, intersection: Counts) -> NDArray[np.bool_]:
    """Say which pairs are of a crystal that holds at least two of the other map, and of one of these.

    Parameters
    ----------
    crystal
        Number of the crystal in each pair that overlaps.
    area, other_area, intersection
        Areas of the pair's two crystals, and the pixels that they share.
    """
    held = (2 * intersection > other_area) & (20 * intersection >= area)
    divided = np.bincount(crystal[held], minlength=int(crystal.max(initial=-1)) + 1) >= 2
    return np.asarray(held & divided[crystal])


def _lengths_of_pairs(overlaps: Overlaps, matched: NDArray[np.bool_], lengths: Counts) -> tuple[int, ...]:
    """Return the lengths of the truth's crystals in matched pairs, in the order of :attr:`ImageScores.matches`."""
    columns = overlaps.intersection, overlaps.union, lengths[overlaps.truth]
    return tuple(length for *_, length in sorted(zip(*(column[matched].tolist() for column in columns), strict=True)))


def _without(lengths: Counts, left_out: Counts) -> tuple[int, ...]:
    return tuple(np.sort(np.delete(lengths, left_out)).tolist())
