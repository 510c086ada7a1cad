"""The training loop of the flow methods, and what it is run on."""

from __future__ import annotations

import io
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import write_atomic

from . import _augmentation, _networks, _targets, _tiling
from ._parameters import AttentionTrain, CpTrain, ScheduleTrain, SizeTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample
    from crystalbench.segmenter import Context

MAX_ENLARGEMENT = 4.0
"""Most that an image of small crystals is enlarged to reach the diameter d."""

MAX_SIDE = 2048
"""Longest side, in pixels, that an image is enlarged to."""

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file that a finished training leaves."""

STATE = "state.pt"
"""Name of the file that a training is resumed from."""

STATE_EVERY = 5.0
"""Least seconds between two states for resuming."""

VALIDATIONS = 20
"""How often, about, a training looks at the validation images."""

NO_CRYSTALS = "no training image shows a crystal; give a data set whose training split has labelled crystals"

Crop = tuple[NDArray[np.float32], NDArray[np.float32]]
"""One input (3 x side x side) and its target (C x side x side)."""

Loss = Callable[[Tensor, Tensor], Tensor]


def mean_diameter(labels: NDArray[np.int32]) -> float:
    """Return the mean over crystals of ``2 sqrt(area / pi)``, in pixels."""
    areas = np.unique(labels[labels > 0], return_counts=True)[1]
    return float(np.mean(2 * np.sqrt(areas / np.pi)))


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Return the rate of one optimizer step: linear from zero, then half a cosine to zero (section IV-B)."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


class Crops(ABC):
    """Images that random crops are drawn from."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def draw(self, image: int, rng: np.random.Generator) -> Crop:
        """Draw one crop of an image; all chance comes from ``rng``."""


class CpCrops(Crops):
    """Crops for the flow network: images scaled to one mean crystal diameter, with their flows.

    An image is enlarged at most 4 times, and to at most 2048 px.

    Parameters
    ----------
    folder
        Flows are kept here, so that a resumed training does not compute them again.
    """

    def __init__(self, samples: Sequence[Sample], parameters: CpTrain, folder: Path, threads: int) -> None:
        self.parameters = parameters
        self.images: list[NDArray[np.uint8]] = []
        self.foregrounds: list[NDArray[np.uint8]] = []
        self.flows: list[NDArray[np.float32]] = []
        for sample, label in _with_crystals(samples):
            factor = _scale_to(label, parameters.diameter)
            label = _resize_labels(label, factor)
            self.images.append(_resize_image(sample.image, label))
            self.foregrounds.append((label > 0).astype(np.uint8))
            self.flows.append(_cached_flow(folder / f"{len(self.flows)}.npy", label, threads))

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, image: int, rng: np.random.Generator) -> Crop:
        """Return the lit crop and (foreground, dy, dx)."""
        side, pixels = self.parameters.input_size, self.images[image]
        matrix = _augmentation.random_warp(rng, pixels.shape[:2], side, self.parameters.scale_range)
        target = _augmentation.warp_flow(self.flows[image], self.foregrounds[image], matrix, side)
        return _lit(pixels, matrix, side, self.parameters, rng), target


class AttentionCrops(Crops):
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

    def draw(self, image: int, rng: np.random.Generator) -> Crop:
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
    return _tiling.resize(image, height, width, cv2.INTER_AREA)


def _cached_flow(path: Path, label: NDArray[np.int32], threads: int) -> NDArray[np.float32]:
    if not path.is_file():
        buffer = io.BytesIO()
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


def attention_loss(weights: Sequence[float]) -> Loss:
    """Return the weighted mean over maps of their binary cross-entropies (section IV-B, SiMA)."""
    shares = torch.tensor(weights, dtype=torch.float32) / sum(weights)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        entropy = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        return (entropy.mean((0, 2, 3)) * shares.to(output.device)).sum()

    return loss


