"""The scores of one image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench.evaluation._overlaps import Counts, Overlaps, count_overlaps

EVALUATOR_VERSION = 1
"""Goes up with every change that can change a score; part of each score's key."""

SCALARS = (
    "n_truth",
    "n_prediction",
    "tp",
    "fp",
    "fn",
    "pq",
    "sq",
    "rq",
    "aji",
    "aji_intersection",
    "aji_union",
    "acs_truth",
    "acs_prediction",
    "acs_error",
    "acs_relative_error",
    "acs_bias",
    "undefined",
    "no_prediction",
)


@dataclass(frozen=True, repr=False)
class ImageScores:
    """What was counted in one image, and the scores that follow from it.

    Only integers are stored; every score is computed from them when asked for, so a row of integers is
    all that a record needs. A score that is undefined is NaN.

    Attributes
    ----------
    matches
        Intersection and union in pixels of each matched pair, ascending. A pair matches where its IoU
        is over 1/2, exactly.
    aji_intersection, aji_union
        Numerator C and denominator W of the AJI, in pixels.
    areas_truth, areas_prediction
        Areas of the crystals in pixels, ascending.
    """

    matches: tuple[tuple[int, int], ...]
    aji_intersection: int
    aji_union: int
    areas_truth: tuple[int, ...]
    areas_prediction: tuple[int, ...]

    @property
    def n_truth(self) -> int:
        """Crystals in the truth."""
        return len(self.areas_truth)

    @property
    def n_prediction(self) -> int:
        """Crystals in the prediction."""
        return len(self.areas_prediction)

    @property
    def tp(self) -> int:
        """Matched pairs."""
        return len(self.matches)

    @property
    def fp(self) -> int:
        """Crystals of the prediction without a match."""
        return self.n_prediction - self.tp

    @property
    def fn(self) -> int:
        """Crystals of the truth without a match."""
        return self.n_truth - self.tp

    @property
    def pq(self) -> float:
        """Panoptic quality (Kirillov et al. 2019): sum of the matches' IoU / (TP + FP/2 + FN/2)."""
        return panoptic_quality([self])

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matches, 0 where there are crystals but no match."""
        if self.tp:
            return iou_sum([self]) / self.tp
        return 0.0 if self.n_truth or self.n_prediction else math.nan

    @property
    def rq(self) -> float:
        """Recognition quality: TP / (TP + FP/2 + FN/2)."""
        return _ratio(2 * self.tp, self.n_truth + self.n_prediction)

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index (Kumar et al. 2017), as in the authors' code."""
        return _ratio(self.aji_intersection, self.aji_union)

    @property
    def acs_truth(self) -> float:
        """Average crystal size of the truth in pixels: mean diameter of the discs of equal area."""
        return average_crystal_size(self.areas_truth)

    @property
    def acs_prediction(self) -> float:
        """Average crystal size of the prediction in pixels; NaN where it has no crystal."""
        return average_crystal_size(self.areas_prediction)

    @property
    def acs_bias(self) -> float:
        """ACS of the prediction minus that of the truth, in pixels; no prediction counts as size 0."""
        return (0.0 if self.no_prediction else self.acs_prediction) - self.acs_truth

    @property
    def acs_error(self) -> float:
        """Absolute error of the ACS in pixels."""
        return abs(self.acs_bias)

    @property
    def acs_relative_error(self) -> float:
        """Absolute error of the ACS as a fraction of the truth's."""
        return self.acs_error / self.acs_truth

    @property
    def undefined(self) -> bool:
        """Whether the truth has no crystal: ACS errors are undefined, and PQ where both maps are empty."""
        return self.n_truth == 0

    @property
    def no_prediction(self) -> bool:
        """Whether the truth has crystals and the prediction none."""
        return self.n_truth > 0 and self.n_prediction == 0

    def to_row(self) -> dict[str, Any]:
        """Return the integers that all scores follow from, ready for JSON."""
        return {
            "n_truth": self.n_truth,
            "n_prediction": self.n_prediction,
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "matches": [list(match) for match in self.matches],
            "aji_intersection": self.aji_intersection,
            "aji_union": self.aji_union,
            "areas_truth": list(self.areas_truth),
            "areas_prediction": list(self.areas_prediction),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ImageScores:
        """Return the scores of a row that :meth:`to_row` made."""
        return cls(
            matches=tuple((intersection, union) for intersection, union in row["matches"]),
            aji_intersection=row["aji_intersection"],
            aji_union=row["aji_union"],
            areas_truth=tuple(row["areas_truth"]),
            areas_prediction=tuple(row["areas_prediction"]),
        )

    def to_json(self) -> dict[str, float | None]:
        """Return counts and scores by name, ready for JSON: None where one is undefined."""
        return {name: nan_to_none(getattr(self, name)) for name in SCALARS}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.to_json().items())
        return f"{type(self).__name__}({shown})"


