"""RTMDet-Ins as mmdetection has it, and what it says of one window.

:func:`crystalbench.adapters._mmcv.provide_nms` must have been called before this is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import mmdet.models  # noqa: F401  registers the network's parts
import mmengine.fileio
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from crystalbench._files import write_atomic
from crystalbench.segmenter import Image

from . import _weights, _windows
from ._rtmdet_decoding import STRIDE, Detections
from ._windows import Window

if TYPE_CHECKING:
    from crystalbench.segmenter import Context

    from .rtmdet import RtmdetTrain

CONFIG = "mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py"
"""The configuration of mmdetection that ours derives from."""

LEVEL_CHANNELS = (256, 512, 1024)
"""Channels of the backbone's three levels at ``widen_factor`` 1."""


def config(widen_factor: float, deepen_factor: float) -> Config:
    """Return mmdetection's configuration with one class, of a width and a depth, that downloads nothing."""
    cfg = get_config(CONFIG)
    levels = [int(channels * widen_factor) for channels in LEVEL_CHANNELS]
    changes = {
        "model.backbone.init_cfg": None,
        "model.backbone.widen_factor": widen_factor,
        "model.backbone.deepen_factor": deepen_factor,
        "model.neck.in_channels": levels,
        "model.neck.out_channels": levels[0],
        "model.bbox_head.in_channels": levels[0],
        "model.bbox_head.feat_channels": levels[0],
        "model.bbox_head.num_classes": 1,
    }
    cfg.merge_from_dict(changes)
    return cfg


def build(parameters: RtmdetTrain) -> nn.Module:
    """Build the network of a training; its weights are not initialised yet."""
    return build_from(config(parameters.widen_factor, parameters.deepen_factor))


def build_from(cfg: Config) -> nn.Module:
    """Build the network of a configuration of mmdetection, with BN in place of SyncBN, which no CPU has."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        return revert_sync_batchnorm(MODELS.build(cfg.model))  # type: ignore[no-any-return]


def initialise(network: nn.Module, init: str, context: Context) -> str:
    """Fill a network with its first weights: random ones, those trained on COCO, or those of a file.

    Returns
    -------
    Where they come from, as :meth:`crystalbench.segmenter.Context.initial_weights` has it.
    """
    # It would log every tensor.
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    network.init_weights()  # type: ignore[operator]
    if init == "random":
        return "random"
    if init != "coco":
        return _weights.start_from(Path(init), network, context)
    try:
        path = download()
    except (OSError, HTTPException) as error:
        context.warn(f"the weights trained on COCO could not be had ({error}); the network starts at random")
        return "random"
    _weights.start_from(path, network, context)
    return "coco"


def download() -> Path:
    """Return the file of the weights that mmdetection publishes for COCO, downloaded once into PyTorch's cache.

    Raises
    ------
    OSError, HTTPException
        Where it cannot be had.
    """
    url: str = get_config(CONFIG, pretrained=True).model_path
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        write_atomic(path, mmengine.fileio.get(url))
    return path


View = tuple[Image, Window, tuple[float, float]]
"""An input of the network (side x side x 3), the part of the image it shows, and input pixels for one of it (y, x)."""


def view_windows(image: Image, side: int) -> Iterator[View]:
    """Yield windows of an image (H x W x 3) that overlap by half."""
    for window in _windows.windows((image.shape[0], image.shape[1]), side, side // 2):
        yield _windows.cut(image, window, side), window, (1.0, 1.0)


def view_resized(image: Image, side: int) -> Iterator[View]:
    """Yield the whole image (H x W x 3), its longer side resized to the input's, black below or on the right."""
    shape = image.shape[:2]
    height, width = (max(1, round(length * side / max(shape))) for length in shape)
    method = cv2.INTER_AREA if max(shape) > side else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=method)
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    yield _windows.cut(resized, whole, side), whole, (height / shape[0], width / shape[1])


