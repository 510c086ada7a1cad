from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from crystalbench import LabelError
from crystalbench.evaluation import feret_diameters

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
MAPS = arrays(np.int32, SHAPES, elements=st.sampled_from([0, 0, 0, 1, 2, 5]))


def grains(seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((150, 200)), 4)
    return ndimage.label(noise > np.quantile(noise, 0.75))[0]


def shortest(image: NDArray[np.bool_]) -> float:
    """Extents across every line through two corners: the shortest lies across an edge of the hull."""
    middles = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    points = (np.argwhere(image)[:, None] + middles).reshape(-1, 2)
    points = points[ConvexHull(points).vertices]
    one, other = np.triu_indices(len(points), 1)
    lines = points[one] - points[other]
    normals = lines[:, ::-1] * [1, -1] / np.hypot(*lines.T)[:, None]
    return float(np.ptp(points @ normals.T, axis=0).min())


@settings(max_examples=150, deadline=None)
@given(MAPS)
def test_agrees_with_scikit_image_on_anything(labels: NDArray[np.int32]) -> None:
    found = feret_diameters(labels)
    assert found.longest.tolist() == [crystal.feret_diameter_max for crystal in regionprops(labels)]


@settings(max_examples=100, deadline=None)
@given(MAPS)
def test_no_direction_is_shorter(labels: NDArray[np.int32]) -> None:
    found = feret_diameters(labels)
    expected = [shortest(crystal.image_convex) for crystal in regionprops(labels)]
    assert found.shortest == pytest.approx(np.array(expected), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_image_on_grains(seed: int) -> None:
    labels = grains(seed)
    crystals = regionprops(labels)
    found = feret_diameters(labels)
    assert len(crystals) > 20
    assert found.longest.tolist() == [crystal.feret_diameter_max for crystal in crystals]
    assert found.shortest == pytest.approx(
        np.array([shortest(crystal.image_convex) for crystal in crystals]), rel=1e-12
    )


def test_measured_by_hand() -> None:
    labels = np.zeros((20, 30), np.uint64)
    labels[2, 3] = 2**63
    labels[5:8, 10:17] = 4
    labels[12:15, 2:5] = labels[12:15, 20:25] = 9
    found = feret_diameters(labels)
    assert found.longest.tolist() == [math.hypot(2, 7), math.hypot(2, 23), 1]
    assert found.shortest == pytest.approx(np.array([3, 3, math.sqrt(1 / 2)]), rel=1e-12)


def test_neither_turning_nor_numbering_matters() -> None:
    labels = grains(0)
    plain = feret_diameters(labels)
    turned = feret_diameters(np.asfortranarray(labels).T.astype(">i4"))
    gaps = feret_diameters(labels.astype(np.uint64) * 10**15)
    for name in ("longest", "shortest"):
        assert sorted(getattr(turned, name)) == pytest.approx(sorted(getattr(plain, name)), rel=1e-12)
        assert np.array_equal(getattr(gaps, name), getattr(plain, name))


@pytest.mark.parametrize("labels", [np.zeros((0, 0), int), np.zeros((3, 4), np.uint8)])
def test_no_crystal_has_no_diameter(labels: NDArray[np.integer]) -> None:
    assert [column.shape for column in feret_diameters(labels)] == [(0,), (0,)]


@pytest.mark.parametrize("slip", [np.ones((3, 3)), np.ones((3, 3, 3), int), -np.ones((3, 3), int)])
def test_what_is_no_label_map_is_refused(slip: NDArray[np.generic]) -> None:
    with pytest.raises(LabelError, match="the map h"):
        feret_diameters(slip)
