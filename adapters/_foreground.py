"""The grain's foreground from the image alone, for methods that do not learn it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalbench.segmenter import Image

Mask = NDArray[np.bool_]

# A hole of fewer pixels than this share of the image is a pore, not the outside.
SMALLEST_OUTSIDE = 0.005
# Resin: at most this share of the grain's brightness, and a histogram with a gap between the two.
DARKEST_GRAIN = 0.65
MOST_BETWEEN = 0.08
# Erosions (px) that resin survives and a dark boundary line does not.
THINNEST_RESIN = 3


def estimate_foreground(image: Image) -> Mask:
    """Find the grain in a micrograph, without any truth.

    Large areas that are exactly zero have been masked by the data set and are outside. What is left is
    split by Otsu's threshold (Otsu 1979) of the smoothed brightness; the dark class is resin where it is much
    darker, apart in the histogram, and connected to the outside or the frame. An image without resin is
    grain all over. Holes (pores) belong to the grain.

    Parameters
    ----------
    image
        H x W x 3 uint8.

    Returns
    -------
    Mask
        H x W bool, true inside the grain.
    """
    from scipy.ndimage import binary_fill_holes

    masked = _large(~image.any(axis=2), SMALLEST_OUTSIDE)
    resin = _resin(image, ~masked)
    grain = _large(~(masked | resin), SMALLEST_OUTSIDE)
    filled: Mask = binary_fill_holes(grain)
    return filled & ~masked


def _resin(image: Image, inside: Mask) -> Mask:
    """Return the dark pixels of ``inside`` that are resin, if any are."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    brightness = gaussian_filter(image.max(axis=2).astype(np.float32), 1.0)
    values = brightness[inside]
    nothing = np.zeros_like(inside)
    if values.size == 0 or np.ptp(values) == 0:
        return nothing
    threshold = threshold_otsu(values)
    if not _is_bimodal(values, threshold):
        return nothing
    return _outer(inside & (brightness <= threshold), ~inside)


def _is_bimodal(values: NDArray[np.float32], threshold: float) -> bool:
    """Tell resin and grain from a grain of many shades: two classes far apart, little in between."""
    dark, bright = (float(np.median(part)) for part in (values[values <= threshold], values[values > threshold]))
    low, high = dark + (bright - dark) / 3, bright - (bright - dark) / 3
    between = np.mean((values > low) & (values < high))
    return dark < DARKEST_GRAIN * bright and bool(between < MOST_BETWEEN)


def _outer(dark: Mask, outside: Mask) -> Mask:
    """Keep what of ``dark`` is thick, large, and touches the frame or ``outside``: boundaries are thin lines."""
    from scipy.ndimage import binary_dilation, binary_opening, label

    framed = np.pad(dark | outside, THINNEST_RESIN, mode="edge")
    thick = binary_opening(framed, iterations=THINNEST_RESIN)[(slice(THINNEST_RESIN, -THINNEST_RESIN),) * 2]
    components, _ = label(binary_dilation(thick, iterations=THINNEST_RESIN, mask=dark) & dark)
    edge = np.zeros_like(dark)
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    touching = np.unique(components[edge | binary_dilation(outside)])
    return _large(np.isin(components, touching[touching > 0]), SMALLEST_OUTSIDE)


def _large(mask: Mask, share: float) -> Mask:
    """Drop components of fewer pixels than ``share`` of the image."""
    from scipy.ndimage import label

    components, _ = label(mask)
    areas = np.bincount(components.ravel())
    areas[0] = 0
    kept: Mask = (areas >= share * mask.size)[components]
    return kept
