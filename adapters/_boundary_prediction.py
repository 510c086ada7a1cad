"""The boundary network over a micrograph of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from crystalbench.segmenter import Image

from . import _augmentation, _hrnet, _weights, _windows


@dataclass(frozen=True)
class WindowPredictor:
    """A network and the windows that it sees; neighbours overlap by half.

    ``side`` is that of a window in pixels, ``batch_size`` the number of windows in one pass.
    """

    network: nn.Module
    side: int
    batch_size: int
    device: str

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """Return the probability of a boundary, H x W float32, of an image (H x W x 3).

        It is the mean over windows, and in each the mean of the network's boundary and of its S.
        """
        shape = (image.shape[0], image.shape[1])
        total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for window, probability in self._predictions(image, _windows.windows(shape, self.side, self.side // 2)):
            height, width = count[window].shape
            total[window] += probability[:height, :width]
            count[window] += 1
        return total / count

    def _predictions(
        self, image: Image, windows: Sequence[_windows.Window]
    ) -> Iterator[tuple[_windows.Window, NDArray[np.float32]]]:
        for start in range(0, len(windows), self.batch_size):
            batch = windows[start : start + self.batch_size]
            pixels = [_augmentation.normalize(_windows.cut(image, window, self.side)) for window in batch]
            yield from zip(batch, self._forward(np.stack(pixels)), strict=True)

    @torch.inference_mode()
    def _forward(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = torch.from_numpy(pixels).to(self.device, memory_format=torch.channels_last)
        boundary, centre = self.network(batch)
        centre = functional.interpolate(centre, boundary.shape[2:], mode="bilinear", align_corners=False)
        return np.asarray(((boundary + centre) / 2)[:, 0].cpu().numpy())


def load_predictor(encoder: str, checkpoint: Path, side: int, batch_size: int, device: str) -> WindowPredictor:
    """Read a trained network's checkpoint and make it ready to predict on ``device``.

    Raises
    ------
    DataError
        Where the file cannot be read.
    ConfigurationError
        Where it belongs to another network.
    """
    network: Any = _weights.load_checkpoint(checkpoint, _hrnet.BoundaryNetwork(encoder)).to(device)
    return WindowPredictor(network.to(memory_format=torch.channels_last), side, batch_size, device)
