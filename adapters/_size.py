"""Cellpose's own size model around a network of any width."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cellpose.models import CellposeModel, SizeModel
from numpy.typing import NDArray
from safetensors.numpy import load_file

from crystalbench.segmenter import Image

from . import _augmentation
from ._tiling import TiledNetwork

STYLES = 256
"""Channels of the style that ``cellpose.core.run_net`` has room for."""

SMALLEST_SIDE = 64
"""Images are padded to this; the library's integer arithmetic would scale smaller ones to nothing."""


class SizeEstimator:
    """The crystal diameter of an image, by :class:`cellpose.models.SizeModel`.

    The regression from the network's style gives a first value; the network is run at that scale and the
    median diameter of what it finds is the estimate (Stringer et al. 2021, Methods).

    Parameters
    ----------
    network
        The trained flow network.
    regression
        Its regression: safetensors of ``A``, ``smean``, ``ymean`` and ``diam_mean``.
    """

    def __init__(self, network: TiledNetwork, regression: Path) -> None:
        parameters = load_file(regression)
        diameter = parameters["diam_mean"].item()
        model = CellposeModel(
            pretrained_model=False, nchan=3, diam_mean=diameter, mkldnn=False, device=torch.device(network.device)
        )
        model.net = LibraryNetwork(network.network)
        model.eval = partial(model.eval, bsize=network.side, max_size_fraction=1.0)
        self.model = SizeModel(model)
        self.batch_size = network.tiles_at_once
        self.model.params = {name: _as_library(name, value) for name, value in parameters.items()}

    def estimate(self, image: Image) -> float:
        """Return the diameter in pixels for an H x W x 3 image."""
        missing = [(0, max(0, SMALLEST_SIDE - size)) for size in image.shape[:2]]
        padded = np.pad(image, [*missing, (0, 0)])
        shifted = _augmentation.normalize(padded).transpose(1, 2, 0) - black()
        with warnings.catch_warnings():
            # Where it finds no crystal the library takes the median of nothing, and then the training's diameter.
            warnings.simplefilter("ignore", RuntimeWarning)
            diameter, _ = self.model.eval(shifted, channel_axis=-1, normalize=False, batch_size=self.batch_size)
        return float(diameter)


class LibraryNetwork(torch.nn.Module):
    """What ``run_net`` expects of a network: zero is black, as it pads with zeros, and 256 styles."""

    mkldnn = False
    nout = 3

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.black = black()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        field, style, _ = self.network(image + self.black)
        return field, torch.nn.functional.pad(style, (0, STYLES - style.shape[1]))


def _as_library(name: str, value: NDArray[np.float64]) -> NDArray[np.float64] | float:
    if name in ("ymean", "diam_mean"):
        return float(value.item())
    return np.pad(value, (0, STYLES - len(value)))


def black() -> float:
    """Return what the network sees of a black pixel."""
    return float(_augmentation.normalize(np.zeros((1, 1, 3), np.uint8)).min())
