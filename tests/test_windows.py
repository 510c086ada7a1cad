from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import measure

import crystalbench.registry  # noqa: F401  (makes crystalbench.adapters importable)
from crystalbench.adapters import _windows
from crystalbench.data import find_dataset


def disc(shape: tuple[int, int], y: int, x: int, radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def cut_up(label: NDArray[np.int32], side: int, stride: int) -> list[tuple[_windows.Window, NDArray[np.int32]]]:
    """Return what perfect predictions of all windows would be, numbered anew in each."""
    found = []
    for window in _windows.windows(label.shape, side, stride):
        _, numbers = np.unique(np.append(0, label[window]), return_inverse=True)
        found.append((window, numbers[1:].reshape(label[window].shape).astype(np.int32)))
    return found


def partition(label: NDArray[np.int32]) -> set[bytes]:
    return {np.packbits(label == number).tobytes() for number in np.unique(label) if number}


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 64), (40, 200), (300, 161)])
@pytest.mark.parametrize("stride", [32, 64])
def test_windows_cover_the_image_and_lie_inside(shape: tuple[int, int], stride: int) -> None:
    covered = np.zeros(shape, bool)
    for rows, columns in _windows.windows(shape, 64, stride):
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(64, shape[0]), min(64, shape[1]))
        covered[rows, columns] = True
    assert covered.all()


def test_the_last_window_is_flush_with_the_border_and_none_is_twice_there() -> None:
    rows = [rows.start for rows, _ in _windows.windows((200, 10), 64, 32)]
    assert rows == [0, 32, 64, 96, 128, 136]
    assert [rows.start for rows, _ in _windows.windows((128, 10), 64, 32)] == [0, 32, 64]


def test_a_window_of_a_small_image_is_padded_with_black() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    (window,) = _windows.windows((10, 20), 32, 16)
    padded = _windows.cut(image, window, 32)
    assert padded.shape == (32, 32, 3)
    assert (padded[:10, :20] == 200).all()
    assert padded.sum() == image.sum()


@pytest.mark.parametrize(("side", "stride"), [(64, 32), (100, 50), (100, 80)])
def test_perfect_windows_join_to_the_whole(side: int, stride: int) -> None:
    for sample in find_dataset("demo").samples[:6]:
        # A crystal in several pieces comes apart where no two windows share a piece.
        label = measure.label(sample.label, connectivity=1).astype(np.int32)
        assert partition(_windows.join(cut_up(label, side, stride), label.shape)) == partition(label)


def test_a_crystal_over_many_windows_stays_one() -> None:
    label = np.where(disc((300, 400), 150, 200, 140), 7, 0).astype(np.int32)
    joined = _windows.join(cut_up(label, 64, 32), label.shape)
    np.testing.assert_array_equal(joined, label > 0)


def test_instances_that_agree_by_half_or_less_stay_apart_and_the_earlier_keeps_its_pixels() -> None:
    first, second = (slice(0, 10), slice(0, 60)), (slice(0, 10), slice(20, 80))
    left, right = np.zeros((10, 60), np.int32), np.zeros((10, 60), np.int32)
    left[:, 20:50] = 1
    # In what both see, columns 20 to 59: 20..49 and 35..59, 15 columns in common of 40.
    right[:, 15:55] = 1
    joined = _windows.join([(first, left), (second, right)], (10, 80))
    assert (joined[:, 20:50] == 1).all()
    assert (joined[:, 50:75] == 2).all()
    right[:, :15] = 1
    # Now 20..49 and 20..59: 30 columns of 40.
    assert set(np.unique(_windows.join([(first, left), (second, right)], (10, 80)))) == {0, 1}


def test_what_earlier_instances_cover_leaves_no_splinters() -> None:
    whole = (slice(0, 20), slice(0, 20))
    first, second = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    first[2:18, 2:18] = 1
    second[1:10, 1:10] = 1
    second[10:18, 1:18] = 2
    joined = _windows.join([(whole, first), (whole, second)], (20, 20))
    np.testing.assert_array_equal(joined, first)


def test_numbers_are_without_gaps_and_nothing_is_an_empty_map() -> None:
    label = np.zeros((50, 90), np.int32)
    assert not _windows.join(cut_up(label, 32, 16), label.shape).any()
    label[5:9, 5:9], label[30:40, 60:80] = 40, 9
    joined = _windows.join(cut_up(label, 32, 16), label.shape)
    assert (joined.dtype, sorted(np.unique(joined))) == (np.int32, [0, 1, 2])
    for min_size, kept in ((16, label > 0), (17, label == 9), (200, label == 9), (201, label < 0)):
        np.testing.assert_array_equal(_windows.join(cut_up(label, 32, 16), label.shape, min_size) > 0, kept)


@pytest.mark.parametrize(("side", "count"), [(512, 49), (64, 3136)])
def test_a_large_micrograph_takes_seconds(side: int, count: int) -> None:
    tiles = np.arange(1, 530).reshape(23, 23)
    label = np.kron(tiles, np.ones((79, 79)))[:1800, :1800].astype(np.int32)
    found = cut_up(label, side, side // 2)
    assert len(found) == count
    start = time.process_time()
    joined = _windows.join(found, label.shape)
    assert time.process_time() - start < 5
    assert partition(joined) == partition(label)
