"""Training of query models: crops, what a query is compared with, and the fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from . import _augmentation, _query_networks
from ._loop import Crop, Crops, Objective, Training, is_finished, resumed_origin, seed_weights
from ._query_parameters import QueryTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample
    from crystalbench.segmenter import Context

SMALLEST = 16
"""Pixels of the least part of a crystal in a crop that is trained on: a cell of the network's output."""

Pairs = tuple[Tensor, Tensor]
"""Numbers of matched queries, and of the masks that they are matched with (int64)."""


class QueryCrops(Crops):
    """Crops and their label maps."""

    def __init__(self, samples: Sequence[Sample], parameters: QueryTrain) -> None:
        self.parameters = parameters
        self.samples = [self._scaled(sample.image, sample.label) for sample in samples if sample.label.any()]

    def _scaled(
        self, image: NDArray[np.uint8], label: NDArray[np.int32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        if self.parameters.crop_scale == "image":
            return image, label
        shape = _query_networks.fitting_shape(label.shape, self.parameters.input_size)
        # OpenCV resizes no int32; float64 holds every one of them exactly.
        nearest = cv2.resize(label.astype(np.float64), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return _query_networks.resize(image, shape), np.asarray(nearest).astype(np.int32)

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, image: int, rng: np.random.Generator) -> Crop:
        """Return the lit crop, 3 x side x side, and its label map, side x side int32."""
        pixels, label = self.samples[image]
        settings, side = self.parameters, self.parameters.input_size
        warp = _augmentation.random_warp if settings.turn else upright_warp
        matrix = warp(rng, label.shape, side, settings.scale_range)
        crop = _augmentation.warp_image(pixels, matrix, side)
        lit = _augmentation.random_light(rng, crop, settings.brightness, settings.contrast)
        return _augmentation.normalize(lit), _augmentation.warp_labels(label, matrix, side)


def upright_warp(
    rng: np.random.Generator, shape: tuple[int, ...], side: int, scale_range: tuple[float, float]
) -> _augmentation.Matrix:
    """Draw scale and place of a square crop; an image that is smaller lies where prediction puts it, top left.

    Parameters
    ----------
    shape
        Height and width of the image, in pixels.
    side
        Side of the crop, in pixels.
    """
    scale = rng.uniform(*scale_range)
    free = np.maximum(scale * np.array(shape[1::-1]) - side, 0)
    corner = np.floor(rng.random(2) * (free + 1))
    return np.hstack([scale * np.eye(2), ((scale - 1) / 2 - corner)[:, None]])


class Matcher(nn.Module):
    """A matcher of transformers, for images without crystals too, which it refuses."""

    def __init__(self, matcher: nn.Module) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(
        self,
        masks_queries_logits: Tensor,
        class_queries_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
    ) -> list[Pairs]:
        """Return which queries (B x Q x ...) go with which of an image's masks."""
        queries = zip(torch.split(masks_queries_logits, 1), torch.split(class_queries_logits, 1), strict=True)
        labels = zip(mask_labels, class_labels, strict=True)
        return [self._pairs(*query, *label) for query, label in zip(queries, labels, strict=True)]

    def _pairs(self, masks: Tensor, classes: Tensor, mask_labels: Tensor, class_labels: Tensor) -> Pairs:
        if not len(class_labels):
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        (pairs,) = self.matcher(masks, classes, [mask_labels], [class_labels])
        matched: Pairs = pairs
        return matched


class QueryObjective(Objective):
    """A query model and its loss on batches of crops with their label maps.

    Parameters
    ----------
    stride
        Pixels of a crop along a cell of the masks that are compared.
    """

    network: Any

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__(network)
        self.stride = stride

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of crops (B x 3 x side x side) with label maps (B x side x side int32)."""
        masks = [functional.avg_pool2d(instances(label)[:, None], self.stride)[:, 0] for label in targets]
        classes = [torch.zeros(len(mask), dtype=torch.int64, device=images.device) for mask in masks]
        return self.loss(images, masks, classes)

    @abstractmethod
    def loss(self, images: Tensor, masks: list[Tensor], classes: list[Tensor]) -> Tensor:
        """Return the loss; each image has N float32 masks of class 0, the shares of cells that are theirs."""


def instances(label: Tensor) -> Tensor:
    """Return the masks of a label map's crystals, N x H x W float32, without parts of a few pixels."""
    numbers, areas = torch.unique(label, return_counts=True)
    kept = numbers[(numbers > 0) & (areas >= SMALLEST)]
    masks: Tensor = (label == kept[:, None, None]).float()
    return masks


def fit(
    component: str,
    library: _query_networks.Library,
    parameters: QueryTrain,
    train: Sequence[Sample],
    val: Sequence[Sample],
    context: Context,
) -> None:
    """Fine-tune a query model, Neubauer et al. 2024, section IV-B.

    Leaves ``checkpoint.safetensors`` in ``context.folder``. May be killed and called again: it goes on after
    the last saved epoch and ends with bitwise the same weights (on a CPU, with as many threads).

    Raises
    ------
    DataError
        Where no image shows a crystal, or reading ``init`` could run code.
    ConfigurationError
        Where the loss is no longer finite, or ``init`` does not fit.
    """
    if is_finished(context):
        return
    warn_of_crowds(parameters.queries, {"training": train, "validation": val}, context)
    seed_weights(context)
    resumed = resumed_origin(context)
    start = parameters if resumed is None else parameters.model_copy(update={"init": "random"})
    model, origin = library.initial(start, context)
    training = Training(
        component=component,
        objective=library.objective(model, parameters),
        crops=QueryCrops(train, parameters),
        validation=QueryCrops(val, parameters),
        parameters=parameters,
        context=context,
        origin=resumed or origin,
        clip_norm=parameters.clip_norm,
    )
    training.run()


def warn_of_crowds(queries: int, splits: dict[str, Sequence[Sample]], context: Context) -> None:
    """Warn of images with more crystals than there are queries, by split."""
    for split, samples in splits.items():
        counts = [(len(np.unique(sample.label[sample.label > 0])), sample.name) for sample in samples]
        crowded = [count for count in counts if count[0] > queries]
        if crowded:
            most, name = max(crowded)
            context.warn(
                f"{len(crowded)} of {len(samples)} {split} images show more than {queries} crystals, the most that can "
                f"be found in one window; {name} shows {most}"
            )
