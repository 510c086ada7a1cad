from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import regionprops
from skimage.segmentation import clear_border

from crystalbench import LabelError
from crystalbench.data import crystal_lengths, open_dataset
from crystalbench.evaluation import GrainSize, compare_grain_sizes, evaluate, grain_size
from crystalbench.evaluation._outlines import outlines

MAPS = arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5))
REAL = ("tbm", "ffc_iron", "imagegrains")

NINE = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((10, 10), int))
"""Nine touching crystals of 10 x 10 px, which fill the frame."""


def literal_ends(labels: np.ndarray) -> int:
    """Pixel by pixel: the sides of crystals' pixels at which another label or the background begins."""
    ends = 0
    for (y, x), label in np.ndenumerate(labels):
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            inside = 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]
            ends += bool(label and inside and labels[y + dy, x + dx] != label)
    return ends


# ASTM E112


@pytest.mark.parametrize(
    ("crystals_per_mm2", "g"),
    [(7.75, 0.0), (15.5, 1.0), (31, 2.0), (62, 3.0), (124, 4.0), (248, 5.0), (496, 6.0), (992, 7.0), (1984, 8.0)],
)
def test_planimetric_g_is_that_of_the_standards_table(crystals_per_mm2: float, g: float) -> None:
    frame_px, um_per_px = 4_000_000, 1.0
    count = 4 * crystals_per_mm2
    found = GrainSize(frame_px, areas=(100,) * math.ceil(count), cut=round(2 * (math.ceil(count) - count)), ends=0)
    assert found.planimetric_g(um_per_px) == pytest.approx(g, abs=0.002)
    assert found.planimetric_g(2 * um_per_px) == pytest.approx(g - 2, abs=0.002)


@pytest.mark.parametrize(
    ("intercept_um", "g"),
    [(320.0, 0.0), (226.3, 1.0), (160.0, 2.0), (113.1, 3.0), (80.0, 4.0), (56.6, 5.0), (20.0, 8.0), (10.0, 10.0)],
)
def test_intercept_g_is_that_of_the_standards_table(intercept_um: float, g: float) -> None:
    found = GrainSize(1000, areas=(round(10 * intercept_um),), cut=0, ends=40)
    assert found.mean_intercept == pytest.approx(intercept_um)
    assert found.intercept_g(1.0) == pytest.approx(g, abs=0.006)
    assert found.intercept_g(2.0) == pytest.approx(g - 2, abs=0.006)


def test_touching_crystals_by_hand() -> None:
    found = grain_size(NINE)
    # One inside, eight cut; each line of 30 px has one whole intercept and two that count half.
    assert (found.frame_px, found.areas, found.cut, found.count) == (900, (100,) * 9, 8, 5)
    assert (found.ends, found.mean_intercept) == (240, 30 / 2)
    assert found.planimetric_g(2.0) == pytest.approx(3.321928 * math.log10(5 / 0.0036) - 2.954, rel=1e-12)
    assert found.intercept_g(2.0) == pytest.approx(-6.643856 * math.log10(0.030) - 3.288, rel=1e-12)
    assert found.acs == pytest.approx(2 * math.sqrt(100 / math.pi))


def test_one_crystal_inside_by_hand() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:9, 10:16] = 7
    found = grain_size(labels)
    # Four rows of 6 px and six columns of 4 px.
    assert (found.count, found.ends, found.mean_intercept) == (1, 20, 48 / 10)


def test_what_meets_no_boundary_or_has_no_crystal_is_undefined() -> None:
    whole, empty = grain_size(np.ones((4, 5), int)), grain_size(np.zeros((4, 5), int))
    assert (whole.count, whole.cut, whole.ends) == (0.5, 1, 0)
    assert math.isnan(whole.mean_intercept)
    assert math.isnan(whole.intercept_g(1.0))
    assert not math.isnan(whole.planimetric_g(1.0))
    assert all(math.isnan(size) for size in (empty.acs, empty.mean_intercept, empty.planimetric_g(1.0)))


@pytest.mark.parametrize("um_per_px", [0, -0.5, math.nan, math.inf])
def test_what_is_no_scale_is_refused(um_per_px: float) -> None:
    for g in (grain_size(NINE).planimetric_g, grain_size(NINE).intercept_g):
        with pytest.raises(ValueError, match=r"um_per_px is .*; give the micrometres a pixel"):
            g(um_per_px)


# Truth and prediction


def test_dg_needs_no_scale() -> None:
    sizes = compare_grain_sizes(NINE, (NINE > 0).astype(int))
    assert sizes.dg == math.log2(0.5 / 5)
    for um_per_px in (0.3, 5.0):
        difference = sizes.prediction.planimetric_g(um_per_px) - sizes.truth.planimetric_g(um_per_px)
        assert sizes.dg == pytest.approx(difference, abs=1e-5)


