"""Cellpose (Stringer et al. 2021) and the two variants that the paper sets beside it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crystalbench.segmenter import Component, Context, Image

from . import _flow
from ._parameters import SizeTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample

SMALLEST_FACTOR, LARGEST_FACTOR, LONGEST_SIDE = 0.05, 4.0, 4096


class Cellpose(_flow.FlowSegmenter):
    """Cellpose: estimate the crystal size, resize to that of training, predict, resize back."""

    components = (_flow.CP, Component("size", SizeTrain, requires=("cp",)))

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train the flow network or the size regression."""
        from . import _training

        if component == "size":
            _training.fit_size(self.train["size"], self.train["cp"], train, val, context)
        else:
            super().fit(component, train, val, context)

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read the checkpoints of network and regression."""
        from . import _size

        super().load(checkpoints, device)
        self._size = _size.SizeEstimator(self.cp, checkpoints["size"])

    def infer(self, image: Image) -> _flow.RawField:
        """Return the field at the estimated scale, 3 x H x W."""
        with self.stage("size"):
            diameter = self._size.estimate(image)
        factor = clamp_factor(self.train["cp"].diameter / diameter, max(image.shape[:2]))
        self.details.update(diameter_px=diameter, resize_factor=factor)
        return _flow.as_raw(self.fields(image, [factor])[0])


class CellposeMultiscale(_flow.MultiScaleSegmenter):
    """The scales of SiMA, averaged."""

    class Infer(_flow.MultiScale):
        """Scales and how they are fused."""

        fusion: Literal["average", "maximum"] = "average"

    def infer(self, image: Image) -> _flow.RawField:
        """Return the fused field, 3 x H x W."""
        from . import _fusion

        return _flow.as_raw(_fusion.FUSIONS[self.infer_parameters.fusion](self.scales(image)))


class CellposeNoResize(_flow.FlowSegmenter):
    """One scale, the image's own."""

    def infer(self, image: Image) -> _flow.RawField:
        """Return the field at the image's resolution, 3 x H x W."""
        return _flow.as_raw(self.fields(image, [1.0])[0])


def clamp_factor(factor: float, longer_side: int) -> float:
    """Keep a resize factor, and the side that it leads to, within sane bounds; warn where it was not."""
    highest = min(LARGEST_FACTOR, max(1.0, LONGEST_SIDE / longer_side))
    clamped = min(max(factor, SMALLEST_FACTOR), highest)
    if clamped != factor:
        warnings.warn(f"estimated size asks for a resize factor of {factor:.3g}; {clamped:.3g} is used", stacklevel=2)
    return clamped
