"""RTMDet-Ins, a one-stage instance segmentation network, as mmdetection has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from crystalbench.segmenter import Component, Context, Image, Labels, Parameters, Segmenter

from ._parameters import ScaleRange, ScheduleTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample

LOWEST_SCORE = 0.001
"""Detections of this score or less are not kept for decoding; that of mmdetection's configuration for RTMDet."""


class RtmdetTrain(ScheduleTrain):
    """Training as in Neubauer et al. 2024, section IV-B ("RTMDet-Ins").

    Parameters
    ----------
    widen_factor, deepen_factor
        Width and depth of the network, as in mmdetection's configuration; the defaults are ``tiny``.
    input_size
        Side of the square crops, and of the input in prediction, in pixels.
    scale_range
        Random scale of the image that a crop is taken from.
    max_instances
        Of more crystals in one crop random ones are left out.
    init
        ``coco`` (the weights that mmdetection publishes), ``random``, or a file of weights.
    """

    widen_factor: PositiveFloat = 0.375
    deepen_factor: PositiveFloat = 0.167
    input_size: Annotated[int, Field(ge=64, multiple_of=32)] = 640
    epochs: PositiveInt = 200
    batch_size: PositiveInt = 16
    lr: PositiveFloat = 1e-5
    scale_range: ScaleRange = (0.75, 1.25)
    max_instances: PositiveInt = 200
    init: str = "coco"


class RtmdetInfer(Parameters):
    """What of an image the network sees: overlapping windows, or the whole resized to its input.

    Windows overlap by half; crystals of two windows are one where their IoU in what both see is over 1/2. A
    resized image keeps its aspect; its longer side becomes the input's.
    """

    mode: Literal["windows", "resized"] = "windows"


class RtmdetDecode(Parameters):
    """Thresholds; the defaults are those of section IV-B.

    Attributes
    ----------
    score_threshold
        Detections of this score or less are dropped; not under ``LOWEST_SCORE``.
    nms_iou_threshold
        Of two boxes whose IoU is higher, that of the lower score is dropped.
    mask_threshold
        Probability over which a pixel belongs to a crystal.
    min_size
        Crystals of fewer pixels are dropped.
    """

    score_threshold: float = Field(0.3, ge=LOWEST_SCORE, le=1)
    nms_iou_threshold: float = Field(0.2, ge=0, le=1)
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    min_size: int = Field(15, ge=0)


class Rtmdet(Segmenter):
    """Lyu et al. 2022 (RTMDet), trained with mmengine's Runner."""

    components = (Component("rtmdet", RtmdetTrain),)
    Infer = RtmdetInfer
    Decode = RtmdetDecode

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train the network."""
        from . import _mmcv

        _mmcv.provide_nms()
        from . import _rtmdet_training

        _rtmdet_training.fit(self.train["rtmdet"], train, context)

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read the network's checkpoint."""
        from . import _mmcv

        _mmcv.provide_nms()
        from . import _rtmdet_network, _weights

        super().load(checkpoints, device)
        network = _rtmdet_network.build(self.train["rtmdet"])
        self._network = _weights.load_checkpoint(checkpoints["rtmdet"], network).to(device)

    def infer(self, image: Image) -> Any:
        """Return what the network finds in each window of an image, a :class:`_rtmdet_decoding.Raw`."""
        from . import _rtmdet_network
        from ._rtmdet_decoding import Raw

        side, mode = self.train["rtmdet"].input_size, self.infer_parameters.mode
        with self.stage("rtmdet"):
            found = tuple(
                _rtmdet_network.detect(self._network, view, LOWEST_SCORE)
                for view in _rtmdet_network.VIEWS[mode](image, side)
            )
        return Raw((image.shape[0], image.shape[1]), found)

    def decode(self, raw: Any, parameters: RtmdetDecode) -> Labels:
        """Turn detections into H x W int32 labels."""
        from . import _mmcv

        _mmcv.provide_nms()
        from . import _rtmdet_decoding

        with self.stage("post-processing"):
            return _rtmdet_decoding.decode(raw, parameters)
