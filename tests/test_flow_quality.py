from __future__ import annotations

import numpy as np
import pytest
from cellpose import dynamics
from numpy.typing import NDArray
from scipy import ndimage
from test_targets import Labels, mosaic

import crystalbench.registry  # noqa: F401  registers crystalbench.adapters
from crystalbench.adapters import _flow_quality, _targets


def predicted(labels: Labels, noise: float, seed: int) -> NDArray[np.float32]:
    """Return a flow as a network would give it: that of the labels, and smooth errors."""
    rng = np.random.default_rng(seed)
    flow = 5 * _targets.flow_targets(labels)
    errors = ndimage.gaussian_filter(rng.normal(0, 10 * noise, flow.shape), (0, 3, 3))
    return (flow + errors).astype(np.float32)


def joined(labels: Labels, seed: int) -> Labels:
    """Return labels of which some pairs, neighbours or not, have become one mask."""
    numbers = np.random.default_rng(seed).permutation(labels.max() + 1)
    pairs = np.where(numbers % 4 < 2, numbers, numbers // 2 * 2)
    return np.unique(np.where(labels > 0, pairs[labels] + 1, 0), return_inverse=True)[1].reshape(labels.shape)


def kept(masks: Labels, flow: NDArray[np.float32], threshold: float) -> set[int]:
    return set(np.unique(dynamics.remove_bad_flow_masks(masks.astype(np.int64), flow, threshold))) - {0}


@pytest.mark.parametrize("threshold", [0.1, 0.4, 1.0])
@pytest.mark.parametrize(("side", "crystals"), [(200, 12), (200, 60), (320, 5)])
def test_masks_are_those_that_the_library_keeps(side: int, crystals: int, threshold: float) -> None:
    labels = mosaic(side, side, crystals, seed=crystals)
    labels[: side // 5] = 0
    masks = joined(labels, seed=crystals).astype(np.int32)
    flow = predicted(labels, noise=1, seed=crystals)
    bad = _flow_quality.bad_flows(masks, flow, threshold)
    assert bad.shape == (masks.max() + 1,)
    assert set(np.flatnonzero(~bad)) - {0} == kept(masks, flow, threshold)
    assert not bad[0]
    np.testing.assert_array_equal(_flow_quality.bad_flows(masks, flow, threshold, threads=2), bad)


def test_small_masks_and_masks_in_pieces_are_judged_as_by_the_library() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, (60, 60)).astype(np.int32)
    labels[20:40, 20:40] = 40
    flow = rng.normal(0, 2, (2, 60, 60)).astype(np.float32)
    bad = _flow_quality.bad_flows(labels, flow, 1.2)
    assert 0 < bad.sum() < 40
    assert set(np.flatnonzero(~bad)) - {0} == kept(labels, flow, 1.2)


def test_no_masks_have_no_bad_ones() -> None:
    nothing = np.zeros((20, 30), np.int32)
    np.testing.assert_array_equal(_flow_quality.bad_flows(nothing, np.zeros((2, 20, 30), np.float32), 0.4), [False])
