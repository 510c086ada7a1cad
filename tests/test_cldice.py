from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage import morphology
from skimage.segmentation import expand_labels

from crystalbench import LabelError
from crystalbench.evaluation import _cldice, centre_lines, cldice, line_cldice, skeletonize, widen_lines


def halves(gap: int, at: int = 20, side: int = 40) -> NDArray[np.int32]:
    """Two crystals with ``gap`` columns of background from column ``at`` on."""
    labels = np.ones((side, side), np.int32)
    labels[:, at:] = 2
    labels[:, at : at + gap] = 0
    return labels


def bricks(seed: int = 0) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:90, :120]
    seeds = rng.uniform(0, [90, 120], (15, 2))
    return 1 + np.argmin((ys[..., None] - seeds[:, 0]) ** 2 + (xs[..., None] - seeds[:, 1]) ** 2, axis=2)


@pytest.mark.parametrize("gap", range(9))
def test_one_line_in_the_middle_of_a_gap(gap: int) -> None:
    lines = centre_lines(halves(gap))
    inner = lines[5:-5]
    assert (inner.sum(axis=1) == 1).all()
    assert np.abs(np.nonzero(inner)[1] - (20 + (gap - 1) / 2)).max() <= 1
    assert (widen_lines(lines)[5:-5].sum(axis=1) == 5).all()


@pytest.mark.parametrize("gap", [9, 10, 15])
def test_no_boundary_across_a_wider_gap(gap: int) -> None:
    assert not centre_lines(halves(gap)).any()


def test_the_outline_of_a_grain_is_no_boundary() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[10:30, 10:30] = 7
    assert not centre_lines(labels).any()


def test_slanted_boundaries_are_as_wide_as_straight_ones() -> None:
    ys, xs = np.mgrid[:100, :100]
    lines = centre_lines(1 + (ys > xs))
    area_of_a_band = 5 * np.hypot(100, 100)
    assert widen_lines(lines).sum() == pytest.approx(area_of_a_band, rel=0.15)


def test_same_labels_score_one() -> None:
    labels = bricks()
    assert cldice(labels, labels) == 1
    assert cldice(labels.astype(np.uint64) * 10**15, labels[::1]) == 1


def test_a_line_that_is_off_by_two_pixels_counts_and_by_three_does_not() -> None:
    truth = halves(0)
    assert cldice(truth, halves(0, at=22)) == 1
    assert cldice(truth, halves(0, at=23)) == 0


def test_counted_by_hand() -> None:
    truth, prediction = np.zeros((20, 60), bool), np.zeros((20, 60), bool)
    truth[10, :50] = True
    prediction[10, :20] = True
    prediction[2, :20] = True
    # Half of the prediction lies on the truth; of the truth's 50 pixels 20 and the 2 that the pen adds are found.
    precision, sensitivity = 20 / 40, 22 / 50
    assert line_cldice(truth, prediction) == pytest.approx(2 * precision * sensitivity / (precision + sensitivity))


def test_swapping_truth_and_prediction_changes_nothing() -> None:
    assert cldice(bricks(0), bricks(1)) == cldice(bricks(1), bricks(0))
    assert 0 < cldice(bricks(0), bricks(1)) < 1


def test_lines_are_the_same_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for share in (0.003, 0.01, 0.1, 0.9):
        seeds = np.where(rng.random((90, 120)) < share, rng.integers(1, 6, (90, 120)), 0)
        for labels in (seeds, expand_labels(seeds, 5), np.uint64(2**63) + seeds.astype(np.uint64)):
            ours = centre_lines(labels)
            with monkeypatch.context() as patch:
                patch.setattr(_cldice, "kernels", lambda: None)
                assert np.array_equal(centre_lines(labels), ours)


@settings(max_examples=500, deadline=None)
@given(arrays(bool, st.tuples(st.integers(0, 12), st.integers(0, 12)), elements=st.booleans()))
def test_thinned_like_scikit_image(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(skeletonize(mask), morphology.skeletonize(mask))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.97])
def test_large_masks_are_thinned_like_scikit_image(share: float) -> None:
    for smooth in range(3):
        noise = ndimage.uniform_filter(np.random.default_rng(smooth).random((400, 300)), 1 + 4 * smooth)
        mask = noise < np.quantile(noise, share)
        assert np.array_equal(skeletonize(mask), morphology.skeletonize(mask))


def test_the_pen_is_a_square_without_corners() -> None:
    lines = np.random.default_rng(0).random((70, 50)) < 0.02
    assert np.array_equal(widen_lines(lines), ndimage.binary_dilation(lines, morphology.octagon(3, 1)))


def test_edge_cases() -> None:
    none, some = np.ones((40, 40), np.int32), halves(0)
    assert math.isnan(cldice(none, none))
    assert math.isnan(cldice(0 * none, none))
    assert cldice(none, some) == cldice(some, none) == 0
    assert math.isnan(cldice(np.zeros((0, 4), int), np.zeros((0, 4), int)))


@pytest.mark.parametrize("slip", [halves(0) / 2, halves(0)[..., None], -halves(0)])
def test_what_is_no_label_map_is_refused(slip: NDArray[np.generic]) -> None:
    with pytest.raises(LabelError):
        centre_lines(slip)


def test_two_shapes_are_refused() -> None:
    with pytest.raises(LabelError, match="40 x 40 pixels and the prediction 20 x 20"):
        cldice(halves(0), halves(0, 10, 20))
