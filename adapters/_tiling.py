"""A network over a micrograph of any size: one pass where the image fits, else overlapping tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import torch
from cellpose import transforms
from numpy.typing import NDArray

from crystalbench.segmenter import Image

from . import _augmentation
from ._flow import Tiles

Field = NDArray[np.float32]
"""C x H x W float32, what a network says about each pixel."""


_Pixels = TypeVar("_Pixels", NDArray[np.uint8], NDArray[np.float32])


@dataclass(frozen=True)
class TiledNetwork:
    """A network and how images are cut for it.

    ``network`` takes B x 3 x ``side`` x ``side`` float32 and returns B x C x ``side`` x ``side``, or a tuple
    that begins with it. ``overlap`` is the share of a tile that neighbours have in common.
    """

    network: torch.nn.Module
    side: int
    overlap: float
    batch_size: int
    device: str

    def at_scale(self, image: Image, factor: float) -> Field:
        """Resize ``image`` (H x W x 3) by ``factor``, predict, and resize the result back to C x H x W."""
        height, width = image.shape[:2]
        scaled = resize(image, *scaled_shape((height, width), factor), cv2.INTER_AREA)
        field = self.predict(scaled).transpose(1, 2, 0)
        return np.ascontiguousarray(resize(field, height, width).transpose(2, 0, 1))

    def predict(self, image: Image) -> Field:
        """Predict C x H x W for ``image`` (H x W x 3) as it is; one pass where it fits into the input."""
        height, width = image.shape[:2]
        missing = [(0, max(0, self.side - size)) for size in (height, width)]
        padded = _augmentation.normalize(np.pad(image, [*missing, (0, 0)]))
        tiles, rows, columns, *shape = transforms.make_tiles(padded, bsize=self.side, tile_overlap=self.overlap)
        predicted = self._run(tiles.reshape(-1, *tiles.shape[2:]))
        joined = average_tiles(predicted, rows, columns, (shape[0], shape[1]))
        return joined[:, :height, :width]

    def _run(self, tiles: Field) -> Field:
        with torch.inference_mode():
            batches = torch.split(torch.from_numpy(tiles), self.batch_size)
            return np.concatenate([self._forward(batch) for batch in batches])

    def _forward(self, batch: torch.Tensor) -> Field:
        result = self.network(batch.to(self.device, memory_format=torch.channels_last))
        result = result[0] if isinstance(result, tuple) else result
        return np.asarray(result.float().cpu().numpy())


def tiled(network: torch.nn.Module, side: int, tiles: Tiles, device: str) -> TiledNetwork:
    """Make ``network`` ready to predict on ``device``."""
    ready: Any = network.eval().to(device)
    return TiledNetwork(ready.to(memory_format=torch.channels_last), side, tiles.tile_overlap, tiles.batch_size, device)


def scaled_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return height and width of an image after resizing by ``factor``, at least 1 px each."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize(pixels: _Pixels, height: int, width: int, shrinking: int = cv2.INTER_LINEAR) -> _Pixels:
    """Resize H x W x C bilinearly, or with OpenCV's method ``shrinking`` where it gets smaller."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    method = shrinking if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    return cast(_Pixels, resized.reshape(height, width, -1))


def taper(side: int) -> NDArray[np.float64]:
    """Return the weights of the pixels of a tile: 1 inside, falling off as a sigmoid towards the border.

    That of ``cellpose.transforms.average_tiles``, which for tiles under 224 px takes the flat middle of the
    mask of 224 px; here the border shrinks with the tile.
    """
    unit = min(1.0, side / 224)
    distance = np.abs(np.arange(side) - (side - 1) / 2)
    profile = 1 / (1 + np.exp((distance - (side / 2 - 20 * unit)) / (7.5 * unit)))
    return np.asarray(np.outer(profile, profile))


def average_tiles(
    tiles: Field, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]], shape: tuple[int, int]
) -> Field:
    """Join predictions of overlapping tiles by their tapered average.

    Parameters
    ----------
    tiles
        T x C x S x S.
    rows, columns
        First and last row (column) of each tile, as ``cellpose.transforms.make_tiles`` returns them.
    shape
        Height and width of the whole.

    Returns
    -------
    Field
        C x H x W float32.
    """
    if len(tiles) == 1:
        return np.asarray(tiles[0])
    weights = taper(tiles.shape[-1])
    total = np.zeros((tiles.shape[1], *shape), np.float64)
    weight = np.zeros(shape, np.float64)
    for tile, row, column in zip(tiles, rows, columns, strict=True):
        window = (slice(*row), slice(*column))
        total[:, *window] += tile * weights
        weight[window] += weights
    joined: Field = (total / weight).astype(np.float32)
    return joined
