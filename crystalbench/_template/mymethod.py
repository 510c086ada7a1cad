"""My method: what it does, in one line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalbench import Image, Labels, Parameters, Segmenter

Contrast = NDArray[np.float32]


class MyMethodInfer(Parameters):
    """What changes the raw output: a new value needs another look at the image."""

    sigma: float = Field(1.0, ge=0)


class MyMethodDecode(Parameters):
    """What the raw output is turned into labels with: a search tries many values on one raw output."""

    level: float = 0.0
    min_size: int = Field(20, ge=0)


class MyMethodSegmenter(Segmenter):
    """Connected pieces that are brighter than Otsu's threshold."""

    Infer = MyMethodInfer
    Decode = MyMethodDecode

    def infer(self, image: Image) -> Contrast:
        """Return how much brighter than the threshold each pixel is, H x W."""
        from skimage.filters import gaussian, threshold_otsu

        grey = gaussian(image.mean(axis=2), self.infer_parameters.sigma)
        return np.asarray(grey - threshold_otsu(grey), np.float32)

    def decode(self, raw: Contrast, parameters: MyMethodDecode) -> Labels:
        """Return H x W int32 labels: pieces over ``level`` of at least ``min_size`` pixels, numbered 1 to n."""
        from skimage.measure import label
        from skimage.segmentation import relabel_sequential

        pieces = label(raw > parameters.level, connectivity=1)
        large = np.bincount(pieces.ravel()) >= parameters.min_size
        return np.asarray(relabel_sequential(np.where(large[pieces], pieces, 0))[0], np.int32)
