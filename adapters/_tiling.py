"""A network over a micrograph of any size: the overlapping tiles of all its scales, in common batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from crystalbench.segmenter import Image

from ._flow import Tiles

PIXELS_AT_ONCE = 2 * 224**2
"""Most pixels of a batch on a CPU. What a wide network makes of more of them does not stay in its caches."""


@dataclass(frozen=True)
class TiledNetwork:
    """A network and how images are cut for it.

    ``network`` takes B x 3 x ``side`` x ``side`` float32 and returns B x C x ``side`` x ``side``, or a tuple
    that begins with it. ``overlap`` is the least share of a tile that neighbours have in common.
    """

    network: torch.nn.Module
    side: int
    overlap: float
    batch_size: int
    device: str

    @torch.inference_mode()
    def at_scales(self, image: Image, factors: Sequence[float]) -> Tensor:
        """Predict an image (H x W x 3) resized by each of N factors.

        Returns
        -------
        Tensor
            N x C x H x W float32 on the device: each prediction, brought back to the image's resolution.
        """
        height, width = image.shape[:2]
        views = [self._view(image, factor) for factor in factors]
        tiles = [view.tiles() for view in views]
        batches = torch.split(torch.cat(tiles), self.tiles_at_once)
        predicted = torch.cat([self._forward(batch) for batch in batches])
        parts = torch.split(predicted, [len(part) for part in tiles])
        fields = [view.field(part) for view, part in zip(views, parts, strict=True)]
        return torch.stack([resize_field(field, height, width) for field in fields])

    def _view(self, image: Image, factor: float) -> _View:
        shape = scaled_shape((image.shape[0], image.shape[1]), factor)
        missing = [(0, max(0, self.side - size)) for size in shape]
        pixels = np.pad(resize(image, *shape), [*missing, (0, 0)])
        rows, columns = (starts(size, self.side, self.overlap) for size in pixels.shape[:2])
        return _View(torch.from_numpy(pixels).to(self.device), shape, Grid(rows, columns, self.side))

    @property
    def tiles_at_once(self) -> int:
        """Number of tiles in a batch: ``batch_size``, on a CPU at most ``PIXELS_AT_ONCE``."""
        if self.device != "cpu":
            return self.batch_size
        return min(self.batch_size, max(1, PIXELS_AT_ONCE // self.side**2))

    def _forward(self, batch: Tensor) -> Tensor:
        """Predict B x side x side x 3 uint8, normalised as in training."""
        # Seen as B x 3 x side x side, its memory is channels-last, which convolutions are fastest with.
        result = self.network(batch.permute(0, 3, 1, 2).float().sub_(128).div_(64))
        result = result[0] if isinstance(result, tuple) else result
        return torch.as_tensor(result).float().contiguous()


def tiled(network: torch.nn.Module, side: int, tiles: Tiles, device: str) -> TiledNetwork:
    """Make ``network`` ready to predict on ``device``."""
    ready: Any = network.eval().to(device)
    return TiledNetwork(ready.to(memory_format=torch.channels_last), side, tiles.tile_overlap, tiles.batch_size, device)


@dataclass(frozen=True)
class Grid:
    """Square tiles: the first row and the first column of each, and their ``side``."""

    rows: Sequence[int]
    columns: Sequence[int]
    side: int

    def windows(self) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of the tiles, row by row."""
        for top, left in product(self.rows, self.columns):
            yield slice(top, top + self.side), slice(left, left + self.side)

    def join(self, tiles: Tensor) -> Tensor:
        """Join predictions (T x C x side x side, row by row) by their tapered average, C x H x W.

        That of ``cellpose.transforms.average_tiles``. As tiles lie on a grid, the share of a tile in a pixel is
        its share along the rows times that along the columns.
        """
        height, width = (places[-1] + self.side for places in (self.rows, self.columns))
        down, across = (torch.from_numpy(shares(places, self.side)) for places in (self.rows, self.columns))
        whole = tiles.new_zeros((tiles.shape[1], height, width))
        pairs = product(down.to(tiles.device)[..., None], across.to(tiles.device))
        for tile, window, (row_shares, column_shares) in zip(tiles, self.windows(), pairs, strict=True):
            whole[:, *window].addcmul_(tile * row_shares, column_shares)
        return whole


@dataclass(frozen=True)
class _View:
    """An image at one scale: H x W x 3 uint8 with its padding, height and width without, and where its tiles lie."""

    pixels: Tensor
    shape: tuple[int, int]
    grid: Grid

    def tiles(self) -> Tensor:
        return torch.stack([self.pixels[window] for window in self.grid.windows()])

    def field(self, tiles: Tensor) -> Tensor:
        height, width = self.shape
        return self.grid.join(tiles)[:, :height, :width]


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where the tiles begin that cover ``length`` px, as many as ``cellpose.transforms.make_tiles`` takes."""
    count = 1 if length <= side else math.ceil((1 + 2 * overlap) * length / side)
    return [int(start) for start in np.linspace(0, length - side, count)]


def taper(side: int) -> NDArray[np.float64]:
    """Return the weights along a tile: 1 inside, falling off as a sigmoid towards the border.

    Those of ``cellpose.transforms.average_tiles``, which for tiles under 224 px takes the flat middle of the
    mask of 224 px; here the border shrinks with the tile.
    """
    unit = min(1.0, side / 224)
    distance = np.abs(np.arange(side) - (side - 1) / 2)
    return np.asarray(1 / (1 + np.exp((distance - (side / 2 - 20 * unit)) / (7.5 * unit))))


def shares(places: Sequence[int], side: int) -> NDArray[np.float32]:
    """Return how much of each pixel along an axis each tile gives, n x ``side``: their tapers over the sum of all."""
    profile = taper(side)
    total = np.zeros(places[-1] + side)
    for start in places:
        total[start : start + side] += profile
    return np.stack([profile / total[start : start + side] for start in places]).astype(np.float32)


def scaled_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return height and width of an image after resizing by ``factor``, at least 1 px each."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize(image: Image, height: int, width: int) -> Image:
    """Resize an image (H x W x 3): by the mean of areas where it gets smaller, else bilinearly."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method))


def resize_field(field: Tensor, height: int, width: int) -> Tensor:
    """Resize C x H x W bilinearly: on a CPU by OpenCV, which takes a fifth of torch's time."""
    if field.shape[1:] == (height, width):
        return field
    if field.device.type != "cpu":
        return functional.interpolate(field[None], (height, width), mode="bilinear")[0]
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in field.numpy()]
    return torch.from_numpy(np.stack(planes))