VIEWS = {"windows": view_windows, "resized": view_resized}
"""How the network sees an image, by ``infer.mode``."""


def to_input(pixels: Image) -> Tensor:
    """Return what the network's own pre-processing takes: side x side x 3 RGB to 3 x side x side BGR, uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)))


@torch.inference_mode()
def detect(network: nn.Module, view: View, lowest: float) -> Detections:
    """Return everything that the network finds in one view, before non-maximum suppression.

    Parameters
    ----------
    lowest
        Score (0 to 1) up to which nothing is kept. Of each of the three levels at most ``nms_pre`` (1000) are.
    """
    pixels, window, scale = view
    model: Any = network
    data = model.data_preprocessor({"inputs": [to_input(pixels)], "data_samples": None})
    head = model.bbox_head
    scores, distances, kernels, features = head(model.extract_feat(data["inputs"]))
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in scores], device=features.device, with_stride=True
    )
    levels = [
        _best([_flat(scores[i]), _flat(distances[i]), _flat(kernels[i]), priors[i]], head.test_cfg.nms_pre, lowest)
        for i in range(len(priors))
    ]
    score, distance, kernel, prior = (torch.cat(parts) for parts in zip(*levels, strict=True))
    boxes = head.bbox_coder.decode(prior[:, :2], distance, max_shape=pixels.shape[:2])
    masks = DynamicMasks(features[0], kernel, prior, head.dyconv_channels)
    return Detections(window, scale, boxes, score, masks)


def _flat(level: Tensor) -> Tensor:
    """Return the outputs of a level (1 x C x h x w) by position: hw x C."""
    return level[0].flatten(1).T


def _best(level: Sequence[Tensor], most: int, lowest: float) -> list[Tensor]:
    """Return scores, and the rest of a level's outputs, of the positions with the highest scores over ``lowest``."""
    scores = level[0][:, 0].sigmoid()
    order = scores.argsort(descending=True, stable=True)[:most]
    kept = order[scores[order] > lowest]
    return [scores[kept], *(part[kept] for part in level[1:])]


@dataclass(frozen=True)
class DynamicMasks:
    """Mask logits, computed from the kernels of a detection when they are asked for (Lyu et al. 2022, section 3.4).

    Parameters
    ----------
    features
        P x h x w: the prototypes, at stride ``STRIDE`` of the input.
    kernels
        n x K: weights and biases of three 1x1 convolutions a detection.
    priors
        n x 4: position (x, y) of a detection in the input, and the stride of its level, twice.
    channels
        Of the two hidden layers.
    """

    features: Tensor
    kernels: Tensor
    priors: Tensor
    channels: int

    def __call__(self, chosen: Tensor) -> Tensor:
        """Return the mask logits of some detections (m indices): m x h x w."""
        sizes = [self.channels * (len(self.features) + 2), self.channels**2, self.channels, *[self.channels] * 2, 1]
        first, second, third, *biases = torch.split(self.kernels[chosen], sizes, dim=1)
        values = self._inputs(chosen)
        for weight, bias in zip((first, second), biases, strict=False):
            weight = weight.reshape(len(chosen), self.channels, values.shape[1])
            values = torch.baddbmm(bias[..., None], weight, values).relu_()
        logits = torch.baddbmm(biases[2][..., None], third[:, None], values)
        return logits.reshape(-1, *self.features.shape[1:])

    def _inputs(self, chosen: Tensor) -> Tensor:
        """Return the prototypes below the place relative to each detection: m x (2 + P) x hw."""
        height, width = self.features.shape[1:]
        stride = self.features.new_tensor(STRIDE)
        y, x = (torch.arange(size, device=stride.device) * stride for size in (height, width))
        place = torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).flatten(1)
        prior = self.priors[chosen]
        relative = (prior[:, :2, None] - place) / (prior[:, 2, None, None] * STRIDE)
        return torch.cat([relative, self.features.flatten(1).expand(len(chosen), -1, -1)], dim=1)
