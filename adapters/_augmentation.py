"""Random crops: one geometric resampling of image and targets, then brightness and contrast."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
"""2 x 3: where a source pixel (x, y) goes."""


def normalize(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a network sees of an image: H x W x 3 uint8 to 3 x H x W float32, ``(image - 128) / 64``.

    It is the same for every image, so that neither a mask's black pixels nor the choice of a tile changes it,
    and it is near to what ImageNet weights expect (mean 116, deviation 57).
    """
    return (image.transpose(2, 0, 1).astype(np.float32) - 128) / 64


def random_warp(
    rng: np.random.Generator, shape: tuple[int, ...], side: int, scale_range: tuple[float, float]
) -> Matrix:
    """Draw scale, rotation, mirroring and place of a square crop.

    An image that is larger than the crop fills it (but for the corners that rotation opens); a smaller one
    lies anywhere inside it.

    Parameters
    ----------
    shape
        Height and width of the image, in pixels.
    side
        Side of the crop, in pixels.
    """
    scale, angle = rng.uniform(*scale_range), rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    size = np.array(shape[::-1], float)
    centre = (size - 1) / 2 + rng.uniform(-0.5, 0.5, 2) * np.abs(size - side / scale)
    linear = scale * turn @ mirror
    return np.hstack([linear, ((side - 1) / 2 - linear @ centre)[:, None]])


def scale_of(matrix: Matrix) -> float:
    """Return by how much a warp enlarges."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def warp_image(image: NDArray[np.uint8], matrix: Matrix, side: int) -> NDArray[np.uint8]:
    """Resample an H x W x 3 image linearly; black outside."""
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR))


def warp_labels(labels: NDArray[np.int32], matrix: Matrix, side: int) -> NDArray[np.int32]:
    """Resample an H x W label map by its nearest pixels; background outside."""
    # OpenCV warps no int32; float64 holds every one of them exactly.
    warped = cv2.warpAffine(labels.astype(np.float64), matrix, (side, side), flags=cv2.INTER_NEAREST)
    return np.asarray(warped).astype(np.int32)


def warp_flow(
    flow: NDArray[np.float32], foreground: NDArray[np.uint8], matrix: Matrix, side: int
) -> NDArray[np.float32]:
    """Resample foreground (nearest) and flow (linear), and turn the flow with the image.

    Parameters
    ----------
    flow
        2 x H x W (dy, dx), unit length or zero.
    foreground
        H x W, 0 or 1.

    Returns
    -------
    3 x side x side float32: foreground, dy, dx; the flow has unit length inside, and is zero outside.
    """
    inside = cv2.warpAffine(foreground, matrix, (side, side), flags=cv2.INTER_NEAREST).astype(np.float32)
    dy, dx = (cv2.warpAffine(part, matrix, (side, side), flags=cv2.INTER_LINEAR) for part in flow)
    (xx, xy), (yx, yy) = matrix[:, :2].astype(np.float32)
    dx, dy = xx * dx + xy * dy, yx * dx + yy * dy
    inverse = inside / (np.sqrt(dx**2 + dy**2) + np.float32(1e-12))
    return np.stack([inside, dy * inverse, dx * inverse])


def random_light(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    brightness: tuple[float, float],
    contrast: tuple[float, float],
) -> NDArray[np.uint8]:
    """Change contrast c and brightness b at random, ``(1 + c) image + 255 b``; black pixels stay black.

    These are masked, or outside of the image, and are black in prediction too.
    """
    gain, offset = 1 + rng.uniform(*contrast), 255 * rng.uniform(*brightness)
    lit = np.clip(gain * image.astype(np.float32) + offset, 0, 255).astype(np.uint8)
    lit[~image.any(axis=2)] = 0
    return lit