def evaluate(truth: ArrayLike, prediction: ArrayLike) -> ImageScores:
    """Score a segmentation against the truth.

    Parameters
    ----------
    truth, prediction
        Label maps of one shape H x W, of any integer dtype up to 64 bit and any memory order. 0 is
        background, every other value one crystal, also where it lies in several pieces.

    Raises
    ------
    LabelError
        Where one holds floats, booleans or negative values or is not two-dimensional, or where their
        shapes differ.
    """
    return scores_of(count_overlaps(truth, prediction))


def scores_of(overlaps: Overlaps) -> ImageScores:
    """Return the scores of one image, whose overlaps were counted."""
    aji_intersection, aji_union = _aggregated_jaccard(overlaps)
    return ImageScores(
        matches=_matches(overlaps),
        aji_intersection=aji_intersection,
        aji_union=aji_union,
        areas_truth=tuple(np.sort(overlaps.areas_truth).tolist()),
        areas_prediction=tuple(np.sort(overlaps.areas_prediction).tolist()),
    )


def panoptic_quality(scores: Sequence[ImageScores]) -> float:
    """Return the PQ of images taken together, as a fraction: each of its sums runs over all of them.

    NaN where no image has a crystal, in the truth or in the prediction.
    """
    return _ratio(2 * iou_sum(scores), sum(image.n_truth + image.n_prediction for image in scores))


def iou_sum(scores: Sequence[ImageScores]) -> float:
    """Return the sum of the matches' IoU, the same in whatever order they come."""
    return math.fsum(intersection / union for image in scores for intersection, union in image.matches)


def average_crystal_size(areas: Sequence[int]) -> float:
    """Return the mean of 2 sqrt(A / pi), in the unit of length of the areas; NaN without any."""
    return _ratio(math.fsum(2 * math.sqrt(area / math.pi) for area in areas), len(areas))


def nan_to_none(value: float) -> float | None:
    """Return what stands for ``value`` in JSON."""
    return None if math.isnan(value) else value


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _matches(overlaps: Overlaps) -> tuple[tuple[int, int], ...]:
    intersection, union = overlaps.intersection, overlaps.union
    over_half = 2 * intersection > union
    return tuple(sorted(zip(intersection[over_half].tolist(), union[over_half].tolist(), strict=True)))


def _aggregated_jaccard(overlaps: Overlaps) -> tuple[int, int]:
    """Return C and W: each crystal of the truth takes its best one, which others may take as well."""
    union = overlaps.union
    best = _best_pairs(overlaps.truth, overlaps.intersection, union)
    alone = np.ones(overlaps.areas_truth.size, dtype=bool)
    alone[overlaps.truth] = False
    never_taken = np.ones(overlaps.areas_prediction.size, dtype=bool)
    never_taken[overlaps.prediction[best]] = False
    left_over = overlaps.areas_truth[alone].sum() + overlaps.areas_prediction[never_taken].sum()
    return int(overlaps.intersection[best].sum()), int(union[best].sum() + left_over)


def _best_pairs(row: Counts, intersection: Counts, union: Counts) -> NDArray[np.intp]:
    """Return the index of each row's pair of highest IoU, the first of equals; ``row`` is sorted.

    A quotient of floats could take two IoU for equal, or apart, that are not: of those nearly as high as the highest,
    neighbours of one row meet in rounds, as in a tournament, and the integers are multiplied crosswise.
    """
    iou = intersection / union
    is_first = np.diff(row, prepend=-1) > 0
    highest = np.maximum.reduceat(iou, np.flatnonzero(is_first)) if row.size else iou
    left = np.flatnonzero(iou >= (1 - 1e-12) * highest[np.cumsum(is_first) - 1])
    while True:
        same = row[left[1:]] == row[left[:-1]]
        if not same.any():
            return left
        place = np.arange(left.size)
        starts = np.append(True, ~same)
        place -= np.maximum.accumulate(np.where(starts, place, 0))
        second = np.flatnonzero(~starts & (place % 2 == 1))
        a, b = left[second - 1], left[second]
        better = intersection[b] * union[a] > intersection[a] * union[b]
        left[second - 1] = np.where(better, b, a)
        left = np.delete(left, second)
