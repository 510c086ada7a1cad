"""Query models of transformers: how they are built, where their weights come from, and how they are asked."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from huggingface_hub import model_info
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig, SwinConfig

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import path_sha256
from crystalbench.segmenter import Image

from . import _augmentation, _weights, _windows
from ._loop import Objective
from ._queries import Answer
from ._query_parameters import QueryTrain

if TYPE_CHECKING:
    from crystalbench.segmenter import Context

CLASSES = 1
"""Crystals; "no object" comes on top of it."""

LOWEST_LOGIT = -2.2
"""Below the logit of every ``mask_threshold``: a query that nowhere reaches it is never a crystal."""

Model = Any
"""A model of transformers; what these are made of has no useful types."""

Shown = tuple[_windows.Window, NDArray[np.uint8], tuple[float, float]]
"""A window of an image, the network's input for it (side x side x 3), and input pixels per image pixel."""


@dataclass(frozen=True)
class Library:
    """What one of the models is built from.

    Attributes
    ----------
    hub
        Name of the paper's checkpoint.
    model
        The class of transformers.
    config
        From training parameters to its configuration, in the form for training or for prediction.
    wrap
        From the model to the network: images (B x 3 x side x side) in, the library's output out.
    objective
        From the model in its form for training to what it is trained to.
    """

    hub: str
    model: Any
    config: Callable[[Any, bool], PreTrainedConfig]
    wrap: Callable[[Model], nn.Module]
    objective: Callable[[Model, Any], Objective]

    def network(self, parameters: QueryTrain) -> nn.Module:
        """Return the network for prediction, with random weights."""
        return self.wrap(self.model(self.config(parameters, False)))

    def initial(self, parameters: QueryTrain, context: Context) -> tuple[Model, str]:
        """Return the model for training, and where its weights come from.

        Raises
        ------
        ConfigurationError
            Where ``init`` names nothing that can be read, or weights of another network.
        DataError
            Where reading the weights could run code.
        """
        config = self.config(parameters, True)
        if parameters.init == "ade20k":
            return self._published(config, context)
        if parameters.init == "random":
            return self._random(config), "random"
        return self._given(Path(parameters.init), config, context)

    def _given(self, path: Path, config: PreTrainedConfig, context: Context) -> tuple[Model, str]:
        if not path.exists():
            raise ConfigurationError(f"init is {str(path)!r}, which is no file or folder of weights")
        origin, path = f"file:{path_sha256(path)[:12]}", _trusted(path, context)
        if path.is_file():
            weights = _weights.read_weights(path, context.unpickle)
            return self._pretrained(path, config, context, state_dict=weights), origin
        try:
            return self._pretrained(path, config, context), origin
        except OSError as error:
            raise ConfigurationError(f"init is {str(path)!r}, from which no weights can be read: {error}") from error

    def _published(self, config: PreTrainedConfig, context: Context) -> tuple[Model, str]:
        try:
            # The library asks for each of several files five times before it looks for those of an earlier download.
            offline = not _is_reachable(self.hub)
            return self._pretrained(self.hub, config, context, local_files_only=offline), "ade20k"
        except (ConfigurationError, DataError):
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            context.warn(f"the weights of {self.hub} could not be had; it starts at random ({reason})")
            return self._random(config), "random"

    def _random(self, config: PreTrainedConfig) -> Model:
        model = self.model(config)
        # The library draws them with a deviation of 0.02, and all queries stay alike; that of the authors' code is 1.
        nn.init.normal_(model.get_submodule("model.transformer_module.queries_embedder").weight)
        return model

    def _pretrained(
        self,
        source: Path | str,
        config: PreTrainedConfig,
        context: Context,
        state_dict: dict[str, Tensor] | None = None,
        local_files_only: bool = True,
    ) -> Model:
        try:
            model, found = self.model.from_pretrained(
                None if state_dict else source,
                config=config,
                state_dict=state_dict,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
                local_files_only=local_files_only,
            )
        except pickle.UnpicklingError as error:
            raise DataError(
                f"{source} holds more than tensors, and reading it could run code that it brings: ask for a "
                "safetensors file, or give --unpickle-weights if you trust it"
            ) from error
        missing, surplus = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
        misshapen = sorted(name for name, *_ in found["mismatched_keys"])
        lost = len(missing) + len(misshapen)
        if 2 * lost > len(model.state_dict()):
            raise ConfigurationError(
                f"{source} holds weights of another network: {lost} tensors of this one do not fit"
            )
        _weights.report_misfits(Path(source), context, missing, surplus, misshapen)
        return model


