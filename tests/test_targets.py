from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from cellpose import dynamics
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

import crystalbench.registry  # noqa: F401  registers crystalbench.adapters
from crystalbench.adapters import _device_targets, _diffusion, _targets

Labels = NDArray[np.int32]
Form = Callable[..., NDArray[np.float32]]

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
ON_DEVICES = {name: partial(_device_targets.flow_targets_on_device, device=name) for name in DEVICES}
FORMS = {"host": _targets.flow_targets} | ON_DEVICES

both_forms = pytest.mark.parametrize("flow_targets", FORMS.values(), ids=FORMS)


def mosaic(height: int, width: int, crystals: int, seed: int) -> Labels:
    """Return convex crystals that touch, each of one piece."""
    rng = np.random.default_rng(seed)
    pixels = np.stack(np.mgrid[:height, :width], axis=-1)
    nearest = cKDTree(rng.uniform((0, 0), (height, width), (crystals, 2))).query(pixels)[1]
    return (nearest + 1).astype(np.int32)


def speckled(height: int, width: int, rng: np.random.Generator) -> Labels:
    """Return one crystal of many pieces, with pixels that touch at a corner alone."""
    return (ndimage.gaussian_filter(rng.random((height, width)), 0.7) > 0.45).astype(np.int32)


def disc(size: int, radius: float) -> Labels:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(y, x) <= radius).astype(np.int32)


def assert_same(flow_targets: Form, flow: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """To the last bit on the host; on a device but for the order of sums."""
    np.testing.assert_allclose(flow, other, rtol=0, atol=0 if flow_targets is FORMS["host"] else 1e-5)


def meander() -> Labels:
    labels = np.ones((200, 80), np.int32)
    for number, row in enumerate(range(8, 200, 12)):
        labels[row : row + 4, 8 * (number % 2) : 72 + 8 * (number % 2)] = 0
    return labels


def angles(flow: NDArray[np.float32], other: NDArray[np.floating], where: NDArray[np.bool_]) -> NDArray:
    """Return the angles in degrees between two unit fields."""
    return np.degrees(np.arccos(np.clip((flow * other).sum(axis=0)[where], -1, 1)))


@both_forms
@pytest.mark.parametrize(("height", "width", "crystals"), [(60, 80, 12), (100, 90, 4), (33, 120, 30), (50, 50, 1)])
def test_flows_are_those_of_the_library(flow_targets: Form, height: int, width: int, crystals: int) -> None:
    labels = mosaic(height, width, crystals, seed=crystals)
    labels[:5] = 0
    expected = dynamics.masks_to_flows(labels.astype(np.int64), device=torch.device("cpu"))
    np.testing.assert_allclose(flow_targets(labels), expected, atol=1e-5)


@both_forms
def test_flow_has_unit_length_inside_and_is_zero_outside(flow_targets: Form) -> None:
    labels = mosaic(90, 110, 9, seed=1)
    labels[:5] = 0
    length = np.hypot(*flow_targets(labels))
    assert not length[labels == 0].any()
    moving = length[labels > 0] > 0
    assert moving.mean() > 0.999
    np.testing.assert_allclose(length[labels > 0][moving], 1, atol=1e-6)


@pytest.mark.parametrize(("size", "tolerance"), [(300, 2.0), (1010, 2.0)])
def test_flow_of_a_large_disc_points_to_its_centre(size: int, tolerance: float) -> None:
    labels = disc(size, size / 2 - 2)
    inward = -(np.stack(np.mgrid[:size, :size]) - (size - 1) / 2)
    inward /= np.hypot(*inward) + 1e-9
    flow = _targets.flow_targets(labels)
    assert angles(flow, inward, labels > 0).mean() < tolerance
    np.testing.assert_allclose(np.hypot(*flow)[labels > 0], 1, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "crystals", "degrees"), [(420, 300, 2, 1.5), (300, 300, 30, 2.0)])
def test_the_reduced_scale_is_near_to_the_full_one(height: int, width: int, crystals: int, degrees: float) -> None:
    labels = mosaic(height, width, crystals, seed=3)
    exact = _targets.flow_targets(labels)
    reduced = _targets.flow_targets(labels, exact_length=0)
    moving = np.hypot(*exact) > 0
    assert angles(reduced, exact, moving).mean() < degrees
    np.testing.assert_allclose(np.hypot(*reduced)[moving], 1, atol=1e-5)


