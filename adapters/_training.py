"""The trainings of the flow methods: their crops, targets and losses."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from crystalbench._exceptions import DataError
from crystalbench._files import write_atomic

from . import _augmentation, _device_targets, _loop, _networks, _targets, _tiling, _weights
from ._parameters import AttentionTrain, CpTrain, ScheduleTrain, SizeTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample
    from crystalbench.segmenter import Context

MAX_ENLARGEMENT = 4.0
"""Most that an image of small crystals is enlarged to reach the diameter d."""

MAX_SIDE = 2048
"""Longest side, in pixels, that an image is enlarged to."""


def mean_diameter(labels: NDArray[np.int32]) -> float:
    """Return the mean over crystals of ``2 sqrt(area / pi)``, in pixels."""
    areas = np.unique(labels[labels > 0], return_counts=True)[1]
    return float(np.mean(2 * np.sqrt(areas / np.pi)))


class CpCrops(_loop.Crops):
    """Crops for the flow network: images scaled to one mean crystal diameter, with their flows.

    An image is enlarged at most 4 times, and to at most 2048 px.

    Parameters
    ----------
    folder
        Flows are kept here, so that a resumed training does not compute them again.
    threads, device
        What they are computed with: so many threads, or a GPU.
    """

    def __init__(self, samples: Sequence[Sample], parameters: CpTrain, folder: Path, threads: int, device: str) -> None:
        self.parameters = parameters
        self.images: list[NDArray[np.uint8]] = []
        self.foregrounds: list[NDArray[np.uint8]] = []
        self.flows: list[NDArray[np.float32]] = []
        for sample, label in _with_crystals(samples):
            factor = _scale_to(label, parameters.diameter)
            label = _resize_labels(label, factor)
            self.images.append(_resize_image(sample.image, label))
            self.foregrounds.append((label > 0).astype(np.uint8))
            self.flows.append(_cached_flow(folder / f"{len(self.flows)}.npy", label, threads, device))

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, image: int, rng: np.random.Generator) -> _loop.Crop:
        """Return the lit crop and (foreground, dy, dx)."""
        side, pixels = self.parameters.input_size, self.images[image]
        matrix = _augmentation.random_warp(rng, pixels.shape[:2], side, self.parameters.scale_range)
        target = _augmentation.warp_flow(self.flows[image], self.foregrounds[image], matrix, side)
        return _lit(pixels, matrix, side, self.parameters, rng), target


class AttentionCrops(_loop.Crops):
    """Crops for the attention network: whole images at its input size, with their labels."""

    def __init__(self, samples: Sequence[Sample], parameters: AttentionTrain) -> None:
        self.parameters = parameters
        self.images: list[NDArray[np.uint8]] = []
        self.labels: list[NDArray[np.int32]] = []
        for sample, label in _with_crystals(samples):
            self.labels.append(_resize_labels(label, parameters.input_size / max(label.shape)))
            self.images.append(_resize_image(sample.image, self.labels[-1]))

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, image: int, rng: np.random.Generator) -> _loop.Crop:
        """Return the lit crop and its N + 1 maps; crystal lengths are shares of the crop's side."""
        side, pixels = self.parameters.input_size, self.images[image]
        matrix = _augmentation.random_warp(rng, pixels.shape[:2], side, self.parameters.scale_range)
        labels = _augmentation.warp_labels(self.labels[image], matrix, side)
        target = _targets.attention_targets(labels, self.parameters.thresholds, side)
        return _lit(pixels, matrix, side, self.parameters, rng), target.astype(np.float32)


