"""What the trainings of the flow methods can be told; imports no network library.

Defaults are those of Neubauer et al. 2024, section IV-B; where it says nothing, those of Cellpose 3.1.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from crystalbench.segmenter import Parameters


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"a range is (lowest, highest), not {value}")
    return value


def _scales(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] <= 0:
        raise ValueError(f"a scale must be positive, not {value[0]}")
    return _ordered(value)


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
ScaleRange = Annotated[tuple[float, float], AfterValidator(_scales)]
InputSize = Annotated[int, Field(ge=32, multiple_of=16)]


class ScheduleTrain(Parameters):
    """How a network is trained, whichever it is.

    Parameters
    ----------
    epochs, batch_size
        An epoch shows ``crops_per_image`` random crops of every image, in batches of at most ``batch_size``.
    lr
        Peak learning rate: reached linearly from zero over ``warmup_epochs``, then a cosine down to zero.
    optimizer, weight_decay, momentum
        ``momentum`` concerns ``sgd`` alone.
    brightness, contrast
        Ranges of random changes: contrast c and brightness b make ``(1 + c) image + 255 b``.
    init
        ``random``, or a file of weights (safetensors, or a PyTorch file of tensors alone).
    """

    epochs: PositiveInt = 500
    batch_size: PositiveInt = 30
    lr: PositiveFloat
    warmup_epochs: Annotated[float, Field(ge=0)] = 10
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    crops_per_image: PositiveInt = 1
    brightness: Range = (-0.2, 0.2)
    contrast: Range = (-0.2, 0.2)
    init: str = "random"


class CpTrain(ScheduleTrain):
    """Training of the flow network.

    Parameters
    ----------
    width
        Channels of the network's levels.
    input_size
        Side of the square crops, in pixels.
    diameter
        The paper's d: every image is scaled so that its mean crystal diameter has so many pixels.
    scale_range
        Random scale on top of that.
    """

    width: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (32, 64, 128, 256)
    input_size: InputSize = 224
    diameter: PositiveFloat = 50.0
    lr: PositiveFloat = 0.1
    scale_range: ScaleRange = (0.75, 1.25)


class AttentionTrain(ScheduleTrain):
    """Training of the attention network.

    Parameters
    ----------
    encoder
        The backbone, by its name in segmentation-models-pytorch.
    input_size
        Side of the square input, in pixels.
    thresholds
        The paper's t: shares of the input's side, in decreasing order; map i holds crystals with
        ``t[i] >= length / side > t[i + 1]``.
    loss_weights
        One for each of these maps and one for the background.
    init
        ``imagenet`` (the encoder's published weights), ``random``, or a file of weights.
    """

    encoder: Literal["mit_b0", "mobilenet_v2", "resnext50_32x4d"] = "mit_b0"
    input_size: InputSize = 224
    lr: PositiveFloat = 0.01
    scale_range: ScaleRange = (0.5, 1.5)
    thresholds: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 0.5, 0.25, 0.125)
    loss_weights: tuple[PositiveFloat, ...] = (2, 4, 6, 8, 1)
    init: str = "imagenet"

    @model_validator(mode="after")
    def _one_weight_a_map(self) -> Self:
        if list(self.thresholds) != sorted(set(self.thresholds), reverse=True):
            raise ValueError(f"thresholds must decrease, not {self.thresholds}")
        if len(self.loss_weights) != len(self.thresholds) + 1:
            raise ValueError(
                f"loss_weights needs one weight for each of the {len(self.thresholds)} thresholds "
                f"and one for the background, not {len(self.loss_weights)}"
            )
        return self


class SizeTrain(Parameters):
    """Training of Cellpose's regression from the network's style to the mean crystal diameter.

    Parameters
    ----------
    input_size
        Side of the square crops, in pixels.
    epochs, batch_size
        An epoch shows one random crop of every image.
    scale_range
        Random scale of the original image.
    l2
        Weight of the ridge penalty.
    """

    input_size: InputSize = 512
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    scale_range: ScaleRange = (0.5, 1.5)
    l2: PositiveFloat = 1.0
