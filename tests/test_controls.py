from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from skimage.draw import disk

from crystalbench.data._dataset import Dataset, open_dataset
from crystalbench.evaluation import evaluate
from crystalbench.registry import find_method, find_methods
from crystalbench.segmenter import Segmenter

from crystalbench.adapters import _foreground  # isort: skip

RESIN, GRAIN = 40, 150
TINY = [(1, 1), (1, 7), (9, 1), (2, 3)]


@dataclass
class Training:
    folder: Path
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    steps: list[tuple[int, int]] = field(default_factory=list)

    def report(self, step: int, total: int, **scalars: float) -> None:
        self.steps.append((step, total))

    def initial_weights(self, origin: str) -> None:
        raise AssertionError(f"a control has no weights, {origin} or other")

    def warn(self, message: str) -> None:
        raise AssertionError(message)


def build(name: str) -> Segmenter:
    method = find_method(name)
    return method.build(method.preset("quick"))


def polycrystal(rng: np.random.Generator, side: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A disk of ``count`` touching crystals on resin, and its label map."""
    rows, columns = disk((side / 2, side / 2), 0.45 * side, shape=(side, side))
    chosen = rng.choice(len(rows), count, replace=False)
    distances = (rows[:, None] - rows[chosen]) ** 2 + (columns[:, None] - columns[chosen]) ** 2
    labels = np.zeros((side, side), np.int32)
    labels[rows, columns] = distances.argmin(axis=1) + 1
    shades = np.concatenate([[RESIN], rng.integers(GRAIN - 10, GRAIN + 10, count)])
    grey = shades[labels] + rng.normal(0, 2, labels.shape)
    return np.repeat(grey[..., None], 3, axis=2).clip(0, 255).astype(np.uint8), labels


def write_dataset(folder: Path, counts: list[int], side: int = 96) -> Dataset:
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index, count in enumerate(counts):
        image, labels = polycrystal(rng, side, count)
        PillowImage.fromarray(image).save(folder / "images" / f"{index}.png")
        PillowImage.fromarray(labels.astype(np.uint16)).save(folder / "labels" / f"{index}.png")
    return open_dataset(folder)


def trained_voronoi(dataset: Dataset, folder: Path, seed: int = 0) -> Segmenter:
    voronoi = build("voronoi")
    voronoi.fit("count", dataset.samples, [], Training(folder, seed))
    voronoi.load({"count": folder / "checkpoint.safetensors"}, "cpu")
    return voronoi


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "set", [3, 4, 9])


def test_controls_say_so_and_watershed_is_none() -> None:
    controls = {name for name, method in find_methods().items() if method.info.control}
    assert controls == {"truth", "empty", "voronoi"}


def test_truth_scores_one(dataset: Dataset) -> None:
    for sample in dataset.samples:
        scores = evaluate(sample.label, build("truth").predict_sample(sample))
        assert (scores.pq, scores.aji, scores.acs_error) == (1, 1, 0)


def test_empty_scores_zero(dataset: Dataset) -> None:
    for sample in dataset.samples:
        prediction = build("empty").predict_sample(sample)
        assert prediction.dtype == np.int32
        assert evaluate(sample.label, prediction).pq == 0


def test_voronoi_draws_the_mean_count_of_training(dataset: Dataset, tmp_path: Path) -> None:
    voronoi = trained_voronoi(dataset, tmp_path / "training")
    for sample in dataset.samples:
        labels = voronoi.predict_sample(sample)
        assert labels.dtype == np.int32
        assert np.unique(labels).tolist() == [0, 1, 2, 3, 4, 5]


def test_voronoi_fills_the_foreground_and_nothing_else(dataset: Dataset, tmp_path: Path) -> None:
    voronoi = trained_voronoi(dataset, tmp_path / "training")
    for sample in dataset.samples:
        assert np.array_equal(voronoi.predict_sample(sample) > 0, _foreground.estimate_foreground(sample.image))


def test_voronoi_cells_belong_to_the_nearest_seed() -> None:
    from crystalbench.adapters.voronoi import voronoi_labels

    labels = voronoi_labels(np.ones((1, 9), bool), 9, np.random.default_rng(0))
    assert sorted(labels.ravel()) == list(range(1, 10))


def test_voronoi_depends_on_seed_and_image_alone(dataset: Dataset, tmp_path: Path) -> None:
    first, second = (sample.image for sample in dataset.samples[:2])
    voronoi = trained_voronoi(dataset, tmp_path / "a")
    expected = voronoi.predict(first)
    voronoi.predict(second)
    again = trained_voronoi(dataset, tmp_path / "b").predict(np.asfortranarray(first))
    other = trained_voronoi(dataset, tmp_path / "c", seed=1).predict(first)
    assert np.array_equal(again, expected)
    assert np.array_equal(voronoi.predict(first), expected)
    assert not np.array_equal(other, expected)


def test_voronoi_trained_on_nothing_but_background_draws_one_cell(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", [1])
    PillowImage.fromarray(np.zeros((96, 96), np.uint8)).save(tmp_path / "set" / "labels" / "0.png")
    labels = trained_voronoi(dataset, tmp_path / "training").predict(dataset.samples[0].image)
    assert np.unique(labels).tolist() == [0, 1]


@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("value", [0, 7, 255])
def test_tiny_and_constant_images(dataset: Dataset, tmp_path: Path, shape: tuple[int, int], value: int) -> None:
    image = np.full((*shape, 3), value, np.uint8)
    voronoi = trained_voronoi(dataset, tmp_path / "training").predict(image)
    assert voronoi.shape == build("empty").predict(image).shape == shape
    assert voronoi.max() == (min(5, image[..., 0].size) if value else 0)


def test_foreground_is_the_grain_on_resin() -> None:
    image, labels = polycrystal(np.random.default_rng(1), 200, 12)
    assert evaluate((labels > 0).astype(int), _foreground.estimate_foreground(image).astype(int)).sq > 0.97


def test_foreground_fills_pores() -> None:
    image, _ = polycrystal(np.random.default_rng(1), 200, 12)
    image[disk((100, 90), 8)] = RESIN
    image[disk((100, 120), 3)] = 0
    assert _foreground.estimate_foreground(image)[80:120, 80:130].all()


def test_foreground_leaves_out_what_is_masked() -> None:
    image, _ = polycrystal(np.random.default_rng(1), 200, 12)
    image[:, :100] = 0
    foreground = _foreground.estimate_foreground(image)
    assert not foreground[:, :100].any()
    assert foreground[60:140, 100:160].all()


def test_foreground_is_everything_without_resin() -> None:
    rng = np.random.default_rng(2)
    _, labels = polycrystal(rng, 200, 12)
    shades = rng.integers(60, 240, 13)
    etched = np.repeat(shades[labels][..., None], 3, axis=2).astype(np.uint8)
    etched[labels == 0] = etched[100, 100]
    etched[::40] = 10
    etched[:, ::40] = 10
    assert _foreground.estimate_foreground(etched).all()


def test_foreground_of_a_black_image_is_empty() -> None:
    assert not _foreground.estimate_foreground(np.zeros((50, 60, 3), np.uint8)).any()
