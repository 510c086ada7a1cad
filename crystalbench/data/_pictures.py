"""What the pictures for people share: resized images, outlines on them, and captions."""

from __future__ import annotations

from typing import Any

import numpy as np
from anyascii import anyascii
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries


def plain(text: str) -> str:
    """Return ``text`` spelt in ASCII, as the font that Pillow brings to every machine has no other letters."""
    return str(anyascii(text))


def fitted(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return ``image`` (H x W x 3) resized so that its longer side is ``side`` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(image).resize(size, resample))


def outlined(
    image: NDArray[np.uint8], labels: NDArray[np.integer[Any]], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return ``image`` (H x W x 3) with the outline of every crystal, a pixel wide on either side of a boundary.

    Parameters
    ----------
    image
        Already of the size in which it is looked at, so that outlines are neither lost nor fat.
    labels
        Of any other size; they are resized to the image's.
    colour
        Of the outlines.
    """
    drawn = image.copy()
    drawn[find_boundaries(resized(labels, image.shape), mode="inner")] = colour
    return drawn


def resized(labels: NDArray[np.integer[Any]], shape: tuple[int, ...]) -> NDArray[np.integer[Any]]:
    """Return ``labels`` at the height and width of ``shape``: each pixel takes the value at its centre."""
    height, width = shape[:2]
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(labels[np.ix_(rows, columns)])
