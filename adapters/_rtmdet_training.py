"""Training RTMDet-Ins with mmengine's Runner.

:func:`crystalbench.adapters._mmcv.provide_nms` must have been called before this is imported.
"""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import CheckpointLoader, Runner
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from crystalbench._exceptions import ConfigurationError, DataError

from . import _augmentation, _loop, _rtmdet_network, _weights

if TYPE_CHECKING:
    from crystalbench.data import Sample
    from crystalbench.segmenter import Context

    from .rtmdet import RtmdetTrain

STATE = "state.pth"
"""Name of the file that a training is resumed from."""

FIRST_RATE = 1e-5
"""Share of the rate that the warm-up begins with: mmengine's multiplies, and would never leave zero."""

EMA = {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": 0.0002, "update_buffers": True, "priority": 49}
"""The running average of the weights in mmdetection's configuration; it is what the training ends with."""

Item = dict[str, Any]
"""One crop as mmdetection has it: ``inputs`` (3 x side x side uint8, BGR) and ``data_samples``."""


class CrystalCrops(Dataset[Item]):
    """Random crops of micrographs with their crystals as masks.

    An index is ``epoch * len(self) + crop``, so that a crop depends on seed, epoch and its number alone,
    whichever thread draws it.
    """

    def __init__(self, samples: Sequence[Sample], parameters: RtmdetTrain, seed: int) -> None:
        self.parameters = parameters
        self.seed = seed
        self.metainfo = {"classes": ("crystal",)}
        shown = [(sample.image, label) for sample in samples if (label := sample.label).any()]
        self.images = [image for image, _ in shown]
        self.labels = [label for _, label in shown]

    def __len__(self) -> int:
        """Return the number of crops of an epoch."""
        return len(self.images) * self.parameters.crops_per_image

    def __getitem__(self, index: int) -> Item:
        """Draw one crop."""
        epoch, crop = divmod(index, len(self))
        rng = np.random.default_rng([self.seed, epoch, crop])
        image, label = self._draw(crop % len(self.images), rng)
        masks = instance_masks(label, self.parameters.max_instances, rng)
        return {"inputs": _rtmdet_network.to_input(image), "data_samples": data_sample(masks, label.shape)}

    def _draw(self, number: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        image, side = self.images[number], self.parameters.input_size
        matrix = _augmentation.random_warp(rng, image.shape[:2], side, self.parameters.scale_range)
        crop = _augmentation.warp_image(image, matrix, side)
        lit = _augmentation.random_light(rng, crop, self.parameters.brightness, self.parameters.contrast)
        return lit, _augmentation.warp_labels(self.labels[number], matrix, side)


def instance_masks(label: NDArray[np.int32], most: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the crystals of a label map (H x W) as masks, n x H x W; of more than ``most`` a random choice."""
    crystals = np.unique(label[label > 0])
    if len(crystals) > most:
        crystals = np.sort(rng.choice(crystals, most, replace=False))
    return np.asarray(label == crystals[:, None, None], np.uint8)


def data_sample(masks: NDArray[np.uint8], shape: tuple[int, ...]) -> DetDataSample:
    """Return the truth of one image (H x W) from its masks (n x H x W), as mmdetection has it."""
    height, width = shape
    bitmaps = BitmapMasks(masks, height, width)
    boxes = bitmaps.get_bboxes("hbox").tensor
    labels = torch.zeros(len(masks), dtype=torch.long)
    sample = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=bitmaps)
    return sample


class EpochSampler(Sampler[int]):
    """The crops of one epoch in random order. mmengine tells the epoch through ``set_epoch``."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go on with an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of crops of an epoch."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Yield ``epoch * count + crop``."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        yield from (self.epoch * self.count + order).tolist()


class CropLoader(DataLoader[Item]):
    """Draws crops in threads.

    PyTorch's own loader has processes for that: copies of one that uses a GPU, which outlive the training.
    """

    def __init__(self, crops: CrystalCrops, batch_size: int, threads: int) -> None:
        super().__init__(crops, batch_size, sampler=EpochSampler(len(crops), crops.seed))
        self.threads = threads
        self.ahead = _loop.Ahead()

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        """Yield the batches of an epoch."""
        places: Any = self.batch_sampler
        with ThreadPoolExecutor(self.threads) as pool:
            yield from self.ahead.batches(pool, self.dataset.__getitem__, places, pseudo_collate)


class ReportHook(Hook):  # type: ignore[misc]
    """Tells the context of every step, and stops where the loss is no longer finite."""

    def __init__(self, context: Context, lr: float) -> None:
        self.context = context
        self.lr = lr

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Tensor] | None = None
    ) -> None:
        """Report the step that was just made."""
        loss = (outputs or {})["loss"].item()
        if not math.isfinite(loss):
            raise ConfigurationError(
                f"the training of rtmdet diverged (loss {loss}) with train.rtmdet.lr={self.lr:g}; "
                f"set a lower one, such as {self.lr / 10:g}"
            )
        self.context.report(runner.iter + 1, runner.max_iters, loss=loss, lr=runner.optim_wrapper.get_lr()["lr"][0])


class StateHook(Hook):  # type: ignore[misc]
    """Keeps a checkpoint to resume from, every few seconds at the end of an epoch.

    mmengine's own hook removes the old one first and writes the new one in place, which a kill would break.
    """

    priority = "VERY_LOW"

    def __init__(self, path: Path, origin: str) -> None:
        self.path = path
        self.origin = origin
        self.due = time.monotonic() + _loop.STATE_EVERY

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the checkpoint beside the old one, and rename it."""
        start = time.monotonic()
        if start < self.due:
            return
        part = self.path.with_suffix(".part")
        runner.save_checkpoint(str(part.parent), part.name, meta={"origin": self.origin})
        part.replace(self.path)
        end = time.monotonic()
        self.due = end + max(_loop.STATE_EVERY, (end - start) / _loop.STATE_SHARE)


class DeviceRunner(Runner):  # type: ignore[misc]
    """A Runner on a device of our choice, where mmengine would take a GPU wherever there is one."""

    def __init__(self, device: str, **settings: Any) -> None:
        self.device = device
        super().__init__(**settings)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Move the network to the device."""
        return model.to(self.device)


def fit(parameters: RtmdetTrain, train: Sequence[Sample], context: Context) -> None:
    """Train RTMDet-Ins as in Neubauer et al. 2024, section IV-B.

    Leaves ``checkpoint.safetensors`` in ``context.folder``. May be killed and called again: it goes on after
    the last saved epoch and ends with bitwise the same weights (on a CPU, with as many threads).

    Raises
    ------
    DataError
        Where no image shows a crystal.
    ConfigurationError
        Where the loss is no longer finite, or ``init`` does not fit.
    """
    folder = context.folder / "mmengine"
    if _loop.is_finished(context):
        shutil.rmtree(folder, ignore_errors=True)
        return
    crops = CrystalCrops(train, parameters, context.seed)
    if not len(crops):
        raise DataError(_loop.NO_CRYSTALS)
    torch.set_num_threads(context.threads)
    network, origin = _first_weights(parameters, folder / STATE, context)
    context.initial_weights(origin)
    runner = build_runner(network, crops, parameters, folder, context)
    runner.register_hook(StateHook(folder / STATE, origin))
    start = time.monotonic()
    runner.train()
    runner.train_dataloader.ahead.print_waiting(time.monotonic() - start)
    runner.visualizer.close()
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
    average.register_state_dict_post_hook(_separate)
    _weights.save_checkpoint(context.folder / _loop.CHECKPOINT, average, origin)
    shutil.rmtree(folder)


def _first_weights(parameters: RtmdetTrain, state: Path, context: Context) -> tuple[nn.Module, str]:
    """Return the network to begin with, and where its weights come from."""
    # Before it is built: init_weights() leaves some layers as they were drawn then.
    _loop.seed_weights(context)
    network = _rtmdet_network.build(parameters)
    if state.is_file():
        return network, CheckpointLoader.load_checkpoint(str(state), "cpu")["meta"]["origin"]
    return network, _rtmdet_network.initialise(network, parameters.init, context)


def _separate(_: nn.Module, weights: dict[str, Tensor], *__: object) -> None:
    """Give each name a tensor of its own: the levels of the head share theirs, which safetensors does not take."""
    weights.update({name: value.clone() for name, value in weights.items()})


def build_runner(
    network: nn.Module, crops: CrystalCrops, parameters: RtmdetTrain, folder: Path, context: Context
) -> DeviceRunner:
    """Return a Runner that goes on from the state in ``folder``, if there is one."""
    loader = CropLoader(crops, parameters.batch_size, context.threads)
    state = folder / STATE
    return DeviceRunner(
        context.device,
        model=network,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": parameters.epochs},
        optim_wrapper=_optimizer(parameters),
        param_scheduler=_schedule(parameters, len(loader)),
        default_hooks={"checkpoint": None, "logger": {"type": "LoggerHook", "interval": 1}},
        custom_hooks=[EMA, ReportHook(context, parameters.lr)],
        log_processor={"window_size": 1},
        log_level="ERROR",
        visualizer=_board(context.folder / "tensorboard"),
        load_from=str(state) if state.is_file() else None,
        resume=state.is_file(),
        default_scope="mmdet",
        randomness={"seed": context.seed},
        # mmengine keeps loggers and boards by this name for as long as the process lives.
        experiment_name=uuid.uuid4().hex,
    )


def _optimizer(parameters: RtmdetTrain) -> dict[str, Any]:
    kinds = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
    optimizer = {"type": kinds[parameters.optimizer], "lr": parameters.lr, "weight_decay": parameters.weight_decay}
    own = {"momentum": parameters.momentum} if parameters.optimizer == "sgd" else {"fused": True}
    # As in mmdetection's configuration; the head's levels share weights.
    decay = {"norm_decay_mult": 0, "bias_decay_mult": 0, "bypass_duplicate": True}
    return {"type": "OptimWrapper", "optimizer": {**optimizer, **own}, "paramwise_cfg": decay}


def _schedule(parameters: RtmdetTrain, batches: int) -> list[dict[str, Any]]:
    """Return the rates by step: linear from about zero, then half a cosine to zero (section IV-B)."""
    total, warmup = parameters.epochs * batches, round(parameters.warmup_epochs * batches)
    parts = []
    if warmup:
        # mmengine reaches the rate one step before the end.
        parts.append({"type": "LinearLR", "start_factor": FIRST_RATE, "by_epoch": False, "end": warmup + 1})
    if warmup < total:
        cosine = {"type": "CosineAnnealingLR", "eta_min": 0.0, "T_max": total - warmup}
        parts.append({**cosine, "by_epoch": False, "begin": warmup, "end": total})
    return parts


def _board(folder: Path) -> dict[str, Any]:
    return {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend", "save_dir": str(folder)}]}
