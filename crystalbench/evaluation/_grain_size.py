"""Grain size numbers after ASTM E112, and crystal sizes with a choice of the crystals that count."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crystalbench.evaluation._outlines import Outlines, outlines
from crystalbench.evaluation._overlaps import _label_map, _label_maps, _refuse_negative
from crystalbench.evaluation._scores import average_crystal_size


@dataclass(frozen=True)
class GrainSize:
    """What was counted in one label map, and the grain sizes that follow from it.

    Only integers are stored. The frame is that of the image; a crystal is cut where it has a pixel of the outermost
    row or column. A size that is undefined is NaN.

    Attributes
    ----------
    frame_px
        Pixels inside the frame, background and all.
    areas
        Areas of the crystals in pixels, ascending.
    cut
        How many of the crystals the frame cuts.
    ends
        Ends of intercepts inside the frame: how often a row or a column of pixels enters or leaves a crystal.
    """

    frame_px: int
    areas: tuple[int, ...]
    cut: int
    ends: int

    @property
    def count(self) -> float:
        """Crystals inside, and half of those that the frame cuts (ASTM E112, planimetric procedure)."""
        return len(self.areas) - self.cut / 2

    @property
    def acs(self) -> float:
        """Average crystal size in pixels: mean diameter of the discs of equal area."""
        return average_crystal_size(self.areas)

    @property
    def mean_intercept(self) -> float:
        """Mean intercept in pixels: length of rows and columns inside crystals / number of intercepts.

        An end of an intercept that the frame makes counts half (ASTM E112, Heyn's procedure). NaN where the rows and
        columns meet no boundary.
        """
        return 4 * sum(self.areas) / self.ends if self.ends else math.nan

    def planimetric_g(self, um_per_px: float) -> float:
        """Return the grain size number G from the crystals per mm2 of the frame (ASTM E112, planimetric procedure).

        Parameters
        ----------
        um_per_px
            Micrometres a pixel.

        Raises
        ------
        ValueError
            Where ``um_per_px`` is no scale.
        """
        mm2 = self.frame_px * _mm(um_per_px) ** 2
        return 3.321928 * math.log10(self.count / mm2) - 2.954 if self.count else math.nan

    def intercept_g(self, um_per_px: float) -> float:
        """Return the grain size number G from the mean intercept (ASTM E112, Heyn's procedure).

        Parameters
        ----------
        um_per_px
            Micrometres a pixel.

        Raises
        ------
        ValueError
            Where ``um_per_px`` is no scale.
        """
        return -6.643856 * math.log10(self.mean_intercept * _mm(um_per_px)) - 3.288


@dataclass(frozen=True)
class GrainSizes:
    """The grain sizes of a truth and of a prediction, of crystals chosen alike in both; what is undefined is NaN."""

    truth: GrainSize
    prediction: GrainSize

    @property
    def dg(self) -> float:
        """Planimetric G of the prediction minus that of the truth, for which no scale is needed."""
        counts = self.truth.count, self.prediction.count
        return math.log2(counts[1] / counts[0]) if all(counts) else math.nan

    @property
    def acs_bias(self) -> float:
        """ACS of the prediction minus that of the truth, in pixels; no prediction counts as size 0."""
        return (self.prediction.acs if self.prediction.areas else 0.0) - self.truth.acs

    @property
    def acs_error(self) -> float:
        """Absolute error of the ACS in pixels."""
        return abs(self.acs_bias)

    @property
    def acs_relative_error(self) -> float:
        """Absolute error of the ACS as a fraction of the truth's."""
        return self.acs_error / self.truth.acs


def grain_size(labels: ArrayLike, *, exclude_border: bool = False, min_area: int = 0) -> GrainSize:
    """Count what grain sizes need in one label map.

    Parameters
    ----------
    labels
        H x W label map of any integer dtype up to 64 bit; 0 is background. Pieces of one label are one crystal.
    exclude_border
        Leave out crystals that the frame cuts.
    min_area
        Leave out crystals of fewer pixels. What is left out is as background; the frame stays.

    Raises
    ------
    LabelError
        Where it is no label map.
    """
    array = _label_map("map", labels)
    _refuse_negative("map", array)
    return grain_size_of(outlines(array), array.size, exclude_border=exclude_border, min_area=min_area)


def compare_grain_sizes(
    truth: ArrayLike, prediction: ArrayLike, *, exclude_border: bool = False, min_area: int = 0
) -> GrainSizes:
    """Count what grain sizes need in a truth and a prediction, with one choice of the crystals that count.

    Parameters
    ----------
    truth, prediction
        Label maps of one shape, as for :func:`evaluate`.
    exclude_border, min_area
        As for :func:`grain_size`, for both maps alike. They change no other score.

    Raises
    ------
    LabelError
        Where one is no label map, or their shapes differ.
    """
    g, p = _label_maps(truth, prediction)
    _refuse_negative("truth", g)
    _refuse_negative("prediction", p)
    return GrainSizes(*(grain_size(labels, exclude_border=exclude_border, min_area=min_area) for labels in (g, p)))


def grain_size_of(outlined: Outlines, frame_px: int, *, exclude_border: bool = False, min_area: int = 0) -> GrainSize:
    """Return the grain size of a label map whose crystals were measured."""
    counts = (outlined.areas >= min_area) & ~(outlined.cut & exclude_border)
    return GrainSize(
        frame_px=frame_px,
        areas=tuple(np.sort(outlined.areas[counts]).tolist()),
        cut=int(outlined.cut[counts].sum()),
        ends=int(outlined.ends[counts].sum()),
    )


def _mm(um_per_px: float) -> float:
    if not 0 < um_per_px < math.inf:
        raise ValueError(f"um_per_px is {um_per_px}; give the micrometres a pixel, a number above 0")
    return um_per_px / 1000
