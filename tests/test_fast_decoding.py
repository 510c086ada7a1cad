"""Cellpose's masks from the fast backend, and what it must do beyond."""

from __future__ import annotations

import cv2
import numba
import numpy as np
import pytest
from test_flow import LENIENT, LIBRARY, discs, truth_field
from test_queries import mosaic

from crystalbench import evaluate
from crystalbench.adapters import _flow

pytest.importorskip("torch")
pytest.importorskip("cellpose")

from crystalbench.adapters import _decoding, _device_decoding, _fast_decoding


def noisy(field: np.ndarray, amount: float) -> np.ndarray:
    """Disturb a field as networks do: smoothly, and with a flow that is too short."""
    noise = np.random.default_rng(1).normal(size=(2, *field.shape[1:])).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(part, (0, 0), 3) for part in noise])
    flow = 0.7 * field[:2] + amount * smooth / smooth.std()
    return np.concatenate([flow, field[2:]])


@pytest.mark.parametrize("parameters", [LIBRARY, LENIENT])
@pytest.mark.parametrize("amount", [0.0, 1.0])
def test_masks_are_those_of_cellpose(parameters: _flow.FlowDecode, amount: float) -> None:
    field = noisy(truth_field(mosaic(180, 210, 20)), amount)
    reference = _decoding.decode_reference(field, parameters, "cpu")
    for decode in (_fast_decoding.decode_fast, _device_decoding.decode_on_device):
        assert evaluate(reference, decode(field, parameters, "cpu")).pq >= 0.999


@pytest.mark.parametrize("amount", [2.0, 4.0])
def test_both_kinds_of_it_do_the_same_where_paths_part(amount: float) -> None:
    field = noisy(truth_field(mosaic(150, 130, 30)), amount)
    fast, device = (
        decode(field, LENIENT, "cpu") for decode in (_fast_decoding.decode_fast, _device_decoding.decode_on_device)
    )
    assert evaluate(fast, device).pq >= 0.999
    assert evaluate(_decoding.decode_reference(field, LENIENT, "cpu"), fast).pq >= 0.99


def test_masks_are_those_of_cellpose_where_the_flow_leads_nowhere() -> None:
    field = noisy(truth_field(mosaic(150, 130, 30)), 20.0)
    reference = _decoding.decode_reference(field, LENIENT, "cpu")
    assert reference.max() > 30
    for decode in (_fast_decoding.decode_fast, _device_decoding.decode_on_device):
        assert evaluate(reference, decode(field, LENIENT, "cpu")).pq == 1


def test_not_all_walk_where_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    field = noisy(truth_field(mosaic(150, 130, 30)), 20.0)
    walked = _fast_decoding.decode_fast(field, LENIENT)
    monkeypatch.setattr(_fast_decoding, "MOST_WALKED", 150 * 130 * 256 - 1)
    joined = _fast_decoding.decode_fast(field, LENIENT)
    assert (walked != joined).any()
    assert evaluate(joined, _device_decoding.decode_on_device(field, LENIENT, "cpu")).pq >= 0.99


def test_labels_do_not_depend_on_the_number_of_threads() -> None:
    field = noisy(truth_field(mosaic(150, 130, 30)), 2.0)
    before = numba.get_num_threads()
    found = []
    for threads in (1, before):
        numba.set_num_threads(threads)
        found.append(_fast_decoding.decode_fast(field, LIBRARY))
    numba.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_a_flow_without_sense_comes_to_an_end() -> None:
    field = np.random.default_rng(0).normal(0, 20, (3, 200, 200)).astype(np.float32)
    labels = _fast_decoding.decode_fast(field, LENIENT)
    assert labels.shape == (200, 200)
    assert sorted(np.unique(labels)) == list(range(labels.max() + 1))


def test_a_large_crystal_is_one() -> None:
    labels = discs((450, 450, 430), shape=(900, 900))
    away = np.stack(np.nonzero(labels)) - 450
    field = np.zeros((3, 900, 900), np.float32)
    field[2] = np.where(labels, 6, -6)
    field[:2, labels > 0] = -5 * away / np.maximum(np.hypot(*away), 1)
    np.testing.assert_array_equal(_fast_decoding.decode_fast(field, LENIENT), labels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_gives_no_numbers_is_told_of(value: float) -> None:
    field = truth_field(discs((20, 20, 10)))
    field[0, 20, 20] = value
    for decode in (_fast_decoding.decode_fast, _device_decoding.decode_on_device):
        with pytest.raises(ValueError, match="not finite"):
            decode(field, LIBRARY, "cpu")


def test_holes_are_those_that_cellpose_fills() -> None:
    labels = discs((30, 30, 25), (30, 30, 14), (30, 70, 9))
    labels[labels == 2] = 0
    labels[26:34, 26:34] = 2
    labels[30, 70] = 0
    labels[20, 12] = 0
    reference = _decoding.clean(labels, 1)
    filled = labels.copy()
    _fast_decoding._fill_holes(filled)
    assert evaluate(reference, filled).pq == 1
    assert (filled[30, 30], filled[30, 70], filled[20, 12], filled[30, 40]) == (2, 3, 1, 1)


def test_a_gap_between_crystals_is_no_hole() -> None:
    labels = np.repeat(np.repeat([[1, 1, 2], [1, 0, 2], [3, 3, 2]], 6, axis=0), 6, axis=1).astype(np.int32)
    filled = labels.copy()
    _fast_decoding._fill_holes(filled)
    np.testing.assert_array_equal(filled, labels)
