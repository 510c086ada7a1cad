"""Control: as many crystals as usual, anywhere. What a method gets that knows nothing but the mean count."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalbench._files import write_atomic
from crystalbench.segmenter import Component, Context, Image, Labels, Parameters, Segmenter

from . import _foreground

if TYPE_CHECKING:
    from crystalbench.data import Sample


def count_crystals(labels: Labels) -> int:
    """Return how many crystals a label map (H x W, 0 = background) holds."""
    return int(np.count_nonzero(np.unique(labels)))


def voronoi_labels(foreground: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Labels:
    """Cut the foreground into the Voronoi cells of ``count`` of its pixels, drawn uniformly.

    Returns
    -------
    Labels
        H x W int32; fewer cells than ``count`` only where the foreground has fewer pixels.
    """
    from scipy.spatial import KDTree

    labels = np.zeros(foreground.shape, np.int32)
    pixels = np.argwhere(foreground)
    if len(pixels):
        seeds = rng.choice(pixels, min(count, len(pixels)), replace=False)
        labels[foreground] = KDTree(seeds).query(pixels)[1] + 1
    return labels


class Voronoi(Segmenter):
    """Uniform random seeds, as many as a training image has crystals on average.

    The draw depends on the training's seed and the image's pixels alone, so the same image gets the same
    labels whatever was predicted before it.
    """

    components = (Component("count", Parameters),)

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Store the mean crystal count of ``train`` and the seed."""
        from safetensors.numpy import save

        counts = []
        for step, sample in enumerate(train, start=1):
            counts.append(count_crystals(sample.label))
            context.report(step, len(train), count=counts[-1])
        state = {"count": np.array(np.mean(counts)), "seed": np.array(context.seed)}
        write_atomic(context.folder / "checkpoint.safetensors", save(state))

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read the count (rounded, at least 1) and the seed."""
        from safetensors.numpy import load_file

        super().load(checkpoints, device)
        state = load_file(checkpoints["count"])
        self.count = max(1, round(float(state["count"])))
        self.seed = int(state["seed"])

    def predict(self, image: Image) -> Labels:
        """Return H x W int32 labels: Voronoi cells of the estimated foreground."""
        rng = np.random.default_rng([self.seed, zlib.crc32(image.tobytes())])
        return voronoi_labels(_foreground.estimate_foreground(image), self.count, rng)
