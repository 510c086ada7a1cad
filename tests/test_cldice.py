from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalbench import LabelError
from crystalbench.evaluation import centre_lines, cldice, line_cldice, widen_lines


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