def test_heat_comes_to_the_ends_of_a_meander_at_a_reduced_scale_too() -> None:
    labels = meander()
    flow = _targets.flow_targets(labels, exact_length=0)
    assert (np.hypot(*flow) > 0)[labels > 0].mean() > 0.99


def test_a_crystal_that_all_threads_share_has_the_flow_of_one_thread() -> None:
    labels = disc(320, 158)
    labels[100, 100:] = 0
    labels[150:170:2, 40:60:2] = 0
    np.testing.assert_array_equal(_targets.flow_targets(labels, threads=3), _targets.flow_targets(labels, threads=1))


def test_heat_is_the_same_all_at_once_in_sweeps_and_in_bands() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((90, 101), (31, 300)):
        pieces, _ = ndimage.label(speckled(height, width, rng))
        inside = pieces == np.bincount(pieces[pieces > 0]).argmax()
        y, x = np.argwhere(inside)[inside.sum() // 2]
        share = np.pad(inside, 1) / 9.0
        pinches = _diffusion.pinches_of(share)
        assert len(pinches)
        expected = by_definition(share, y + 1, x + 1, 203)
        assert share.size > _diffusion.SMALL
        swept = _diffusion.spread(share, y + 1, x + 1, 203, pinches)
        with ThreadPoolExecutor(2) as pool:
            banded = _diffusion.spread_in_bands(share, y + 1, x + 1, 203, pinches, pool, 3)
        np.testing.assert_allclose(swept, expected, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(banded, swept)
        small = _diffusion._spread_small(share, y + 1, x + 1, 203, pinches, _diffusion.SMALLEST)
        np.testing.assert_array_equal(small, swept)


@pytest.mark.parametrize(("y", "x"), [(20, 20), (20, 21), (25, 20), (25, 21)])
def test_heat_on_every_other_cell_is_near_to_heat_on_all(y: int, x: int) -> None:
    share = np.pad(disc(41, 18), 1).astype(np.float32) / 9
    no_pinches = np.zeros((0, 4), np.int64)
    heat = _diffusion._spread_small(share, y, x, 100, no_pinches, _diffusion.SMALLEST_REDUCED)
    thinly = _diffusion._spread_thinly(share, y, x, 100)
    np.testing.assert_allclose(thinly.sum(), heat.sum(), rtol=0.002)
    np.testing.assert_allclose(thinly, heat, rtol=0.15)


def by_definition(share: NDArray[np.float64], y: int, x: int, steps: int) -> NDArray[np.float64]:
    """Return the heat, pixel by pixel from its nine, less the diagonals between two pixels outside."""
    heat = np.zeros(share.shape)
    ways = [(down, along) for down in (-1, 0, 1) for along in (-1, 0, 1)]
    inside = share > 0
    open_ways = {}
    for down, along in ways:
        beside = np.roll(inside, -down, 0) | np.roll(inside, -along, 1) if down and along else inside
        open_ways[down, along] = inside & beside
    for _ in range(steps):
        heat[y, x] += 1
        heat = sum(np.roll(heat, (-down, -along), (0, 1)) * share * open_ways[down, along] for down, along in ways)
    return heat


@both_forms
def test_touching_crystals_do_not_disturb_each_other(flow_targets: Form) -> None:
    labels = mosaic(60, 60, 5, seed=2)
    together = flow_targets(labels)
    for number in range(1, 6):
        alone = flow_targets(np.where(labels == number, labels, 0).astype(np.int32))
        assert_same(flow_targets, together[:, labels == number], alone[:, labels == number])


@both_forms
def test_every_piece_of_a_label_has_its_own_centre(flow_targets: Form) -> None:
    labels = np.zeros((40, 80), np.int32)
    labels[5:35, 5:35] = labels[5:35, 45:75] = 7
    flow = flow_targets(labels)
    assert_same(flow_targets, flow[:, 5:35, 5:35], flow[:, 5:35, 45:75])
    assert np.hypot(*flow)[labels > 0].mean() > 0.99


@both_forms
def test_a_crumb_of_a_crystal_has_no_flow(flow_targets: Form) -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:35, 5:35] = labels[10:14, 45:50] = 7
    flow = flow_targets(labels)
    assert not flow[:, 10:14, 45:50].any()
    assert np.hypot(*flow)[5:35, 5:35].mean() > 0.99


@both_forms
def test_heat_does_not_pass_between_two_pixels_of_other_crystals(flow_targets: Form) -> None:
    labels = np.full((20, 20), 2, np.int32)
    labels[:10, :10] = labels[10:, 10:] = 1
    flow = flow_targets(labels)
    y, x = np.mgrid[:10, :10] - 4.5
    inward = -np.stack([y, x]) / np.hypot(y, x)
    assert angles(flow[:, :10, :10], inward, np.hypot(y, x) > 2).max() < 30
    assert_same(flow_targets, flow[:, :10, :10], flow[:, 10:, 10:])


def test_neither_threads_nor_numbering_matter() -> None:
    labels = mosaic(80, 80, 9, seed=4)
    flow = _targets.flow_targets(labels)
    np.testing.assert_array_equal(_targets.flow_targets(labels * 100_000_000 // 1, threads=2), flow)


@pytest.mark.parametrize("on_device", ON_DEVICES.values(), ids=ON_DEVICES)
@pytest.mark.parametrize("labels", [mosaic(120, 90, 6, seed=5), meander()])
@pytest.mark.parametrize("exact_length", [1000, 40])
def test_flows_on_a_device_are_those_of_the_host(on_device: Form, labels: Labels, exact_length: int) -> None:
    expected = _targets.flow_targets(labels, exact_length=exact_length)
    np.testing.assert_allclose(on_device(labels, exact_length=exact_length), expected, atol=1e-5)


@pytest.mark.parametrize("on_device", ON_DEVICES.values(), ids=ON_DEVICES)
def test_flows_on_a_device_are_by_definition_where_pixels_touch_at_corners(on_device: Form) -> None:
    labels = speckled(130, 90, np.random.default_rng(0))
    pieces = _targets.pieces_of(labels, 1000)
    (piece,) = pieces.chosen
    share = np.pad(pieces.numbers == piece, 1) / 9.0
    assert len(_diffusion.pinches_of(share)) > 100
    heat = by_definition(share, *pieces.centres[piece] + 1, _diffusion.steps_of(pieces.measures[piece]))
    ways = np.stack(np.gradient(heat)) * (share > 0)
    expected = (ways / (np.hypot(*ways) + _diffusion.SMALLEST))[:, 1:-1, 1:-1]
    np.testing.assert_allclose(on_device(labels), expected, atol=1e-5)


@both_forms
def test_a_crystal_of_one_pixel_has_no_flow(flow_targets: Form) -> None:
    labels = np.zeros((9, 12), np.int32)
    labels[0, 0] = labels[8, 11] = 1
    labels[4, 5:7] = 2
    flow = flow_targets(labels)
    np.testing.assert_array_equal(flow[:, 4, 5:7], [[0, 0], [1, -1]])
    assert np.abs(flow).sum() == 2


@both_forms
def test_an_empty_label_map_has_no_flow(flow_targets: Form) -> None:
    assert not flow_targets(np.zeros((20, 30), np.int32)).any()


def test_attention_maps_sort_crystals_by_length() -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[:60, :4] = 900  # 60 % of the side
    labels[:50, 10:14] = 3  # exactly 50 %: the second map
    labels[90:94, 20:50] = 4  # 30 %
    labels[50:55, 60:85] = 5  # exactly 25 %: the third
    labels[70:75, 60:65] = 6  # 5 %
    maps = _targets.attention_targets(labels, (1, 0.5, 0.25, 0.125), side=100)
    expected = [[900], [3, 4], [5], [6], [0]]
    assert maps.shape == (5, 100, 100)
    for one, numbers in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(one, np.isin(labels, numbers))


def test_a_crystal_above_the_first_threshold_is_in_the_first_map() -> None:
    maps = _targets.attention_targets(np.ones((100, 100), np.int32), (0.5, 0.25), side=100)
    assert maps[0].all()
    assert not maps[1:].any()
