"""The pictures of a prediction: panels, their size, and outlines that can be seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalbench.data import open_dataset, read_image, write_image, write_labels
from crystalbench.data._pictures import fitted, outlined
from crystalbench.experiment._overlays import PREDICTION_COLOUR, TRUTH_COLOUR, draw_overlay


def draw(folder: Path, label: NDArray[np.int64], prediction: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw one overlay: micrograph, truth, prediction, and a picture of the method's own of another shape."""
    write_image(folder / "images" / "Probe ü.png", np.full((*label.shape, 3), 90, np.uint8))
    write_labels(folder / "labels", "Probe ü", label)
    method: Any = SimpleNamespace(
        info=SimpleNamespace(name="otsu"), pictures=lambda image: {"flow": np.zeros((20, 10, 3), np.uint8)}
    )
    draw_overlay(folder / "overlay.png", method, open_dataset(folder).samples[0], prediction, 0.5)
    return read_image(folder / "overlay.png")


def count(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


@pytest.mark.parametrize(("side", "panel"), [(40, 444), (800, 800), (4000, 1024)])
def test_panels_grow_with_the_image_up_to_a_limit(tmp_path: Path, side: int, panel: int) -> None:
    label = np.kron([[1, 2, 3, 4]], np.ones((side // 2, side // 4), np.int64)).astype(np.int64)
    sheet = draw(tmp_path, label, np.where(label == 4, 0, label))
    height, width = sheet.shape[:2]
    assert width == 4 * (panel + 4)
    # The method's own picture is the tallest; it is as long as the others.
    assert height == panel + 28
    truth, prediction = sheet[:, width // 4 : width // 2], sheet[:, width // 2 : 3 * width // 4]
    # Three boundaries over half a panel, two pixels wide; one less in the prediction, and one of a single pixel.
    assert count(truth, TRUTH_COLOUR) == 3 * 2 * (panel // 2)
    assert count(prediction, PREDICTION_COLOUR) == (2 * 2 + 1) * (panel // 2)
    assert count(truth, PREDICTION_COLOUR) == count(prediction, TRUTH_COLOUR) == 0


def test_outlines_of_labels_in_another_size() -> None:
    image = np.zeros((30, 60, 3), np.uint8)
    label = np.kron([[1, 2]], np.ones((600, 600), np.int64)).astype(np.int64)
    drawn = outlined(image, label, (1, 2, 3)).any(axis=2)
    assert np.flatnonzero(drawn.any(axis=0)).tolist() == [29, 30]
    assert not image.any()
    assert np.array_equal(outlined(image, label[:1, 599:601], (1, 2, 3)).any(axis=2), drawn)


@pytest.mark.parametrize(("shape", "expected"), [((10, 40), (25, 100)), ((400, 100), (100, 25)), ((1, 999), (1, 100))])
def test_fitted_keeps_the_aspect(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(np.zeros((*shape, 3), np.uint8), 100).shape == (*expected, 3)
