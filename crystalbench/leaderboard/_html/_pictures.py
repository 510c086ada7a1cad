"""Pictures of test images: what was seen, and outlines over it whose colours say what is right and wrong."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import maximum_filter

from crystalbench.data._pictures import fitted
from crystalbench.leaderboard._html._kinds import ErrorKind, ErrorKinds, Labels
from crystalbench.segmenter import Image as Pixels

MEDIA_TYPE = "image/webp"
THUMBNAIL = 192
_LEAST_SIDE = 512
_MOST_SIDE = 1024
_OF_LINE = 380
"""An outline is a pixel wide for each so many pixels of the picture's side, and one that is wrong another pixel."""

COLOURS = {
    ErrorKind.MATCHED: "#56b4e9",
    ErrorKind.MISSED: "#ff9e1b",
    ErrorKind.SPURIOUS: "#ff6fcf",
    ErrorKind.SPLIT: "#35e0a1",
    ErrorKind.MERGED: "#fff04d",
}
TRUTH_COLOUR = "#ffffff"
_DASHES = {ErrorKind.MISSED: (12, 8), ErrorKind.SPURIOUS: (6, 3)}
"""Period of a broken line and how much of it is drawn, in pixels: colour is not all that tells lines apart."""

_TINT = 16
"""Added to a kind: a pixel inside a crystal of that kind, which has a tint of its colour."""


@dataclass(frozen=True)
class Grid:
    """The pixels of a picture whose longer side is what people look at, of an image of any size."""

    height: int
    width: int

    @property
    def side(self) -> int:
        """The longer side of the picture."""
        return min(max(_LEAST_SIDE, self.height, self.width), _MOST_SIDE)

    @property
    def line(self) -> int:
        """The width of an outline."""
        return max(1, round(self.side / _OF_LINE))

    def sampled(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels of an H x W map that the picture's are nearest to."""
        scale = self.side / max(self.height, self.width)
        rows, columns = (_nearest(length, max(1, round(length * scale))) for length in (self.height, self.width))
        return np.ascontiguousarray(image[np.ix_(rows, columns)])


def _nearest(length: int, drawn: int) -> NDArray[np.int64]:
    return (2 * np.arange(drawn) + 1) * length // (2 * drawn)


def photograph(image: Pixels) -> bytes:
    """Return an image (H x W x 3) as a picture."""
    return _lossy(fitted(image, Grid(*image.shape[:2]).side), 85)


def thumbnail(image: Pixels) -> bytes:
    """Return an image (H x W x 3) as a picture of a fixed side."""
    return _lossy(fitted(image, THUMBNAIL), 75)


def truth_outlines(labels: Labels) -> bytes:
    """Return the outlines of a label map as a picture that is transparent elsewhere."""
    return _plain_outlines(labels, TRUTH_COLOUR)


def outlines(labels: Labels) -> bytes:
    """Return the outlines of a prediction of which no truth is known."""
    return _plain_outlines(labels, COLOURS[ErrorKind.MATCHED])


def error_outlines(truth: Labels, prediction: Labels, kinds: ErrorKinds) -> bytes:
    """Return the outlines of a prediction, and of the crystals that it misses, coloured by their kind."""
    grid = Grid(*truth.shape)
    missed, found = grid.sampled(kinds.missed), grid.sampled(kinds.prediction)
    layers = (
        _drawn(grid, grid.sampled(prediction), found),
        _drawn(grid, grid.sampled(truth), missed),
        _tinted(found),
        _tinted(missed),
    )
    drawn = np.zeros_like(found)
    for layer in layers:
        drawn = np.where(drawn, drawn, layer)
    return _lossless(drawn)


def _tinted(kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(kinds > ErrorKind.MATCHED, kinds + np.uint8(_TINT), 0).astype(np.uint8)


def _plain_outlines(labels: Labels, colour: str) -> bytes:
    grid = Grid(*labels.shape)
    sampled = grid.sampled(labels)
    drawn = _drawn(grid, sampled, (sampled > 0).astype(np.uint8))
    return _lossless(drawn, {ErrorKind.MATCHED: colour})


def _drawn(grid: Grid, labels: Labels, kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the kind of each of the picture's pixels that is on an outline, 0 elsewhere."""
    edge = _edges(labels)
    thin, thick = (_grown(edge, grid.line + more) for more in (0, 1))
    drawn = np.where(kinds == ErrorKind.MATCHED, thin, thick)
    for kind, (period, length) in _DASHES.items():
        drawn &= (kinds != kind) | (_diagonal(labels.shape) % period < length)
    return np.where(drawn, kinds, np.uint8(0))


def _edges(labels: Labels) -> NDArray[np.bool_]:
    """Return which pixels have another label above, below, left or right."""
    edge = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def _grown(edge: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return edge if width == 1 else np.asarray(maximum_filter(edge, 2 * width - 1))


def _diagonal(shape: tuple[int, ...]) -> NDArray[np.uint16]:
    rows, columns = (np.arange(length, dtype=np.uint16) for length in shape)
    return np.add.outer(rows, columns)


def _lossy(image: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _lossless(drawn: NDArray[np.uint8], colours: Mapping[ErrorKind, str] = COLOURS) -> bytes:
    """Return kinds, with and without a tint, as their colours, and 0 as nothing at all."""
    palette = np.zeros((2 * _TINT, 4), np.uint8)
    for kind, colour in colours.items():
        palette[[kind, kind + _TINT], :3] = list(bytes.fromhex(colour.removeprefix("#")))
        palette[[kind, kind + _TINT], 3] = 255, 56
    buffer = io.BytesIO()
    Image.fromarray(palette[drawn]).save(buffer, "WEBP", lossless=True, quality=20, method=1)
    return buffer.getvalue()
