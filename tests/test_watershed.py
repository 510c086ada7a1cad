from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import disk, line

from crystalbench.evaluation import evaluate
from crystalbench.registry import find_method
from crystalbench.segmenter import Segmenter

from crystalbench.adapters.watershed import (  # isort: skip
    Watershed,
    WatershedDecode,
    WatershedInfer,
    absorb_small,
    find_markers,
    find_pores,
    flatten,
)


def build(**decode: float) -> Segmenter:
    return Watershed(train={}, infer=WatershedInfer(), decode=WatershedDecode(**decode))


def brick_wall(side: int = 192, brick: int = 48) -> NDArray[np.int32]:
    """A label map of touching crystals, in shifted rows."""
    rows, columns = np.mgrid[:side, :side]
    row = rows // brick
    column = (columns + brick // 2 * (row % 2)) // brick
    return np.unique(row * side + column, return_inverse=True)[1].reshape(side, side).astype(np.int32) + 1


def outlined(labels: NDArray[np.int32], shade: int = 170, contrast: int = 60) -> NDArray[np.uint8]:
    """A grey micrograph with a dark line of 2 px between crystals, and noise."""
    edges = (labels != np.roll(labels, 1, 0)) | (labels != np.roll(labels, 1, 1))
    edges[0], edges[:, 0] = edges[1], edges[:, 1]
    edges |= np.roll(edges, 1, 0) | np.roll(edges, 1, 1)
    grey = shade - contrast * edges + np.random.default_rng(0).normal(0, 2, labels.shape)
    return np.repeat(grey[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def coloured(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Crystals of one lightness that differ in hue alone, without any line."""
    palette = np.array([(200, 120, 120), (110, 155, 110), (130, 130, 220)], np.uint8)
    return palette[labels % 3]


def test_finds_crystals_between_dark_lines() -> None:
    labels = brick_wall()
    assert evaluate(labels, build().predict(outlined(labels))).pq > 0.85


def test_finds_crystals_that_differ_in_colour_alone() -> None:
    labels = brick_wall()
    assert evaluate(labels, build().predict(coloured(labels))).pq > 0.85


def test_uneven_light_changes_little() -> None:
    labels = brick_wall()
    light = np.linspace(0.7, 1.2, labels.shape[1])[:, None]
    uneven = (outlined(labels) * light).clip(0, 255).astype(np.uint8)
    assert evaluate(labels, build().predict(uneven)).pq > 0.85


def test_a_gap_in_a_line_is_closed() -> None:
    labels = brick_wall(96, 48)
    image = outlined(labels)
    whole = outlined(np.ones_like(labels))
    image[20:26, 40:56] = whole[20:26, 40:56]
    assert evaluate(labels, build().predict(image)).fn == 0


def test_pores_are_no_crystals() -> None:
    labels = brick_wall(96, 48)
    image = outlined(labels)
    image[disk((24, 24), 4)] = 30
    assert evaluate(labels, build().predict(image)).fp == 0


def test_find_pores_leaves_lines() -> None:
    lightness = np.full((60, 60), 60, np.float32)
    lightness[disk((15, 15), 4)] = 20
    lightness[line(40, 5, 50, 55)] = 20
    pores = find_pores(lightness, np.ones((60, 60), bool), 10, 300)
    assert pores[disk((15, 15), 4)].all()
    assert not pores[30:].any()


def test_flatten_ignores_what_is_outside() -> None:
    planes = np.full((3, 40, 40), 50, np.float32)
    inside = np.zeros((40, 40), bool)
    inside[:, :20] = True
    planes[:, ~inside] = -1000
    assert np.abs(flatten(planes, inside, 5.0)[:, inside]).max() < 1e-3


@pytest.mark.parametrize(("neck", "crystals"), [(0.9, 2), (0.2, 1)])
@pytest.mark.parametrize("scale", [1, 4])
def test_neck_is_a_share_whatever_the_size(neck: float, crystals: int, scale: int) -> None:
    dumbbell = np.zeros((40 * scale, 70 * scale), bool)
    for column in (20, 48):
        dumbbell[disk((20 * scale, column * scale), 16 * scale)] = True
    assert find_markers(dumbbell, neck).max() == crystals


def test_small_crystals_go_to_their_neighbours() -> None:
    labels = np.ones((20, 20), np.int32)
    labels[:, 10:] = 7
    labels[4:6, 4:6] = 3
    absorbed = absorb_small(labels, np.zeros((20, 20), np.float32), 5)
    assert np.array_equal(absorbed, np.where(labels == 7, 2, 1))


def test_decode_is_pure() -> None:
    segmenter = build()
    raw = segmenter.infer(outlined(brick_wall()))
    before = raw.response.copy(), raw.foreground.copy()
    first = segmenter.decode(raw, WatershedDecode())
    segmenter.decode(raw, WatershedDecode(low=5, high=9, neck=0.9, min_size=200))
    assert np.array_equal(segmenter.decode(raw, WatershedDecode()), first)
    assert np.array_equal(raw.response, before[0])
    assert np.array_equal(raw.foreground, before[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 3), (64, 50)])
@pytest.mark.parametrize("value", [7, 255])
def test_a_constant_image_is_one_crystal(shape: tuple[int, int], value: int) -> None:
    labels = build(min_size=1).predict(np.full((*shape, 3), value, np.uint8))
    assert labels.dtype == np.int32
    assert np.array_equal(labels, np.ones(shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (64, 50)])
def test_a_black_image_has_no_crystal(shape: tuple[int, int]) -> None:
    assert not build().predict(np.zeros((*shape, 3), np.uint8)).any()


def test_noise_alone_gives_a_label_map() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    labels = build().predict(image)
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="low"):
        WatershedDecode(low=4, high=2)


def test_presets_are_equal_and_the_search_holds_valid_values() -> None:
    method = find_method("watershed")
    assert method.preset("quick") == method.preset("standard") == method.preset("paper")
    for part in ("infer", "decode"):
        for name, values in getattr(method.config.search, part).items():
            for value in values:
                method.parameters({"train": {}, "infer": {}, "decode": {}, part: {name: value}})