def _trusted(path: Path, context: Context) -> Path:
    """Return the file of a folder that the user lets be unpickled; transformers 5.23 refuses, whatever it is told."""
    file = path / "pytorch_model.bin"
    return file if context.unpickle and file.is_file() and not any(path.glob("*.safetensors")) else path


def _is_reachable(hub: str) -> bool:
    # What a failed request raises differs between versions of the hub's client and of its HTTP library.
    try:
        model_info(hub, timeout=10)
    except Exception:
        return False
    return True


def swin(parameters: QueryTrain) -> SwinConfig:
    """Return the configuration of the backbone."""
    return SwinConfig(
        image_size=parameters.input_size,
        embed_dim=parameters.embed_dim,
        depths=list(parameters.depths),
        num_heads=list(parameters.heads),
        window_size=parameters.window,
        drop_path_rate=parameters.drop_path,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def whole(image: Image, side: int) -> Iterator[Shown]:
    """Yield an image (H x W x 3), resized so that its longer side is ``side``, and padded below and right."""
    height, width = image.shape[:2]
    shape = fitting_shape((height, width), side)
    window = (slice(0, height), slice(0, width))
    resized = resize(image, shape)
    yield window, _windows.cut(resized, (slice(0, side), slice(0, side)), side), (shape[0] / height, shape[1] / width)


def overlapping(image: Image, side: int) -> Iterator[Shown]:
    """Yield the windows of ``side`` px of an image (H x W x 3), which overlap by half."""
    for window in _windows.windows((image.shape[0], image.shape[1]), side, side // 2):
        yield window, _windows.cut(image, window, side), (1.0, 1.0)


def fitting_shape(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return height and width of an image resized so that its longer side is ``side``; at least 1 px."""
    factor = side / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize(image: Image, shape: tuple[int, int]) -> Image:
    """Resize H x W x 3 to ``shape``: mean over areas where it shrinks, bilinear where it grows."""
    method = cv2.INTER_AREA if shape[0] * shape[1] < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=method), np.uint8)


@torch.inference_mode()
def ask(network: nn.Module, shown: Sequence[Shown], batch_size: int, device: str) -> Iterator[Answer]:
    """Yield the network's answer for each window."""
    for first in range(0, len(shown), batch_size):
        batch = shown[first : first + batch_size]
        images = torch.from_numpy(np.stack([_augmentation.normalize(pixels) for _, pixels, _ in batch]))
        output = network(images.to(device))
        scores = output.class_queries_logits.softmax(-1)[..., :CLASSES].squeeze(-1)
        stride = images.shape[-1] / output.masks_queries_logits.shape[-1]
        for (window, _, scale), *answer in zip(batch, scores, output.masks_queries_logits, strict=True):
            yield _answer(window, (scale[0] / stride, scale[1] / stride), *answer)


def _answer(window: _windows.Window, cells: tuple[float, float], scores: Tensor, logits: Tensor) -> Answer:
    """Keep what a threshold can need: not the padding, nor queries without a mask."""
    rows, columns = (int(np.ceil((w.stop - w.start) * c - 1e-6)) for w, c in zip(window, cells, strict=True))
    inside = logits[:, :rows, :columns]
    kept = inside.amax((1, 2)) > LOWEST_LOGIT
    return Answer(window, cells, scores[kept].float().cpu().numpy(), inside[kept].half().cpu().numpy())
