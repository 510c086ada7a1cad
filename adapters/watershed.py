"""A classical pipeline as a metallographer would build it: filters, a threshold, a watershed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from crystalbench.segmenter import Image, Labels, Parameters, Segmenter

from . import _foreground

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]


class WatershedInfer(Parameters):
    """Scales of the filters, in pixels, and contrasts in units of CIELAB (lightness 0 to 100).

    Attributes
    ----------
    denoise_px
        Side of the median filter; 1 for none.
    illumination_px
        Standard deviation of the Gaussian that estimates uneven light.
    pore_contrast
        What is compact and darker than its surroundings by this much is a pore and painted over.
    pore_area
        A larger dark spot, in pixels, is a crystal of its own.
    ridge_px
        Standard deviations of the ridge filter for dark lines.
    gradient_px
        Standard deviation of the colour gradient.
    gradient_weight
        Weight of the colour gradient beside the ridges; 0 looks at dark lines alone.
    noise_floor
        The response is divided by this plus its median over the grain, so that texture raises the
        thresholds while a grain without any does not lower them to its noise.
    """

    denoise_px: int = Field(3, ge=1)
    illumination_px: float = Field(40.0, gt=0)
    pore_contrast: float = Field(10.0, gt=0)
    pore_area: int = Field(300, ge=0)
    ridge_px: tuple[PositiveFloat, ...] = Field((1.5, 2.5), min_length=1)
    gradient_px: float = Field(1.5, gt=0)
    gradient_weight: float = Field(0.7, ge=0)
    noise_floor: float = Field(0.6, gt=0)


class WatershedDecode(Parameters):
    """Thresholds.

    Attributes
    ----------
    low, high
        Hysteresis thresholds of the boundary response.
    neck
        Two maxima of the distance to the next boundary are one crystal where the way between them is
        nowhere narrower than this share of the smaller one. A share, so that giants and tiny crystals in one image
        are treated alike.
    min_size
        Crystals of fewer pixels are given to their neighbours.
    """

    low: float = Field(1.0, gt=0)
    high: float = Field(2.0, gt=0)
    neck: float = Field(0.7, gt=0, lt=1)
    min_size: int = Field(30, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> WatershedDecode:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be over high ({self.high})")
        return self


@dataclass(frozen=True)
class Filtered:
    """What the filters leave: the boundary response (H x W float32) and the grain (H x W bool)."""

    response: Plane
    foreground: Mask


class Watershed(Segmenter):
    """Flat field, pores painted over, dark ridges and colour gradient, hysteresis, watershed.

    The ridge filter is that of Sato et al. (1998); the watershed is controlled by markers (Meyer and Beucher 1990),
    the maxima of the distance to the next boundary. Nothing is trained.
    """

    Infer = WatershedInfer
    Decode = WatershedDecode
    infer_parameters: WatershedInfer
    decode_parameters: WatershedDecode

    def infer(self, image: Image) -> Filtered:
        """Filter an image, H x W x 3 uint8."""
        foreground = _foreground.estimate_foreground(image)
        if not foreground.any():
            return Filtered(np.zeros(foreground.shape, np.float32), foreground)
        return Filtered(self._response(image, foreground), foreground)

    def _response(self, image: Image, foreground: Mask) -> Plane:
        scales = self.infer_parameters
        planes = flatten(to_lab(image, scales.denoise_px), foreground, scales.illumination_px)
        pores = find_pores(planes[0], foreground, scales.pore_contrast, scales.pore_area)
        planes = paint_over(planes, pores | ~foreground)
        gradient = scales.gradient_weight * colour_gradient(planes, scales.gradient_px)
        response = np.maximum(ridges(planes[0], scales.ridge_px), gradient)
        adapted: Plane = response / (scales.noise_floor + np.median(response[foreground]))
        return adapted

    def decode(self, raw: Filtered, parameters: WatershedDecode) -> Labels:
        """Return labels, H x W int32, that fill the grain."""
        from skimage.filters import apply_hysteresis_threshold
        from skimage.segmentation import watershed

        edges = apply_hysteresis_threshold(raw.response, parameters.low, parameters.high)
        markers = find_markers(raw.foreground & ~edges, parameters.neck)
        labels = watershed(raw.response, markers, mask=raw.foreground)
        return absorb_small(labels, raw.response, parameters.min_size)


def to_lab(image: Image, denoise_px: int) -> Plane:
    """Denoise and convert to CIELAB: 3 x H x W float32, lightness first."""
    from scipy.ndimage import median_filter
    from skimage.color import rgb2lab

    smooth = median_filter(image, (denoise_px, denoise_px, 1))
    return np.moveaxis(rgb2lab(smooth), 2, 0).astype(np.float32)


def flatten(planes: Plane, foreground: Mask, sigma: float) -> Plane:
    """Subtract from each pixel the Gaussian mean of the grain around it."""
    from scipy.ndimage import gaussian_filter

    weight = np.maximum(gaussian_filter(foreground.astype(np.float32), sigma), 1e-6)
    light = np.stack([gaussian_filter(plane * foreground, sigma) for plane in planes])
    flat: Plane = planes - light / weight
    return flat


def find_pores(lightness: Plane, foreground: Mask, contrast: float, largest: int) -> Mask:
    """Find compact dark spots, H x W bool: an opening keeps them and takes thin lines away."""
    from scipy.ndimage import binary_dilation, binary_opening, grey_closing, label

    surroundings = grey_closing(lightness, int(2 * np.sqrt(largest / np.pi)) + 2)
    dark = foreground & (surroundings - lightness > contrast)
    spots, _ = label(binary_opening(dark, np.ones((3, 3))))
    small = np.bincount(spots.ravel()) <= largest
    small[0] = False
    pores: Mask = binary_dilation(small[spots], iterations=2)
    return pores


def paint_over(planes: Plane, hidden: Mask) -> Plane:
    """Give every hidden pixel the colour of the nearest one that is not, so that its outline is no edge."""
    from scipy.ndimage import distance_transform_edt

    if hidden.all():
        return np.zeros_like(planes)
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    painted: Plane = planes[:, rows, columns]
    return painted


def ridges(lightness: Plane, sigmas: tuple[float, ...]) -> Plane:
    """Return the response to dark lines, H x W float32, the largest over the scales."""
    from skimage.filters import sato

    return np.asarray(sato(lightness, sigmas=sigmas, black_ridges=True, mode="nearest"), np.float32)


def colour_gradient(planes: Plane, sigma: float) -> Plane:
    """Return the length of the gradient over all channels times ``sigma``, H x W float32."""
    from scipy.ndimage import gaussian_gradient_magnitude

    lengths = np.stack([gaussian_gradient_magnitude(plane, sigma) for plane in planes])
    return np.asarray(sigma * np.sqrt(np.square(lengths).sum(axis=0)), np.float32)


def find_markers(inside: Mask, neck: float) -> Labels:
    """Number the maxima of the distance to the next boundary that a narrow neck sets apart.

    These are extended maxima (Soille 2003, section 6.3.5); a share of the distance is a difference of its logarithm.
    """
    from scipy.ndimage import distance_transform_edt, label
    from skimage.morphology import local_maxima, reconstruction

    depth = np.log1p(distance_transform_edt(inside))
    domes = reconstruction(depth + np.log(neck), depth)
    # Beside a frame that is lower, a flat image has a maximum as well.
    framed = np.pad(domes, 1, constant_values=domes.min() - 1)
    peaks = local_maxima(framed)[1:-1, 1:-1]
    return np.asarray(label(peaks & inside, np.ones((3, 3)))[0], np.int32)


def absorb_small(labels: Labels, response: Plane, min_size: int) -> Labels:
    """Give crystals of fewer than ``min_size`` pixels to their neighbours; number the rest 1..n."""
    from skimage.segmentation import relabel_sequential, watershed

    large = np.bincount(labels.ravel()) >= min_size
    grown = watershed(response, np.where(large[labels], labels, 0), mask=labels > 0)
    return np.asarray(relabel_sequential(grown)[0], np.int32)