def _lit(
    image: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    side: int,
    parameters: ScheduleTrain,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    crop = _augmentation.warp_image(image, matrix, side)
    return _augmentation.normalize(_augmentation.random_light(rng, crop, parameters.brightness, parameters.contrast))


def _with_crystals(samples: Sequence[Sample]) -> Iterator[tuple[Sample, NDArray[np.int32]]]:
    """Yield the samples that show crystals, and their labels."""
    for sample in samples:
        label = sample.label
        if label.any():
            yield sample, label


def _scale_to(label: NDArray[np.int32], diameter: float) -> float:
    factor = min(diameter / mean_diameter(label), MAX_ENLARGEMENT)
    return min(factor, max(1.0, MAX_SIDE / max(label.shape)))


def _resize_labels(label: NDArray[np.int32], factor: float) -> NDArray[np.int32]:
    height, width = (max(1, round(side * factor)) for side in label.shape)
    resized = cv2.resize(label.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized).astype(np.int32)


def _resize_image(image: NDArray[np.uint8], label: NDArray[np.int32]) -> NDArray[np.uint8]:
    height, width = label.shape
    return _tiling.resize(image, height, width)


def _cached_flow(path: Path, label: NDArray[np.int32], threads: int, device: str) -> NDArray[np.float32]:
    if not path.is_file():
        buffer = io.BytesIO()
        if device.startswith("cuda"):
            np.save(buffer, _device_targets.flow_targets_on_device(label, device))
        else:
            np.save(buffer, _targets.flow_targets(label, threads=threads))
        write_atomic(path, buffer.getvalue())
    flow: NDArray[np.float32] = np.load(path)
    return flow


def cp_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return Cellpose's loss: half the squared error of 5 x flow, plus the foreground's cross-entropy.

    Parameters
    ----------
    output
        B x 3 x H x W: dy, dx, foreground logit.
    target
        B x 3 x H x W: foreground, dy, dx.
    """
    flow = functional.mse_loss(output[:, :2], 5 * target[:, 1:])
    return flow / 2 + functional.binary_cross_entropy_with_logits(output[:, 2], target[:, 0])


def attention_loss(weights: Sequence[float]) -> _loop.Loss:
    """Return the weighted mean over maps of their binary cross-entropies (section IV-B, SiMA)."""
    shares = torch.tensor(weights, dtype=torch.float32) / sum(weights)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        entropy = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        return (entropy.mean((0, 2, 3)) * shares.to(output.device)).sum()

    return loss


def fit_cp(parameters: CpTrain, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
    """Train the flow network of Neubauer et al. 2024, sections III-A and IV-B ("Cellpose").

    Leaves ``checkpoint.safetensors`` in ``context.folder``. May be killed and called again: it goes on after
    the last saved epoch and ends with bitwise the same weights (on a CPU, with as many threads).

    Raises
    ------
    DataError
        Where no image shows a crystal.
    ConfigurationError
        Where the loss is no longer finite, or ``init`` does not fit.
    """
    if _loop.is_finished(context):
        return
    _loop.seed_weights(context)
    network = _networks.cp_network(parameters.width)
    # The library keeps d among the weights, and its SizeModel reads it there.
    network.diam_mean.data.fill_(parameters.diameter)
    from_file = parameters.init != "random"
    origin = _weights.start_from(Path(parameters.init), network, context) if from_file else "random"
    targets = context.folder / "targets"
    crops = CpCrops(train, parameters, targets / "train", context.threads, context.device)
    validation = CpCrops(val, parameters, targets / "val", context.threads, context.device)
    objective = _loop.Supervised(network, lambda output, target: cp_loss(output[0], target))
    _loop.Training("cp", objective, crops, validation, parameters, context, origin).run()


def fit_attention(parameters: AttentionTrain, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
    """Train the attention network of Neubauer et al. 2024, sections III-B1 and IV-B ("SiMA").

    Leaves, resumes and raises as :func:`fit_cp` does.
    """
    if _loop.is_finished(context):
        return
    _loop.seed_weights(context)
    network, origin = _attention_start(parameters, context)
    crops, validation = AttentionCrops(train, parameters), AttentionCrops(val, parameters)
    objective = _loop.Supervised(network, attention_loss(parameters.loss_weights))
    _loop.Training("attention", objective, crops, validation, parameters, context, origin).run()


def _attention_start(parameters: AttentionTrain, context: Context) -> tuple[nn.Module, str]:
    """Return the network to train and where its weights started; a resumed training has them in its state."""
    resumed = _loop.resumed_origin(context)
    wants_imagenet = parameters.init == "imagenet" and resumed is None
    network, origin = _networks.attention_network(parameters.encoder, len(parameters.loss_weights), wants_imagenet)
    if resumed is not None:
        return network, resumed
    if parameters.init not in ("imagenet", "random"):
        return network, _weights.start_from(Path(parameters.init), network, context)
    if wants_imagenet and origin == "random":
        context.warn(f"the ImageNet weights of {parameters.encoder} could not be had; it starts at random")
    return network, origin


def fit_size(
    parameters: SizeTrain, cp: CpTrain, train: Sequence[Sample], val: Sequence[Sample], context: Context
) -> None:
    """Fit Cellpose's regression from the style of an image to the logarithm of its mean crystal diameter.

    The steps are those of ``cellpose.train.train_size`` (version 3.1), which itself takes networks with 256
    style channels only and draws from the global generator. The diameter is the mean that training scales
    by, not the library's median. Reads ``context.checkpoints["cp"]``; leaves ``checkpoint.safetensors`` with
    ``A`` and ``smean`` (one value a style channel), ``ymean`` and ``diam_mean`` (one value), float64, as
    ``cellpose.models.SizeModel.params`` has them.

    Raises
    ------
    DataError
        Where no image shows a crystal.
    """
    torch.set_num_threads(context.threads)
    network = _weights.load_checkpoint(context.checkpoints["cp"], _networks.cp_network(cp.width))
    network.to(context.device)
    context.initial_weights("random")
    sized = [(sample, mean_diameter(label)) for sample, label in _with_crystals(train)]
    if not sized:
        raise DataError(_loop.NO_CRYSTALS)
    styles, sizes = _styles(parameters, network, sized, context)
    y = np.log(sizes / cp.diameter)
    centred = styles - styles.mean(axis=0)
    ridge = centred.T @ centred + parameters.l2 * np.eye(styles.shape[1])
    regression = {
        "A": np.linalg.solve(ridge, centred.T @ (y - y.mean())),
        "smean": styles.mean(axis=0),
        "ymean": y.mean(keepdims=True),
        "diam_mean": np.array([cp.diameter]),
    }
    write_atomic(context.folder / _loop.CHECKPOINT, safetensors.numpy.save(regression))


@torch.inference_mode()
def _styles(
    parameters: SizeTrain, network: nn.Module, sized: Sequence[tuple[Sample, float]], context: Context
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the style of every crop (n x S) and its image's mean crystal diameter at the crop's scale (n)."""
    styles: list[NDArray[np.float32]] = []
    sizes: list[float] = []
    batches = np.array_split(np.arange(len(sized)), math.ceil(len(sized) / parameters.batch_size))
    for epoch in range(parameters.epochs):
        for number, batch in enumerate(batches, epoch * len(batches)):
            crops = [_sized_crop(parameters, sized[i], (context.seed, epoch, int(i))) for i in batch]
            images = torch.from_numpy(np.stack([image for image, _ in crops]))
            styles.append(network(images.to(context.device))[1].cpu().numpy())
            sizes.extend(size for _, size in crops)
            context.report(number + 1, parameters.epochs * len(batches))
    return np.concatenate(styles).astype(np.float64), np.array(sizes)


def _sized_crop(
    parameters: SizeTrain, sized: tuple[Sample, float], seed: Sequence[int]
) -> tuple[NDArray[np.float32], float]:
    image, side = sized[0].image, parameters.input_size
    rng = np.random.default_rng(seed)
    matrix = _augmentation.random_warp(rng, image.shape[:2], side, parameters.scale_range)
    crop = _augmentation.normalize(_augmentation.warp_image(image, matrix, side))
    return crop, sized[1] * _augmentation.scale_of(matrix)