def test_dg_of_nothing_is_undefined_and_its_size_error_whole() -> None:
    empty = np.zeros_like(NINE)
    assert math.isnan(compare_grain_sizes(empty[:0], empty[:0]).dg)
    nothing = compare_grain_sizes(NINE, empty)
    assert math.isnan(nothing.dg)
    assert (nothing.acs_error, nothing.acs_relative_error) == (nothing.truth.acs, 1)
    surplus = compare_grain_sizes(empty, NINE)
    assert all(math.isnan(value) for value in (surplus.dg, surplus.acs_error, surplus.acs_relative_error))


def test_choices_act_on_truth_and_prediction_alike() -> None:
    prediction = np.where(NINE == 5, 0, NINE)
    prediction[12:15, 12:15] = 20
    assert compare_grain_sizes(NINE, prediction).truth.count == compare_grain_sizes(NINE, prediction).prediction.count
    inner = compare_grain_sizes(NINE, prediction, exclude_border=True)
    assert (inner.truth.areas, inner.prediction.areas) == ((100,), (9,))
    assert inner.acs_bias == pytest.approx(2 * (3 - 10) / math.sqrt(math.pi))
    assert (inner.truth.cut, inner.truth.ends, inner.prediction.ends) == (0, 40, 12)
    large = compare_grain_sizes(NINE, prediction, min_area=10)
    assert (len(large.truth.areas), len(large.prediction.areas)) == (9, 8)
    assert compare_grain_sizes(NINE, prediction, min_area=9) == compare_grain_sizes(NINE, prediction)
    neither = compare_grain_sizes(NINE, prediction, exclude_border=True, min_area=101)
    assert math.isnan(neither.dg)
    assert inner.truth.frame_px == 900


@settings(deadline=None)
@given(MAPS)
def test_without_a_choice_sizes_are_those_of_the_scores(labels: np.ndarray) -> None:
    sizes, scores = compare_grain_sizes(labels, labels // 2), evaluate(labels, labels // 2)
    assert (sizes.truth.areas, sizes.prediction.areas) == (scores.areas_truth, scores.areas_prediction)
    found = [sizes.truth.acs, sizes.acs_bias, sizes.acs_error, sizes.acs_relative_error]
    expected = [scores.acs_truth, scores.acs_bias, scores.acs_error, scores.acs_relative_error]
    assert found == [pytest.approx(value, abs=0, nan_ok=True) for value in expected]


# Any label map


@settings(max_examples=200, deadline=None)
@given(MAPS)
def test_crystals_are_measured_as_pixel_by_pixel(labels: np.ndarray) -> None:
    crystals = regionprops(labels)
    found = outlines(labels)
    height, width = labels.shape
    assert found.areas.tolist() == [crystal.area for crystal in crystals]
    assert found.lengths.tolist() == crystal_lengths(labels).tolist()
    boxes = [crystal.bbox for crystal in crystals]
    assert found.cut.tolist() == [not (y and x and y2 < height and x2 < width) for y, x, y2, x2 in boxes]
    assert found.ends.sum() == literal_ends(labels)


@settings(deadline=None)
@given(MAPS)
def test_neither_turning_numbering_nor_type_matters(labels: np.ndarray) -> None:
    plain = grain_size(labels, min_area=2)
    gaps = np.array([0, 2**63 + 5, 7, 2**40, 1, 2**64 - 1], np.uint64)[labels]
    turned = [labels.T, labels[::-1], np.asfortranarray(labels), labels.astype(">i4"), gaps, labels.tolist()]
    for other in turned:
        assert grain_size(other, min_area=2) == plain


@pytest.mark.parametrize("slip", [np.ones((3, 3)), np.ones((3, 3, 3), int), -np.ones((3, 3), int)])
def test_what_is_no_label_map_is_refused(slip: Any) -> None:
    with pytest.raises(LabelError, match="the map h"):
        grain_size(slip)
    with pytest.raises(LabelError, match="the prediction h"):
        compare_grain_sizes(np.zeros((3, 3), int), slip)


def test_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(LabelError, match="the truth is 30 x 30 pixels and the prediction 29 x 30"):
        compare_grain_sizes(NINE, NINE[1:])


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no data sets in {SHARED}")
@pytest.mark.parametrize("name", REAL)
def test_choices_leave_out_what_scikit_image_clears(name: str) -> None:
    labels = open_dataset(SHARED / "data" / name).samples[0].label
    cleared = clear_border(labels)
    small = np.flatnonzero(np.bincount(cleared.ravel()) < 60)
    expected = grain_size(np.where(np.isin(cleared, small), 0, cleared))
    assert 0 < len(expected.areas) < len(grain_size(labels).areas)
    assert grain_size(labels, exclude_border=True, min_area=60).areas == expected.areas
    assert compare_grain_sizes(labels, labels, exclude_border=True, min_area=60).dg == 0