@dataclass
class Training:
    """One network on its way from initial weights to a checkpoint.

    Parameters
    ----------
    forward
        From a batch (B x 3 x side x side) to what ``loss`` compares with the targets.
    """

    component: str
    network: nn.Module
    forward: Callable[[Tensor], Tensor]
    loss: Loss
    crops: Crops
    validation: Crops
    parameters: ScheduleTrain
    context: Context
    origin: str

    def __post_init__(self) -> None:
        if not len(self.crops):
            raise DataError(NO_CRYSTALS)
        torch.set_num_threads(self.context.threads)
        self.network.to(self.context.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.network, self.parameters)
        self.batches = math.ceil(len(self.crops) * self.parameters.crops_per_image / self.parameters.batch_size)
        self.total = self.batches * self.parameters.epochs
        self.warmup = round(self.batches * self.parameters.warmup_epochs)

    def run(self) -> None:
        """Train what is left, leave the checkpoint, remove the state."""
        first = self._resume()
        self.context.initial_weights(self.origin)
        saved = time.monotonic()
        board = SummaryWriter(str(self.context.folder / "tensorboard"), purge_step=first * self.batches)
        with board, ThreadPoolExecutor(self.context.threads) as pool:
            for epoch in range(first, self.parameters.epochs):
                self._epoch(epoch, board, pool)
                if time.monotonic() - saved > STATE_EVERY:
                    self._save(epoch + 1)
                    saved = time.monotonic()
        self._finish()

    def _epoch(self, epoch: int, board: SummaryWriter, pool: ThreadPoolExecutor) -> None:
        torch.manual_seed(_torch_seed(self.context.seed, epoch))
        self.network.train()
        for number, (images, targets) in enumerate(self._batches(epoch, pool), epoch * self.batches):
            rate = learning_rate(number, self.total, self.warmup, self.parameters.lr)
            loss = self._step(images, targets, rate)
            board.add_scalar("loss/train", loss, number)
            board.add_scalar("lr", rate, number)
            self.context.report(number + 1, self.total, loss=loss, lr=rate)
        if len(self.validation) and (epoch + 1) % max(1, self.parameters.epochs // VALIDATIONS) == 0:
            board.add_scalar("loss/val", self._validation_loss(), (epoch + 1) * self.batches)

    def _step(self, images: Tensor, targets: Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(self.forward(images), targets)
        value = loss.item()
        if not math.isfinite(value):
            raise ConfigurationError(
                f"the training of {self.component} diverged (loss {value}) with train.{self.component}.lr="
                f"{self.parameters.lr:g}; set a lower one, such as {self.parameters.lr / 10:g}"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _batches(self, epoch: int, pool: ThreadPoolExecutor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch; the next one is drawn while the network learns from this one."""
        count = len(self.crops) * self.parameters.crops_per_image
        order = np.random.default_rng([self.context.seed, epoch]).permutation(count)

        def draw(index: int) -> Crop:
            rng = np.random.default_rng([self.context.seed, epoch, index])
            return self.crops.draw(index % len(self.crops), rng)

        waiting: list[Future[Crop]] = []
        for indices in [*np.array_split(order, self.batches), order[:0]]:
            following = [pool.submit(draw, int(index)) for index in indices]
            if waiting:
                yield self._stack([future.result() for future in waiting])
            waiting = following

    def _stack(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        images, targets = (torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True))
        return self._move(images.contiguous(memory_format=torch.channels_last)), self._move(targets)

    def _move(self, tensor: Tensor) -> Tensor:
        if self.context.device.startswith("cuda"):
            tensor = tensor.pin_memory()
        return tensor.to(self.context.device, non_blocking=True)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Return the mean loss over one crop of each validation image, the same ones every time."""
        self.network.eval()
        losses = []
        for image in range(len(self.validation)):
            crop = self.validation.draw(image, np.random.default_rng([self.context.seed, image]))
            images, targets = self._stack([crop])
            losses.append(self.loss(self.forward(images), targets).item())
        return float(np.mean(losses))

    def _save(self, epoch: int) -> None:
        state = {
            "epoch": epoch,
            "origin": self.origin,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.context.folder / STATE, buffer.getvalue())

    def _resume(self) -> int:
        """Take up the last state, if there is one, and return the epoch to go on with."""
        state = _read_state(self.context)
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["epoch"])

    def _finish(self) -> None:
        path = self.context.folder / CHECKPOINT
        _networks.save_checkpoint(path, self.network, self.origin)
        (self.context.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.context.folder / "targets", ignore_errors=True)


def _read_state(context: Context) -> dict[str, Any] | None:
    path = context.folder / STATE
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location=context.device, weights_only=True)
    return state


def _is_finished(context: Context) -> bool:
    """Say whether the checkpoint is there: a kill may come between it and the record of the training."""
    path = context.folder / CHECKPOINT
    if not path.is_file():
        return False
    with safetensors.safe_open(path, "numpy") as file:
        context.initial_weights(file.metadata()["origin"])
    return True


def _torch_seed(seed: int, epoch: int) -> int:
    return int(np.random.default_rng([seed, epoch]).integers(2**63))


def _optimizer(network: nn.Module, parameters: ScheduleTrain) -> torch.optim.Optimizer:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    decay = parameters.weight_decay
    if parameters.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=parameters.lr, momentum=parameters.momentum, weight_decay=decay)
    kind = torch.optim.Adam if parameters.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=parameters.lr, weight_decay=decay, fused=True)


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
    if _is_finished(context):
        return
    torch.manual_seed(_torch_seed(context.seed, 0))
    network = _networks.cp_network(parameters.width)
    # The library keeps d among the weights, and its SizeModel reads it there.
    network.diam_mean.data.fill_(parameters.diameter)
    from_file = parameters.init != "random"
    origin = _networks.load_initial(Path(parameters.init), network) if from_file else "random"
    targets = context.folder / "targets"
    crops = CpCrops(train, parameters, targets / "train", context.threads)
    validation = CpCrops(val, parameters, targets / "val", context.threads)
    training = Training("cp", network, lambda x: network(x)[0], cp_loss, crops, validation, parameters, context, origin)
    training.run()


def fit_attention(parameters: AttentionTrain, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
    """Train the attention network of Neubauer et al. 2024, sections III-B1 and IV-B ("SiMA").

    Leaves, resumes and raises as :func:`fit_cp` does.
    """
    if _is_finished(context):
        return
    torch.manual_seed(_torch_seed(context.seed, 0))
    state = _read_state(context)
    init = "random" if state else parameters.init
    network, origin = _networks.attention_network(parameters.encoder, len(parameters.loss_weights), init)
    origin = state["origin"] if state else origin
    if parameters.init == "imagenet" and origin == "random":
        context.warn(f"the ImageNet weights of {parameters.encoder} could not be had; it starts at random")
    crops, validation = AttentionCrops(train, parameters), AttentionCrops(val, parameters)
    loss = attention_loss(parameters.loss_weights)
    training = Training("attention", network, network, loss, crops, validation, parameters, context, origin)
    training.run()


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
    network = _networks.load_checkpoint(context.checkpoints["cp"], _networks.cp_network(cp.width))
    network.to(context.device)
    context.initial_weights("random")
    sized = [(sample, mean_diameter(label)) for sample, label in _with_crystals(train)]
    if not sized:
        raise DataError(NO_CRYSTALS)
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
    write_atomic(context.folder / CHECKPOINT, safetensors.numpy.save(regression))


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
